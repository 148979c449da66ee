"""Epochs on their own schedule: when they are due, that owners are paid, and that nothing ends it but `close`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rios.billing.ledger.values import EpochState
from rios.services.epochs import EpochSchedule
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable, LedgerUnavailable, NetworkClosed
from tests import waiting
from tests.services.earning import earn, owner, purse_of
from tests.services.places import place_of

ANN, BOB = owner(0xA1), owner(0xB2)
HOUR_S = 3600
HOUR_US = HOUR_S * 10**6
WINDOW_S = 600
WAIT_S = 120.0
LOG = "rios.services.epochs"


class Clock:
    """A ledger's clock that can be moved."""

    def __init__(self, purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = purse.books.ledger
        self.now_us = ledger.now()
        monkeypatch.setattr(ledger, "_clock", lambda: self.now_us)


def hourly(purse: Purse) -> EpochSchedule:
    return EpochSchedule(purse.books, purse.settlement, purse.billing.settle, interval_s=HOUR_S)


def epochs_of(purse: Purse) -> list[tuple[int, EpochState]]:
    return [(epoch.number, epoch.state) for epoch in purse.books.ledger.epochs()]


until = partial(waiting.until, deadline_s=WAIT_S)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[threading.Event]:
    """Set once the schedule has said that something failed."""
    event = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "tried again" in record.getMessage():
                event.set()

    caplog.set_level(logging.WARNING, logger=LOG)
    listener = Listener()
    logger = logging.getLogger(LOG)
    logger.addHandler(listener)
    yield event
    logger.removeHandler(listener)


def test_an_epoch_is_due_an_interval_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with purse_of(home=tmp_path, payout_min="1 wei") as purse:
        clock, schedule = Clock(purse, monkeypatch), hourly(purse)
        earn(purse, "first", {ANN: 100})
        clock.now_us += HOUR_US - 2_000_000
        assert 0 < schedule.step() <= 2
        assert epochs_of(purse) == []
        clock.now_us += 2_000_000
        assert schedule.step() == 60
        assert epochs_of(purse) == [(1, EpochState.FINAL)]
        assert purse.settlement.chain.tokens_of(ANN) == 100
        clock.now_us += HOUR_US // 2
        earn(purse, "second", {BOB: 50})
        assert purse.billing.settle() is not None  # by hand: the interval begins anew
        clock.now_us += HOUR_US // 2
        schedule.step()
        assert purse.settlement.chain.tokens_of(BOB) == 0
        now_us = clock.now_us
    with purse_of(home=tmp_path, payout_min="1 wei") as purse:
        clock, schedule = Clock(purse, monkeypatch), hourly(purse)
        clock.now_us = now_us + HOUR_US // 2
        earn(purse, "third", {BOB: 1})
        schedule.step()
        assert epochs_of(purse)[-1] == (3, EpochState.FINAL)
        assert purse.settlement.chain.tokens_of(BOB) == 51
        clock.now_us -= 24 * HOUR_US
        earn(purse, "fourth", {BOB: 1})
        schedule.step()
        assert len(epochs_of(purse)) == 3
        schedule._since -= 2 * HOUR_S
        schedule.step()
        assert len(epochs_of(purse)) == 4


def test_owners_are_paid_when_the_challenge_window_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with purse_of(challenge_window_s=WINDOW_S, payout_min="1 wei") as purse:
        clock, schedule = Clock(purse, monkeypatch), hourly(purse)
        chain = purse.settlement.chain
        earn(purse, "first", {ANN: 100})
        clock.now_us += HOUR_US
        schedule.step()
        schedule.step()
        assert (epochs_of(purse), chain.tokens_of(ANN)) == ([(1, EpochState.POSTED)], 0)
        earn(purse, "second", {ANN: 7})
        chain.advance(WINDOW_S)
        schedule.step()
        assert (epochs_of(purse), chain.tokens_of(ANN)) == ([(1, EpochState.FINAL)], 100)
        clock.now_us += HOUR_US
        schedule.step()
        chain.as_operator("challenge", "RiosSettlement", "challenge", 2, b"")
        clock.now_us += HOUR_US
        schedule.step()
        assert epochs_of(purse)[-1] == (2, EpochState.CHALLENGED)  # it is not posted again until somebody says so
        purse.billing.settle()
        chain.advance(WINDOW_S)
        clock.now_us += HOUR_US
        schedule.step()
        assert (epochs_of(purse)[-1], chain.tokens_of(ANN)) == ((2, EpochState.FINAL), 107)


@pytest.mark.parametrize("background", [True, False])
def test_a_purse_has_a_schedule_where_it_was_asked_for(background: bool) -> None:
    """A vote may set an interval where no process has one."""
    for options in ({}, {"epoch_interval_s": HOUR_S}):
        with purse_of(background=background, **options) as purse:
            assert (purse.epochs is not None) is background


def test_without_an_interval_there_is_an_epoch_when_a_vote_sets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with purse_of(home=tmp_path) as purse:
        clock = Clock(purse, monkeypatch)
        schedule = EpochSchedule(purse.books, purse.settlement, purse.billing.settle, interval_s=None)
        earn(purse, "first", {ANN: 100})
        clock.now_us += 100 * HOUR_US
        assert schedule.step() == 60
        assert epochs_of(purse) == []
        monkeypatch.setattr(purse.books.ledger, "parameters", lambda: {"epoch_interval_s": HOUR_S})
        schedule.step()
        assert epochs_of(purse) == [(1, EpochState.FINAL)]
        clock.now_us += HOUR_US - 2_000_000
        earn(purse, "second", {ANN: 100})
        assert 0 < schedule.step() <= 2
        assert len(epochs_of(purse)) == 1


def test_an_epoch_is_closed_in_the_background() -> None:
    with purse_of(background=True, epoch_interval_s=0.01, payout_min="1 wei") as purse:
        earn(purse, "first", {ANN: 100})
        until(lambda: purse.settlement.chain.tokens_of(ANN) == 100, "a payout")
        assert purse.billing.reconcile().sound


def test_no_failure_ends_it(heard: threading.Event) -> None:
    calls: list[int] = []
    enough = threading.Event()
    failures = (ChainUnavailable("away"), LedgerUnavailable("locked"), ValueError("a bug"))

    def settle() -> None:
        calls.append(len(calls))
        if len(calls) > len(failures):
            enough.set()
            return
        raise failures[len(calls) - 1]

    with purse_of() as purse:
        schedule = EpochSchedule(purse.books, purse.settlement, settle, interval_s=1e-6, pause_s=1e-3)
        schedule.start()
        assert enough.wait(WAIT_S)
        assert heard.is_set()
        schedule.close(WAIT_S)
        assert not schedule._thread.is_alive()


def test_closing_waits_no_longer_than_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=LOG)
    begun, go_on = threading.Event(), threading.Event()

    def settle() -> None:
        begun.set()
        assert go_on.wait(WAIT_S)
        raise NetworkClosed("closed meanwhile")

    with purse_of() as purse:
        schedule = EpochSchedule(purse.books, purse.settlement, settle, interval_s=1e-6)
        schedule.start()
        assert begun.wait(WAIT_S)
        schedule.close(timeout_s=0)
        assert "is left as it is" in caplog.text
        go_on.set()
        schedule._thread.join(WAIT_S)
        assert not schedule._thread.is_alive()


@pytest.mark.needs("npm")
@pytest.mark.needs("node")
def test_a_root_that_a_reorganisation_took_is_posted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        place_of("anvil", tmp_path) as place,
        place.purse(tmp_path / "home", challenge_window_s=WINDOW_S, payout_min="1 wei") as purse,
    ):
        assert place.node is not None
        clock, schedule = Clock(purse, monkeypatch), hourly(purse)
        before = purse.settlement.chain.block_number()
        earn(purse, "first", {ANN: 100})
        clock.now_us += HOUR_US
        schedule.step()
        assert epochs_of(purse) == [(1, EpochState.POSTED)]
        place.node.ask("anvil_reorg", purse.settlement.chain.block_number() - before, [])
        purse.settlement.sync()
        assert epochs_of(purse) == [(1, EpochState.POSTING)]
        assert not purse.settlement.challenged
        clock.now_us += HOUR_US
        schedule.step()
        assert epochs_of(purse) == [(1, EpochState.POSTED)]
        place.advance(purse, WINDOW_S)
        schedule.step()
        assert (epochs_of(purse), purse.settlement.chain.tokens_of(ANN)) == ([(1, EpochState.FINAL)], 100)
        assert purse.billing.reconcile().sound


@pytest.mark.needs("npm")
@pytest.mark.needs("node")
def test_a_node_that_is_away_is_waited_for(tmp_path: Path, heard: threading.Event) -> None:
    with (
        place_of("anvil", tmp_path) as place,
        place.purse(tmp_path / "home", payout_min="1 wei") as purse,
    ):
        assert place.node is not None
        earn(purse, "first", {ANN: 100})
        assert purse.settlement.chain.tokens_of(ANN) == 0
        place.node.stop()
        schedule = EpochSchedule(
            purse.books, purse.settlement, purse.billing.settle, interval_s=1e-3, pause_s=1e-2, look_s=1e-2
        )
        schedule.start()
        assert heard.wait(WAIT_S)
        place.node.start()
        until(lambda: epochs_of(purse) == [(1, EpochState.FINAL)], "an epoch")
        schedule.close(WAIT_S)
        purse.settlement.pay_out()
        assert purse.settlement.chain.tokens_of(ANN) == 100
        assert purse.billing.reconcile().sound
