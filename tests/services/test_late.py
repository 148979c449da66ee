"""A ledger that does not answer: prices wait for it, on disk where there is a home, and are posted once."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.billing.ledger.values import HoldState
from rios.services.charging import Charging
from rios.services.late import Late, Posting
from rios.services.tab import Asked, RequestTab
from rios.words.errors import InvalidRequest, LedgerConflict, LedgerUnavailable, RiosError
from rios.words.events import Ended
from rios.words.money import WEI_PER_ROS
from tests import waiting
from tests.billing import make
from tests.billing.make import DEMO, HOSTS
from tests.campaigns import ROOT

DEADLINE_S = 60.0
STEP = 16
TRIAL_WEI = 10 * WEI_PER_ROS


until = partial(waiting.until, deadline_s=DEADLINE_S)


def open_ledger(home: Path) -> Ledger:
    ledger = Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}", timeout_s=0.2)
    ledger.grant_trial("local", TRIAL_WEI)
    return ledger


def open_tab(charging: Charging, request_id: str, *, tokens: int = 4) -> RequestTab:
    return charging.open([Asked(request_id, 3, tokens)], DEMO, lambda: HOSTS)[0]


def ended(request_id: str, *, tokens: int = 4) -> Ended:
    """A request whose rows were computed by two hosts."""
    events = tuple(
        make.event(request_id, step, layer, host, 3 if step == 3 else 1)
        for step in range(3, 3 + tokens)
        for layer in range(4)
        for host in "ab"
    )
    return Ended(
        request_id=request_id,
        model="demo",
        trunk="a",
        tokens_in=3,
        tokens_out=tokens,
        outcome="done",
        events=events,
    )


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Somebody else writes to the ledger's file all the time."""
    connection = sqlite3.connect(home / "ledger.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def close_and_wait(home: str) -> None:
    """In a process of its own: a request ends while the ledger is locked, and nothing more happens."""
    ledger = open_ledger(Path(home))
    charging = Charging(lambda: ledger, user="local", home=Path(home))
    tab = open_tab(charging, "r")
    with locked(Path(home)):
        tab.close(ended("r"))()
        print("late", flush=True)
        sys.stdin.read()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as ledger:
        yield ledger


@pytest.fixture
def charging(ledger: Ledger, tmp_path: Path) -> Iterator[Charging]:
    charging = Charging(lambda: ledger, user="local", home=tmp_path, step_tokens=STEP)
    yield charging
    charging.close()


def files(home: Path) -> list[str]:
    return [path.suffix for path in (home / "late").glob("*")]


def posted_once(ledger: Ledger, request_id: str) -> bool:
    usage = list(ledger.usage(request_id=request_id))
    assert {row.resource for row in usage} == {"expert", "bytes", "tokens_in", "tokens_out"}
    totals = ledger.totals()
    return totals.sound and TRIAL_WEI - ledger.balance("local").wei == sum(row.amount_wei for row in usage)


def test_a_price_is_posted_when_the_ledger_answers_again(ledger: Ledger, charging: Charging, tmp_path: Path) -> None:
    tab = open_tab(charging, "r")
    with locked(tmp_path):
        tab.close(ended("r"))()
        assert files(tmp_path) == [".json"]
        with pytest.raises(LedgerUnavailable):
            open_tab(charging, "s")
    until(lambda: not files(tmp_path))
    assert posted_once(ledger, "r")
    hold = ledger.hold_of(tab.hold_id)
    assert hold is not None
    assert hold.state is HoldState.POSTED


def test_a_price_survives_the_process_that_could_not_post_it(tmp_path: Path) -> None:
    code = f"from tests.services.test_late import close_and_wait; close_and_wait({str(tmp_path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "late\n"
        process.send_signal(signal.SIGKILL)
    with open_ledger(tmp_path) as ledger:
        assert ledger.balance("local").held_wei > 0
        charging = Charging(lambda: ledger, user="local", home=tmp_path)
        until(lambda: not files(tmp_path))
        charging.close()
        assert posted_once(ledger, "r")
        assert ledger.balance("local").held_wei == 0


def test_two_that_post_the_same_post_it_once(ledger: Ledger, charging: Charging, tmp_path: Path) -> None:
    tab = open_tab(charging, "r")
    with locked(tmp_path):
        tab.close(ended("r"))()
        other = Charging(lambda: ledger, user="local", home=tmp_path)
    until(lambda: not files(tmp_path))
    other.post_late()
    charging.post_late()
    other.close()
    assert posted_once(ledger, "r")


def test_what_the_ledger_refuses_is_put_aside(ledger: Ledger, tmp_path: Path) -> None:
    """Neither a posting without a hold nor a damaged file holds the others up, and neither is lost."""
    late = Late(tmp_path / "late")
    late.keep(Posting("nobody's", "demo", ()))
    (tmp_path / "late" / "damaged.json").write_text("{")
    charging = Charging(lambda: ledger, user="local", home=tmp_path)
    until(lambda: ".refused" in files(tmp_path))
    open_tab(charging, "r").close(ended("r"))()
    charging.close()
    assert posted_once(ledger, "r")
    assert sorted(files(tmp_path)) == [".json", ".refused"]


def test_without_a_home_it_waits_in_memory(ledger: Ledger, tmp_path: Path) -> None:
    charging = Charging(lambda: ledger, user="local")
    tab = open_tab(charging, "r")
    with locked(tmp_path):
        tab.close(ended("r"))()
    charging.close()  # which tries once more
    assert posted_once(ledger, "r")
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"hold": 1}', '{"hold": "h", "deployment": "d", "records": {}}'])
def test_a_posting_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Posting.from_json(text)


def test_what_processes_that_died_held_is_released(ledger: Ledger, charging: Charging) -> None:
    ledger.hold("old", "local", 5, request_id="old", terms=charging.terms({}), expires_at=ledger.now())
    open_tab(charging, "r").abandon()
    hold = ledger.hold_of("old")
    assert hold is not None
    assert hold.state is HoldState.EXPIRED
    assert ledger.balance("local").held_wei == 0


# --- the steps of a long request ---------------------------------------------------------------------------------


class Recorded:
    """A request that does nothing but remember what its tab told it."""

    def __init__(self) -> None:
        self.ended = False
        self.paused = False
        self.allowed = 0
        self.error: RiosError | None = None

    def allow(self, tokens: int) -> None:
        self.allowed, self.paused = tokens, False

    def pause(self) -> None:
        self.paused = True

    def finish(self, reason: str) -> None:
        self.ended = True

    def abort(self, error: RiosError) -> None:
        self.error, self.ended = error, True


def test_a_stream_waits_for_a_ledger_that_does_not_answer(ledger: Ledger, charging: Charging, tmp_path: Path) -> None:
    tab, stream = open_tab(charging, "r", tokens=100), Recorded()
    assert tab.covered == STEP
    with locked(tmp_path):
        tab.extend(stream)
        assert stream.paused
    until(lambda: stream.allowed == 2 * STEP)
    assert not stream.paused
    assert [step.step for step in ledger.hold_steps(tab.hold_id)] == [0, 1]
    tab.close(ended("r", tokens=20))()
    assert posted_once(ledger, "r")


def test_a_step_whose_answer_was_lost_is_held_once(ledger: Ledger, tmp_path: Path) -> None:
    class Deaf:
        """The ledger does it and the answer does not come."""

        def __init__(self) -> None:
            self.deaf = True

        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

        def extend(self, *args: Any) -> None:
            ledger.extend(*args)
            if self.deaf:
                self.deaf = False
                raise LedgerUnavailable("no answer")

    deaf: Any = Deaf()
    charging = Charging(lambda: deaf, user="local", step_tokens=STEP)
    tab, stream = open_tab(charging, "r", tokens=100), Recorded()
    tab.extend(stream)
    until(lambda: stream.allowed == 2 * STEP)
    assert [step.step for step in ledger.hold_steps(tab.hold_id)] == [0, 1]
    tab.close(ended("r", tokens=20))()
    charging.close()
    assert posted_once(ledger, "r")


def test_a_hold_that_is_gone_ends_its_stream(ledger: Ledger, charging: Charging) -> None:
    tab, stream = open_tab(charging, "r", tokens=100), Recorded()
    ledger.release(tab.hold_id)
    with pytest.raises(LedgerConflict, match="released"):
        tab.extend(stream)
    # The same while it waits for money.
    tab, stream = open_tab(charging, "s", tokens=100), Recorded()
    ledger.hold("rest", "local", ledger.balance("local").available, request_id="rest", terms=charging.terms({}))
    tab.extend(stream)
    assert stream.paused
    ledger.release(tab.hold_id)
    until(lambda: stream.ended)
    assert isinstance(stream.error, LedgerConflict)


def test_nothing_is_held_for_a_stream_that_has_ended(ledger: Ledger, charging: Charging) -> None:
    tab, stream = open_tab(charging, "r", tokens=100), Recorded()
    tab.close(ended("r"))()
    tab.extend(stream)
    assert not stream.allowed
    assert ledger.balance("local").held_wei == 0


def test_another_account_has_its_own_money_and_the_same_postings_that_wait(ledger: Ledger, charging: Charging) -> None:
    ledger.grant_trial("ann", 5 * WEI_PER_ROS)
    open_tab(charging.of("ann"), "r").close(ended("r"))()
    assert ledger.balance("ann").wei < 5 * WEI_PER_ROS
    assert ledger.balance("local").wei == TRIAL_WEI


def test_what_is_asked_again_too_late_does_not_begin(ledger: Ledger, charging: Charging) -> None:
    """Its process was killed after the hold, which has expired: nobody would be paid for its work."""
    open_tab(charging, "r")
    ledger.expire(ledger.now() + 2 * 86_400 * 10**6)
    before = ledger.balance("local")
    with pytest.raises(LedgerConflict, match="hold-r of r has expired; ask again under another id"):
        open_tab(charging, "r")
    with pytest.raises(LedgerConflict, match="has expired"):
        charging.open([Asked("new", 3, 4), Asked("r", 3, 4)], DEMO, lambda: HOSTS)
    assert ledger.balance("local") == before, "the other one's hold is released"
    open_tab(charging, "other").close(ended("other"))()
    assert posted_once(ledger, "other")


def test_what_was_given_up_does_not_begin_again_under_its_id(ledger: Ledger, charging: Charging) -> None:
    """What it held has come back: nobody would be paid for its work."""
    open_tab(charging, "r").abandon()
    before = ledger.balance("local")
    with pytest.raises(LedgerConflict, match="hold-r of r was released; ask again under another id"):
        open_tab(charging, "r")
    assert ledger.balance("local") == before
    open_tab(charging, "done").close(ended("done"))()
    open_tab(charging, "done").close(ended("done"))()
    assert posted_once(ledger, "done"), "what was posted may come again"
