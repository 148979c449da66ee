"""Posting: all or nothing, once, above the floors, each request for itself."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
from sqlalchemy import text

from rios.billing.ledger import Ledger, Transfer
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.ledger import clock_us
from rios.words.errors import InsufficientBalance, LedgerConflict, LedgerUnavailable
from tests.billing.clock import DAY_US, Clock
from tests.waiting import PATIENCE


def move(id: str, debit: str, credit: str, amount: int = 10) -> Transfer:  # noqa: A002
    return Transfer(id=id, debit=debit, credit=credit, amount_wei=amount, kind="test")


def give(id: str, user: str = "ann", amount: int = 10) -> Transfer:  # noqa: A002
    return move(id, "treasury", f"user:{user}:available", amount)


def test_all_or_nothing(ledger: Ledger) -> None:
    ledger.post([give("a")])
    with pytest.raises(InsufficientBalance, match="user:bob:available would have to give"):
        ledger.post([move("b", "user:ann:available", "user:ann:held"), move("c", "user:bob:available", "treasury")])
    assert ledger.accounts() == {"treasury": -10, "user:ann:available": 10}
    assert ledger.entry("b") is None
    # What matters is where an account is in the end.
    ledger.post([move("d", "user:bob:available", "treasury", 5), give("e", "bob", 5)])
    assert ledger.accounts()["user:bob:available"] == 0


def test_the_same_again_changes_nothing_and_another_payload_is_an_error(ledger: Ledger) -> None:
    assert ledger.post([give("a"), give("b")]) == 2
    assert ledger.post([give("a"), give("c")]) == 1
    assert ledger.post([give("a"), give("b"), give("c")]) == 0
    for other in (give("a", amount=11), give("a", user="bob")):
        with pytest.raises(LedgerConflict, match="transfer a "):
            ledger.post([give("d"), other])
    with pytest.raises(LedgerConflict):
        ledger.post([give("e"), give("e", amount=1)])
    assert ledger.post([give("f"), give("f")]) == 1
    assert ledger.accounts()["user:ann:available"] == 40
    assert ledger.head()[0] == 4


def test_one_bad_request_does_not_spoil_its_batch(ledger: Ledger) -> None:
    ledger.post([give("known")])
    # While the writer is in this request the others queue up, and are one batch afterwards.
    entered, go = threading.Event(), threading.Event()

    def block(_batch: Batch) -> None:
        entered.set()
        assert go.wait(30)

    blocker = threading.Thread(target=ledger.transact, args=(block,))
    blocker.start()
    assert entered.wait(30)
    answers: dict[str, Future[int]] = {
        "good": ledger.submit([give("g1")]),
        "poor": ledger.submit([give("g2", "eve", 5), move("x", "user:eve:available", "treasury", 6)]),
        "conflict": ledger.submit([give("g1", amount=99)]),
        "duplicate": ledger.submit([give("g1")]),
        "in the ledger": ledger.submit([give("known")]),
        "in the ledger, other": ledger.submit([give("known", amount=99)]),
        "also good": ledger.submit([give("g3", "bob")]),
    }
    go.set()
    blocker.join()
    found = {name: answer.exception(30) or answer.result() for name, answer in answers.items()}
    assert {name: value for name, value in found.items() if isinstance(value, int)} == {
        "good": 1,
        "duplicate": 0,
        "in the ledger": 0,
        "also good": 1,
    }
    assert isinstance(found["poor"], InsufficientBalance)
    assert isinstance(found["conflict"], LedgerConflict)
    assert isinstance(found["in the ledger, other"], LedgerConflict)
    assert ledger.accounts() == {"treasury": -30, "user:ann:available": 20, "user:bob:available": 10}


def test_what_the_database_refuses_is_of_one_request_too(ledger: Ledger) -> None:
    def break_a_rule(batch: Batch) -> None:
        batch.connection.execute(
            text("INSERT INTO hold_steps VALUES ('none', 0, '1', '0', 0)".replace("'1', '0'", "1, 0"))
        )

    with pytest.raises(LedgerConflict, match="database refuses"):
        ledger.transact(break_a_rule)
    assert ledger.post([give("a")]) == 1


def test_a_bug_in_a_request_is_its_own(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        ledger.transact(lambda batch: batch.post([give("x")]) // 0)
    assert ledger.accounts() == {}


def test_two_open_ledgers_see_each_other(url: str) -> None:
    with Ledger.open(url, timeout_s=20) as one, Ledger.open(url, timeout_s=20) as other:
        for number in range(6):
            (one, other)[number % 2].post([give(f"t{number}")])
        with pytest.raises(LedgerConflict):
            one.post([give("t1", amount=1)])
        assert other.post([move("all", "user:ann:available", "treasury", 60)]) == 1
        with pytest.raises(InsufficientBalance):
            one.post([move("more", "user:ann:available", "treasury", 1)])
        assert one.totals().sound
        assert one.totals().entries == 7


def test_a_clock_that_jumps_back_does_not_change_the_order(ledger: Ledger, clock: Clock) -> None:
    for number, jump in enumerate((0, DAY_US, -2 * DAY_US, 5)):
        clock.now_us += jump
        ledger.post([give(f"t{number}")])
    entries = list(ledger.entries())
    assert [entry.id for entry in entries] == ["t0", "t1", "t2", "t3"]
    assert entries[2].at < entries[0].at < entries[1].at


def test_a_closed_ledger_says_so(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.post([give("a")])
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.post([give("b")])


def test_a_locked_database_ends_by_the_deadline_and_the_same_works_later(url: str) -> None:
    with Ledger.open(url, timeout_s=20) as holder, Ledger.open(url, timeout_s=0.3 * PATIENCE) as ledger:
        with holder.database.writing(), pytest.raises(LedgerUnavailable, match=r"does not answer|did not answer"):
            ledger.post([give("a")])
        assert ledger.post([give("a")]) in (0, 1)
        assert ledger.accounts()["user:ann:available"] == 10


def test_a_lost_connection_is_made_again(postgres_url: str) -> None:
    with Ledger.open(postgres_url, timeout_s=20) as ledger, Ledger.open(postgres_url, timeout_s=20) as other:
        ledger.post([give("a")])
        with other.database.writing() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert ledger.post([give("b")]) == 1
        assert ledger.totals().sound


def test_amounts_from_a_wei_to_a_thousand_million_ros(ledger: Ledger) -> None:
    amounts = [1, 10**9, 10**18 - 1, 123_456_789 * 10**18 + 1, 10**27, 2**256 - 2 * 10**27]
    ledger.post(give(f"t{amount}", f"u{amount}", amount) for amount in amounts)
    assert [entry.amount_wei for entry in ledger.entries()] == amounts
    found = ledger.accounts()
    assert found["treasury"] == -sum(amounts)
    assert all(type(value) is int for value in found.values())


def test_the_clock_is_of_this_century() -> None:
    assert 1_700_000_000 * 10**6 < clock_us() < 4_000_000_000 * 10**6
