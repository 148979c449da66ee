"""A thousand at once: as many start as there is money for, whoever asks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError

import pytest
from sqlalchemy import Table

from rios.billing.budgets import Period
from rios.billing.ledger import HoldState, Ledger
from rios.billing.ledger.batch import _order
from rios.storage.models import Base
from rios.words.errors import BudgetExceeded
from tests.billing.ledger.caller import hold_all, start_together
from tests.billing.ledger.test_post import give
from tests.billing.ledger.work import ROS, TERMS, charge
from tests.campaigns import ROOT

CALLS, FUNDED = 1_000, 300


def _only_the_funded(ledger: Ledger) -> None:
    found = ledger.balance("ann")
    assert (found.available_wei, found.held_wei) == (ROS // 2, FUNDED * ROS)
    assert len(ledger.holds(user="ann", state=HoldState.OPEN)) == FUNDED
    totals = ledger.totals()
    assert totals.sound
    assert totals.entries == FUNDED + 1


def test_a_thousand_threads_against_a_balance_for_three_hundred(url: str) -> None:
    with Ledger.open(url, timeout_s=60) as ledger:
        ledger.deposit("d", "ann", FUNDED * ROS + ROS // 2)
        assert hold_all(ledger, "h", CALLS) == (FUNDED, CALLS - FUNDED)
        _only_the_funded(ledger)


def test_four_processes_against_a_balance_for_three_hundred(url: str) -> None:
    with Ledger.open(url, timeout_s=60) as ledger:
        ledger.deposit("d", "ann", FUNDED * ROS + ROS // 2)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.billing.ledger.caller", url, f"p{number}", str(CALLS // 4)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for number in range(4)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            answers = []
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                said, _ = process.communicate(timeout=120)
                answers.append([int(word) for word in said.split()])
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert [sum(column) for column in zip(*answers, strict=True)] == [FUNDED, CALLS - FUNDED]
        _only_the_funded(ledger)


def test_a_hard_budget_is_not_overshot(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 1_000 * ROS)
    ledger.set_budget("ann", 20 * ROS, period="month")
    answers: Counter[str] = Counter()

    def call(number: int) -> None:
        try:
            ledger.hold(f"h{number}", "ann", ROS, request_id=f"r{number}", terms=TERMS)
            ledger.settle(f"h{number}", [charge(ROS, request_id=f"r{number}")])
            answers["done"] += 1
        except BudgetExceeded:
            answers["refused"] += 1

    start_together(60, call)
    assert answers == {"done": 20, "refused": 40}
    assert ledger.spent("ann", Period.TOTAL, at=ledger.now()) == 20 * ROS


def test_tables_that_are_declared_meanwhile_are_no_matter(ledger: Ledger) -> None:
    """As by another thread that imports a module with some: this one is known already, and half made."""
    half = Table.__new__(Table)
    Base.metadata._add_table("half", None, half)
    try:
        _order.cache_clear()
        ledger.deposit("d", "ann", ROS)
    finally:
        Base.metadata._remove_table("half", None)
    assert ledger.balance("ann").available_wei == ROS


def test_the_same_from_many_at_once_counts_once(ledger: Ledger) -> None:
    def call(number: int) -> None:
        ledger.deposit("d", "ann", 10)
        ledger.hold("h", "ann", 5, request_id="r1", terms=TERMS)
        ledger.settle("h", [charge(3)])
        ledger.refund(charge(3).record.usage_id, "wrong")

    start_together(20, call)
    assert ledger.balance("ann").available_wei == 10
    assert [entry.kind for entry in ledger.entries()] == ["deposit", "hold", "usage", "release", "refund"]
    assert len(ledger.credit_notes()) == 1


def test_a_wish_that_was_taken_back_does_not_stop_the_writer(ledger: Ledger) -> None:
    entered, go = threading.Event(), threading.Event()

    def block(_batch: object) -> None:
        entered.set()
        assert go.wait(30)

    blocker = threading.Thread(target=ledger.transact, args=(block,))
    blocker.start()
    assert entered.wait(30)
    taken_back, kept = ledger.submit([give("a")]), ledger.submit([give("b")])
    assert taken_back.cancel()
    go.set()
    blocker.join()
    assert kept.result(30) == 1
    assert ledger.post([give("c")]) == 1
    with pytest.raises(CancelledError):
        taken_back.result()
    assert {entry.id for entry in ledger.entries()} == {"b", "c"}
