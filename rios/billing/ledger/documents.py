"""Invoices, and the price books of the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from rios.billing.books import PriceBook
from rios.billing.ledger.accounts import check_user
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.holds import keep_book
from rios.billing.ledger.values import Invoice
from rios.storage.models import InvoiceRow, PriceBookRow
from rios.words.canonical import canonical, digest
from rios.words.errors import PriceBookError


def issue(batch: Batch, user: str, period: str, document: Mapping[str, Any], *, at: int) -> Invoice:
    """Number an invoice: numbers have no gap, and there is one for each user and period, the first that came."""
    check_user(user)
    invoices = batch.rows(InvoiceRow, key=("user_id", "period"))
    row = invoices.get(user, period)
    if row is None:
        row = {
            "number": batch.next_number(InvoiceRow.number),
            "user_id": user,
            "period": period,
            "document": canonical(document).decode(),
            "digest": digest(document),
            "created_at": at,
        }
        invoices.put(row)
    return Invoice(**{**row, "document": json.loads(row["document"])})


def publish(batch: Batch, book: PriceBook) -> None:
    """Put a price book in force from its moment on; the same one again changes nothing."""
    wanted = select(PriceBookRow.digest).where(PriceBookRow.version == book.version, PriceBookRow.published)
    known = batch.connection.scalar(wanted)
    if known not in (None, book.digest):
        raise PriceBookError(
            f"version {book.version} was published with other contents ({known}); count the version up"
        )
    keep_book(batch, book, published=True)
