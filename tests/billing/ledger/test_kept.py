"""Rows that a writer remembers between its transactions: few questions, and nobody else's change is missed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import update

from rios.billing.budgets import Period
from rios.billing.ledger import Ledger
from rios.billing.ledger.batch import Batch
from rios.storage.models import BudgetRow
from rios.words.errors import BudgetExceeded, InsufficientBalance
from tests.billing.ledger.work import charge, hold

DAY = Period.DAY


@contextmanager
def _asked(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that the writer makes meanwhile, on SQLite."""
    said: list[str] = []
    with ledger.database.writing() as connection:
        file: Any = connection.connection.dbapi_connection
    assert isinstance(file, sqlite3.Connection)
    file.set_trace_callback(said.append)
    try:
        yield said
    finally:
        file.set_trace_callback(None)


def _request(ledger: Ledger, name: str, amount_wei: int = 10) -> None:
    hold(ledger, 50, id=f"hold-{name}", request_id=name)
    ledger.settle(f"hold-{name}", [charge(amount_wei, request_id=name)])


def test_the_next_request_of_a_user_asks_only_whether_it_is_known(tmp_path: Any) -> None:
    with Ledger.open(f"sqlite:///{tmp_path}/l.sqlite") as ledger:
        ledger.deposit("d", "ann", 1_000)
        with _asked(ledger) as said:
            _request(ledger, "first")
            first, said[:] = [one for one in said if one.startswith("SELECT")], []
            _request(ledger, "second")
        reads = [one for one in said if one.startswith("SELECT")]
    assert len(first) > 8
    assert ["FROM holds" in reads[0], "FROM usage" in reads[1], len(reads)] == [True, True, 2], reads
    assert len([one for one in said if one.startswith("COMMIT")]) == 2


@pytest.mark.parametrize("how", ["another ledger", "sql", "sql alone", "another transaction"])
def test_a_budget_counts_from_its_moment_on_whoever_sets_it(url: str, how: str) -> None:
    def lower(connection: Any) -> None:
        connection.execute(update(BudgetRow).where(BudgetRow.user_id == "ann").values(limit_wei=20))

    with Ledger.open(url, timeout_s=20) as ledger, Ledger.open(url, timeout_s=20) as other:
        ledger.deposit("d", "ann", 1_000)
        ledger.set_budget("ann", 500, period=DAY)
        _request(ledger, "r1")
        _request(ledger, "r2")
        if how == "another ledger":
            other.set_budget("ann", 20, period=DAY)
        elif how == "another transaction":
            with ledger.database.writing() as connection:
                lower(connection)
        else:
            ledger.transact(lambda batch: lower(batch.connection), alone=how.endswith("alone"))
        with pytest.raises(BudgetExceeded):
            hold(ledger, 50, id="hold-r3", request_id="r3")


def test_what_two_ledgers_post_by_turns_adds_up(url: str) -> None:
    with Ledger.open(url, timeout_s=20) as one, Ledger.open(url, timeout_s=20) as other:
        one.deposit("d", "ann", 1_000)
        one.set_budget("ann", 500, period=DAY)
        for place, ledger in enumerate((one, one, other, one, other, other)):
            _request(ledger, f"r{place}", 10 + place)
        (budget,) = one.budgets("ann", at=one.now())
        assert budget.spent_wei == sum(range(10, 16)) == 1_000 - one.balance("ann").wei
        assert one.totals().sound


def test_what_was_refused_is_not_remembered(url: str) -> None:
    with Ledger.open(url, timeout_s=20) as ledger:
        ledger.deposit("d", "ann", 100)
        _request(ledger, "r1")
        with pytest.raises(InsufficientBalance):
            hold(ledger, 500, id="hold-r2", request_id="r2")
        hold(ledger, 50, id="hold-r2", request_id="r2")
        with pytest.raises(InsufficientBalance):
            ledger.settle("hold-r2", [charge(51, request_id="r2")])
        found = ledger.settle("hold-r2", [charge(20, request_id="r2")])
        assert (found.hold.posted_wei, found.hold.released_wei, ledger.balance("ann").wei) == (20, 30, 70)


def test_so_many_rows_are_kept_and_no_more(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.storage.rows._KEPT_MAX", 3)
    seen: list[int] = []

    def look(batch: Batch) -> None:
        seen.append(max(len(rows._found) for rows in batch._cache.tables.values()))

    with Ledger.open(f"sqlite:///{tmp_path}/l.sqlite") as ledger:
        ledger.deposit("d", "ann", 1_000)
        for place in range(12):
            _request(ledger, f"r{place}", 1)
            ledger._wait(ledger._submit(look, plain=True))
        assert ledger.balance("ann").wei == 1_000 - 12
    assert len(seen) == 12
    assert max(seen) <= 3 + 3
