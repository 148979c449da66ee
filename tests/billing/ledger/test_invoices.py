"""Invoices: each use and each refund is on one, whenever they come; before the month is over there is a draft."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from rios.billing.ledger import Ledger, invoices
from rios.billing.ledger.values import Invoice
from rios.services.moments import month
from rios.storage.models import InvoiceRow
from rios.words.canonical import canonical
from rios.words.errors import LedgerUnavailable
from tests.billing.clock import Clock
from tests.billing.ledger.work import use


def invoice(ledger: Ledger, period: str, *, user: str = "ann") -> Invoice:
    since, until = month(period)
    return ledger.invoice(user, period, since=since, until=until)


def total(found: Invoice) -> int:
    """What it comes to, which its parts add up to."""
    said: dict[str, Any] = dict(found.document)
    lines, given = (sum(int(one["amount_wei"]) for one in said[name]) for name in ("lines", "credits"))
    assert lines - given - int(said["refunded_wei"]) == int(said["total_wei"])
    return int(said["total_wei"])


def after(clock: Clock, period: str) -> None:
    """The month is over."""
    clock.now_us = month(period)[1] + invoices.SETTLED_US


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    ledger.deposit("d", "ann", 10_000)
    ledger.deposit("e", "bob", 10_000)
    return ledger


def test_a_running_month_has_a_draft(ann: Ledger, clock: Clock) -> None:
    use(ann, 100, name="r1")
    first = invoice(ann, "2026-11")
    use(ann, 200, name="r2")
    second = invoice(ann, "2026-11")
    assert (first.number, second.number) == (None, None)
    assert (total(first), total(second)) == (100, 300)
    assert ann.invoices("ann") == []
    # What is being posted at its last moment has not come yet.
    clock.now_us = month("2026-11")[1] + 1
    assert invoice(ann, "2026-11").number is None
    after(clock, "2026-11")
    use(ann, 400, name="r3")
    last = invoice(ann, "2026-11")
    assert (last.number, total(last)) == (1, 300)
    assert invoice(ann, "2026-11") == last, "the first one issued stays"
    assert ann.invoices("ann") == [last]


def test_numbers_have_no_gaps(ann: Ledger, clock: Clock) -> None:
    after(clock, "2026-12")
    found = [invoice(ann, period, user=user) for user in ("ann", "bob") for period in ("2026-12", "2026-11")]
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert invoice(ann, "2026-11", user="bob").number == 4


def test_a_refund_is_on_one_invoice_whenever_it_comes(ann: Ledger, clock: Clock) -> None:
    november = use(ann, 1_000, name="r1")
    ann.refund(november, "before", amount_wei=1)
    after(clock, "2026-11")
    assert total(invoice(ann, "2026-11")) == 999
    ann.refund(november, "after", amount_wei=20)
    december = use(ann, 2_000, name="r2")
    ann.refund(december, "its own", amount_wei=300)
    use(ann, 5_000, name="r3", user="bob")
    assert invoice(ann, "2026-11").document["refunded_wei"] == "1", "what was issued stays"
    assert total(invoice(ann, "2026-12")) == 2_000 - 300 - 20, "the draft has it as well"
    after(clock, "2026-12")
    found = invoice(ann, "2026-12")
    assert total(found) == 2_000 - 300 - 20
    (credit,) = found.document["credits"]
    assert (credit["period"], credit["amount_wei"], credit["reason"]) == ("2026-11", "20", "after")
    # Once, and what comes later is on a later one.
    ann.refund(november, "late", amount_wei=40)
    ann.refund(december, "late", amount_wei=500)
    after(clock, "2027-01")
    assert total(invoice(ann, "2027-01")) == -540
    assert total(invoice(ann, "2026-12", user="bob")) == 5_000, "others' refunds are others'"
    spent = 3_000 - sum(note.amount_wei for note in ann.credit_notes(user="ann"))
    assert sum(total(one) for one in ann.invoices("ann")) == spent


def test_an_invoice_of_an_older_version_went_up_to_the_notes_of_its_moment(ann: Ledger, clock: Clock) -> None:
    november = use(ann, 1_000, name="r1")
    ann.refund(november, "before", amount_wei=1)
    after(clock, "2026-11")
    old = dict(invoice(ann, "2026-11").document)
    del old["credit_notes_up_to"]
    ann.transact(
        lambda batch: batch.connection.execute(update(InvoiceRow).values(document=canonical(old).decode())), alone=True
    )
    clock.now_us += 1
    ann.refund(november, "after", amount_wei=20)
    after(clock, "2026-12")
    assert total(invoice(ann, "2026-12")) == -20


def test_a_month_without_an_invoice_keeps_its_refunds(ann: Ledger, clock: Clock) -> None:
    november = use(ann, 1_000, name="r1")
    after(clock, "2026-11")
    use(ann, 2_000, name="r2")
    after(clock, "2026-12")
    ann.refund(november, "slow", amount_wei=10)
    assert total(invoice(ann, "2026-12")) == 2_000
    assert total(invoice(ann, "2026-11")) == 990
    ann.refund(november, "slow", amount_wei=7)
    after(clock, "2027-01")
    assert total(invoice(ann, "2027-01")) == -7


def test_a_refund_that_comes_while_it_is_made_is_on_it(
    ann: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage_id = use(ann, 1_000)
    after(clock, "2026-11")
    draft, parts = invoices.draft, iter([10, 20])

    def slow(*given: Any, **named: Any) -> Invoice:
        found = draft(*given, **named)
        if (part := next(parts, None)) is not None:
            ann.refund(usage_id, "meanwhile", amount_wei=part)
        return found

    monkeypatch.setattr(invoices, "draft", slow)
    found = invoice(ann, "2026-11")
    assert (found.number, total(found)) == (1, 970)

    parts = iter(range(1, 100))
    usage_id = use(ann, 900, name="r2")
    after(clock, "2026-12")
    with pytest.raises(LedgerUnavailable, match="kept coming"):
        invoice(ann, "2026-12")
