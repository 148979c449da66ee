"""Questions to the ledger: what it answers, and that it may be asked while it is written to."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rios.billing.ledger import Ledger
from rios.billing.ledger.queries import GROUPS
from rios.words.errors import InvalidRequest, PriceBookError
from tests.billing.clock import DAY_US, SECOND_US, Clock
from tests.billing.ledger.work import PLATFORM, charge, hold, use
from tests.billing.make import OWNERS, book


@pytest.fixture
def busy(ledger: Ledger, clock: Clock) -> Ledger:
    """Two users, two workers, two days, one epoch closed between them."""
    ledger.deposit("d", "ann", 10_000)
    ledger.deposit("e", "bob", 10_000)
    hold(ledger, 600, id="h1", request_id="r1")
    rated = [charge(500), charge(40, resource="bytes"), charge(30, worker="b", owner=OWNERS[1], model="other")]
    ledger.settle("h1", rated, deployment="dep-1")
    ledger.close_epoch(PLATFORM)
    clock.now_us += DAY_US
    use(ledger, 7, name="r2", user="bob", worker="b", owner=OWNERS[1])
    return ledger


def test_costs_are_exact_however_they_are_grouped(busy: Ledger) -> None:
    assert busy.costs("user") == {"ann": 570, "bob": 7}
    assert busy.costs("worker") == {"a": 540, "b": 37}
    assert busy.costs("owner") == {OWNERS[0]: 540, OWNERS[1]: 37}
    assert busy.costs("model") == {"demo": 547, "other": 30}
    assert busy.costs("deployment") == {"": 7, "dep-1": 570}
    assert busy.costs("day") == {"2026-11-25": 570, "2026-11-26": 7}
    assert busy.costs("resource") == busy.costs("line") == {"bytes": 40, "tokens_out": 537}
    busy.refund(charge(500).record.usage_id, "wrong", amount_wei=100)
    for by in GROUPS:
        assert sum(busy.costs(by).values()) == 477
        assert {type(wei) for wei in busy.costs(by).values()} == {int}
    assert busy.costs("user", model="other") == {"ann": 30}
    assert busy.costs("user", user="eve") == {}
    with pytest.raises(InvalidRequest, match="only by worker"):
        busy.costs("weather")


def test_usage_is_filtered(busy: Ledger, clock: Clock) -> None:
    def amounts(**filters: object) -> list[int]:
        return sorted(one.amount_wei for one in busy.usage(**filters))

    assert amounts() == [7, 30, 40, 500]
    assert amounts(user="ann") == amounts(until=clock.now_us) == amounts(epoch=1) == [30, 40, 500]
    assert amounts(since=clock.now_us) == amounts(unsettled=True) == amounts(request_id="r2") == [7]
    assert amounts(unsettled=False) == amounts(deployment="dep-1") == amounts(hold_id="h1") == [30, 40, 500]
    assert amounts(worker="b", model="demo") == [7]
    assert amounts(owner=OWNERS[1]) == [7, 30]
    assert amounts(resource="bytes") == [40]
    assert amounts(user=None) == amounts()
    with pytest.raises(InvalidRequest, match="weather"):
        busy.usage(weather="fine")
    assert busy.usage_of("u-none") is None


def test_a_statement_adds_up_line_by_line(busy: Ledger) -> None:
    lines = list(busy.statement("user:ann:available"))
    assert [(line.amount_wei, line.other) for line in lines] == [
        (10_000, "chain:escrow"),
        (-600, "user:ann:held"),
        (30, "user:ann:held"),
    ]
    assert [line.balance_wei for line in lines] == [10_000, 9_400, 9_430]
    assert list(busy.statement("user:ann:available", after=lines[0].entry.seq)) == lines[1:]
    assert list(busy.statement("user:eve:available")) == []
    for name, balance in busy.accounts().items():
        assert [line.balance_wei for line in busy.statement(name)][-1] == balance
    with pytest.raises(InvalidRequest, match="there is no account"):
        busy.statement("pocket").__next__()


def test_entries_are_read_in_parts(busy: Ledger) -> None:
    every = list(busy.entries())
    assert [entry.seq for entry in every] == list(range(1, len(every) + 1))
    assert list(busy.entries(after=2, up_to=4)) == every[2:4]
    assert busy.entry(every[3].id) == every[3]
    assert busy.entry("none") is None
    assert busy.postings("u-none") == []
    assert [entry.kind for entry in busy.hold_entries("h1")] == ["hold", "release"]


def test_it_may_be_written_to_while_it_is_read(busy: Ledger) -> None:
    entries = busy.entries()
    first = next(entries)
    busy.deposit("later", "ann", 1)
    rest = list(entries)
    assert "later" not in {entry.id for entry in rest}
    assert (first.seq, rest[-1].seq) == (1, busy.head()[0] - 1)


def test_price_books_are_in_force_from_their_moment(ledger: Ledger, clock: Clock) -> None:
    now_s = clock.now_us // SECOND_US
    first, second = book(version=1, effective_from_s=now_s - 10), book(version=2, effective_from_s=now_s + 10)
    assert ledger.price_book_at(clock.now_us) is None
    for one in (first, second, first):
        ledger.publish_price_book(one)
    assert ledger.price_book_at(clock.now_us - 11 * SECOND_US) is None
    assert ledger.price_book_at(clock.now_us) == first
    assert ledger.price_book_at(clock.now_us + 10 * SECOND_US) == second
    assert ledger.price_book(second.digest) == second
    with pytest.raises(PriceBookError, match="count the version up"):
        ledger.publish_price_book(book(version=2, effective_from_s=now_s + 20))
    with pytest.raises(PriceBookError, match="no price book"):
        ledger.price_book("0" * 64)
    # A hold pins a book that nobody published: it is kept, and in force for nobody else.
    ledger.deposit("d", "ann", 10)
    hold(ledger, 1)
    pinned = ledger.hold_of("h1")
    assert pinned is not None
    assert ledger.price_book(pinned.price_book).digest == pinned.price_book
    assert ledger.price_book_at(clock.now_us) == first


def test_answers_are_json_when_amounts_are_text(busy: Ledger) -> None:
    one = next(busy.usage())
    assert json.loads(json.dumps(one.record.to_dict())) == one.record.to_dict()
    assert dataclasses.replace(one) == one
