"""What a process that was killed had held is free once the home is opened again, and what others hold is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.services.living import DIRECTORY, Living
from rios.services.purse import Purse
from rios.services.tab import Asked, RequestTab
from rios.words.errors import LedgerUnavailable
from rios.words.money import WEI_PER_ROS
from tests.billing.make import DEMO, HOSTS
from tests.campaigns import ROOT
from tests.services.earning import purse_of
from tests.services.test_late import ended


def hold(purse: Purse) -> RequestTab:
    """A request that has begun."""
    return purse.charging.open([Asked(purse.charging.request_id(), 3, 4)], DEMO, lambda: HOSTS)[0]


def hold_and_wait(home: str) -> None:
    """In a process of its own: two requests, of which one ends while nobody can post it."""
    purse = purse_of(home=Path(home), background=False)
    hold(purse)
    done = hold(purse)
    with mock.patch.object(Ledger, "begin_settle", side_effect=LedgerUnavailable("it is away")):
        done.close(ended(done.hold_id.removeprefix("hold-")))()
        print("held", flush=True)
        sys.stdin.read()


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The home of a process that was killed in the midst of requests."""
    code = f"from tests.services.test_living import hold_and_wait; hold_and_wait({str(tmp_path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
    return tmp_path


def running(home: Path) -> list[str]:
    return sorted(path.name for path in (home / DIRECTORY).iterdir())


def test_what_a_killed_process_held_is_released_when_the_home_is_opened(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(running(killed)) == 1

    def unavailable(living: Living, ledger: Ledger, post: Callable[[], None]) -> int:
        raise LedgerUnavailable("it is away")

    with monkeypatch.context() as away:
        away.setattr(Living, "bury", unavailable)
        with purse_of(home=killed) as purse:
            assert purse.wallet.held > 0, "the network opens all the same, and the next one tries again"
    with purse_of(home=killed) as purse:
        assert purse.wallet.held == 0
        assert purse.billing.balance.wei + purse.billing.costs("user").total_wei == 10 * WEI_PER_ROS
        assert {row.resource for row in purse.billing.usage().itertuples()} >= {"tokens_in"}, "what was kept is posted"
        assert len(running(killed)) == 1, "its own file, and not that of the dead"
        # A replica's, or a gateway's with an Idempotency-Key: others look after them.
        purse.charging.open([Asked("somebody-elses", 3, 4)], DEMO, lambda: HOSTS)
        living = Living(killed)
        assert living.bury(purse.books.ledger, purse.charging.post_late) == 0
        living.close(owing=False)
        assert purse.wallet.held > 0
    assert running(killed) == []


def test_what_was_kept_while_the_home_was_opened_is_posted(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that was killed after another had read what is kept."""
    late, unread = killed / "late", killed / "unread"
    late.rename(unread)
    dead = Living._dead

    def later(living: Living) -> Iterator[tuple[Path, int]]:
        for found in dead(living):
            unread.rename(late)
            yield found

    monkeypatch.setattr(Living, "_dead", later)
    with purse_of(home=killed) as purse:
        assert purse.wallet.held == 0
        assert {row.resource for row in purse.billing.usage().itertuples()} >= {"tokens_in"}


def test_what_a_living_process_holds_stays(tmp_path: Path) -> None:
    with purse_of(home=tmp_path) as one:
        tab = hold(one)
        with purse_of(home=tmp_path) as other:
            assert other.wallet.held > 0
            hold(other).abandon()
            assert len(running(tmp_path)) == 2
        assert one.wallet.held > 0
        tab.abandon()
        assert one.wallet.held == 0
