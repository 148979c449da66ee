"""Alerts: each is told once, to the log and to callbacks, whatever ends between; and the list of them stays."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from rios.billing.outbox import RETRY_US, messages
from rios.services.alerts import Alert
from rios.services.purse import Purse
from rios.words.money import WEI_PER_ROS
from tests.services.earning import earn, owner, purse_of

ANN = owner(0xA1)
LOG = "rios.services.alerts"
PERCENT = WEI_PER_ROS // 100
WAIT_S = 60


def spend(purse: Purse, name: str, percent: int) -> None:
    """Spend so many hundredths of a ROS; the account begins with 10 ROS."""
    earn(purse, name, {ANN: percent * PERCENT})


def shares(alerts: list[Alert], about: str) -> list[int]:
    return [alert.share_bp for alert in alerts if alert.about == about]


def test_shares_of_a_budget_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=LOG)
    with purse_of() as purse:
        got: list[Alert] = []
        purse.billing.on_alert(got.append)
        purse.billing.budget("1 ROS", period="month", hard=False)
        spend(purse, "a", 49)
        assert purse.alerts.deliver() == 0
        spend(purse, "b", 1)
        assert purse.alerts.deliver() == 1
        spend(purse, "c", 41)
        assert purse.alerts.deliver() == 2
        spend(purse, "d", 100)
        assert purse.alerts.deliver() == 0
        assert shares(got, "budget") == [5_000, 7_500, 9_000]
        assert purse.billing.alerts == got
        assert str(got[0]) == "50 % of the budget of 1 ROS a month are spent: 0.5 ROS"
        told = [record for record in caplog.records if record.name == LOG]
        assert [record.getMessage() for record in told] == [str(alert) for alert in got]
        assert {record.levelno for record in told} == {logging.WARNING}


def test_a_low_balance_is_told_once() -> None:
    with purse_of() as purse:
        got: list[Alert] = []
        purse.billing.on_alert(got.append)
        for name, percent in (("a", 799), ("b", 2), ("c", 160), ("d", 30)):
            spend(purse, name, percent)
        purse.alerts.deliver()
        assert shares(got, "balance") == [2_000, 1_000, 500]
        assert str(got[0]) == "the balance is below 20 % of what it was after the last deposit: 1.99 ROS of 10 ROS"
        assert shares(purse.billing.alerts, "balance") == [2_000, 1_000, 500]


def test_a_callback_that_fails_is_called_again_and_the_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=LOG)
    with purse_of() as purse:
        got: list[Alert] = []
        tried: list[Alert] = []

        def picky(alert: Alert) -> None:
            tried.append(alert)
            if len(tried) == 1:
                raise ConnectionError("the mail server is away")

        purse.billing.on_alert(got.append)
        purse.billing.on_alert(picky)
        spend(purse, "a", 801)
        assert purse.alerts.deliver() == 0
        dispatcher = purse.alerts._dispatcher
        assert dispatcher is not None
        assert dispatcher.run_once(at=purse.books.ledger.now() + RETRY_US) == 1
        assert (len(got), len(tried)) == (1, 2)
        assert sum(record.name == LOG for record in caplog.records) == 1


def test_what_was_not_told_is_told_after_a_restart_once(tmp_path: Path) -> None:
    with purse_of(home=tmp_path) as purse:
        spend(purse, "a", 801)
        before = purse.billing.alerts
        assert len(before) == 1
    for expected in (1, 0):
        with purse_of(home=tmp_path) as purse:
            got: list[Alert] = []
            purse.billing.on_alert(got.append)
            assert purse.alerts.deliver() == expected
            assert got == before[:expected]
            assert purse.billing.alerts == before


def test_alerts_are_told_as_they_come() -> None:
    told = threading.Event()
    with purse_of(background=True) as purse:
        purse.billing.on_alert(lambda _: told.set())
        spend(purse, "a", 801)
        assert told.wait(WAIT_S)


def test_closing_tells_what_is_due(tmp_path: Path) -> None:
    got: list[Alert] = []
    purse = purse_of(home=tmp_path, background=True)
    purse.billing.on_alert(got.append)
    spend(purse, "a", 801)
    purse.close()
    purse.close()
    assert len(got) == 1


def test_epochs_that_were_closed_do_not_pile_up_in_the_outbox() -> None:
    with purse_of() as purse:
        spend(purse, "a", 1)
        purse.billing.settle()
        assert purse.alerts.deliver() == 1
        assert list(messages(purse.books.ledger, delivered=False)) == []
        assert purse.billing.alerts == []
