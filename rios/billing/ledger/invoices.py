"""Invoices: what a user used in a month less what was refunded of it, once, and later refunds with the next month's.

An invoice says up to which credit note of the user it went, and gets its number only while that is the last one. One of
a higher number is on the next invoice, if it is about a month that has its invoice already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from rios.billing.ledger.accounts import check_user
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.values import Invoice
from rios.storage.models import CreditNoteRow, InvoiceRow, UsageRow
from rios.words.canonical import canonical, digest
from rios.words.money import format_ros

SETTLED_US = 120 * 10**6
"""So long after a month's end nothing more is posted in it: who posts at a moment waits for the database less."""


def is_over(until: int, at: int) -> bool:
    """Whether at `at` nothing more comes to a month that ended at `until`."""
    return at >= until + SETTLED_US


def issued(connection: Connection, user: str) -> list[Invoice]:
    """The invoices that were issued to a user."""
    wanted = select(InvoiceRow.__table__).where(InvoiceRow.user_id == user).order_by(InvoiceRow.number)
    return [_as_invoice(row) for row in connection.execute(wanted).mappings()]


def draft(connection: Connection, user: str, period: str, *, since: int, until: int, at: int) -> Invoice:
    """What the invoice of a month would be now. It has no number, and nobody keeps it."""
    check_user(user)
    document = _drawn(connection, user, period, since, until)
    return Invoice(number=None, user_id=user, period=period, document=document, digest=digest(document), created_at=at)


def issue(batch: Batch, drawn: Invoice, *, at: int) -> Invoice | None:
    """Number the draft of a month that is over: numbers have no gap, and there is one for each user and month.

    None where a refund came since it was drawn: draw it again.
    """
    invoices = batch.rows(InvoiceRow, key=("user_id", "period"))
    row = invoices.get(drawn.user_id, drawn.period)
    if row is None:
        if _last_note(batch.connection, drawn.user_id) != drawn.document["credit_notes_up_to"]:
            return None
        row = {
            "number": batch.next_number(InvoiceRow.number),
            "user_id": drawn.user_id,
            "period": drawn.period,
            "document": canonical(drawn.document).decode(),
            "digest": drawn.digest,
            "created_at": at,
        }
        invoices.put(row)
    return _as_invoice(row)


def _as_invoice(row: Mapping[str, Any] | RowMapping) -> Invoice:
    return Invoice(**{**row, "document": json.loads(row["document"])})


def _last_note(connection: Connection, user: str, *, up_to: int | None = None) -> int:
    """The number of the user's last credit note, or of the last one at a moment; 0 without any."""
    wanted = select(func.max(CreditNoteRow.number)).where(CreditNoteRow.user_id == user)
    if up_to is not None:
        wanted = wanted.where(CreditNoteRow.at <= up_to)
    return connection.scalar(wanted) or 0


def _noted(connection: Connection, invoice: Invoice) -> int:
    """Up to which credit note an invoice went. Those of older versions do not say; their moment does."""
    said = invoice.document.get("credit_notes_up_to")
    return _last_note(connection, invoice.user_id, up_to=invoice.created_at) if said is None else int(said)


def _drawn(connection: Connection, user: str, period: str, since: int, until: int) -> dict[str, Any]:
    usage = UsageRow
    wanted = select(usage.model, usage.line, usage.amount_wei, usage.refunded_wei, usage.discount, usage.discount_wei)
    lines: dict[tuple[str, str], int] = {}
    discounts: dict[str, int] = {}
    refunded = 0
    for row in connection.execute(wanted.where(usage.user_id == user, usage.at >= since, usage.at < until)):
        key = (row.model, row.line)
        lines[key] = lines.get(key, 0) + row.amount_wei
        refunded += row.refunded_wei
        if row.discount is not None:
            discounts[row.discount] = discounts.get(row.discount, 0) + row.discount_wei
    given = list(_credits(connection, user, period))
    total = sum(lines.values()) - refunded - sum(int(one["amount_wei"]) for one in given)
    return {
        "user": user,
        "period": period,
        "lines": [
            {"model": model, "line": line, "amount_wei": str(amount)} for (model, line), amount in sorted(lines.items())
        ],
        # What is not in the lines: without it they would be so much more.
        "discounts": [{"discount": name, "off_wei": str(off)} for name, off in sorted(discounts.items())],
        "refunded_wei": str(refunded),
        "credits": given,
        "credit_notes_up_to": _last_note(connection, user),
        "total_wei": str(total),
        "total": format_ros(total),
    }


def _credits(connection: Connection, user: str, period: str) -> Iterator[dict[str, Any]]:
    """Refunds of months that had their invoice already, since the last invoice of any month."""
    before = issued(connection, user)
    if not before:
        return
    note, usage = CreditNoteRow, UsageRow
    wanted = (
        select(note.number, note.amount_wei, note.reason, usage.model, usage.line, usage.at)
        .join(usage, usage.id == note.usage_id)
        .where(note.user_id == user, note.number > _noted(connection, before[-1]))
        .order_by(note.number)
    )
    periods = {one.period for one in before} - {period}
    for row in connection.execute(wanted):
        of = datetime.fromtimestamp(row.at // 10**6, UTC).strftime("%Y-%m")
        if of in periods:
            yield {
                "credit_note": row.number, "period": of, "model": row.model, "line": row.line, "reason": row.reason,
                "amount_wei": str(row.amount_wei),
            }  # fmt: skip
