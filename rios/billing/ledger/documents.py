"""The price books of the network."""

from __future__ import annotations

from sqlalchemy import select

from rios.billing.books import PriceBook
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.holds import keep_book
from rios.storage.models import PriceBookRow
from rios.words.errors import PriceBookError


def publish(batch: Batch, book: PriceBook) -> None:
    """Put a price book in force from its moment on; the same one again changes nothing."""
    wanted = select(PriceBookRow.digest).where(PriceBookRow.version == book.version, PriceBookRow.published)
    known = batch.connection.scalar(wanted)
    if known not in (None, book.digest):
        raise PriceBookError(
            f"version {book.version} was published with other contents ({known}); count the version up"
        )
    keep_book(batch, book, published=True)
