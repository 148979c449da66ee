"""Price books that a vote has published on the chain: in force with their event, and with it no more."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rios.billing.books import PriceBook
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.documents import publish
from rios.storage.models import PriceBookRow
from rios.words.errors import PriceBookError

log = logging.getLogger(__name__)

EVENT = "PriceBookPublished"


def put_in_force(batch: Batch, args: Mapping[str, str]) -> None:
    """Take the book of an event; one that is not what the event says is logged and not in force."""
    try:
        publish(batch, _book_of(args))
    except PriceBookError as error:
        log.error("a published price book is not taken", extra={"version": args["version"], "reason": str(error)})


def take_back(batch: Batch, args: Mapping[str, str]) -> None:
    """A reorganisation took the event away: the book stays for what was rated by it, and is in force no more."""
    try:
        book = _book_of(args)
    except PriceBookError:  # then it was not taken
        return
    books = batch.rows(PriceBookRow)
    if (row := books.get(book.digest)) is not None:
        books.change(row, published=False)


def _book_of(args: Mapping[str, str]) -> PriceBook:
    """The book that an event brings. Raises PriceBookError where the event says another thing than its document."""
    book = PriceBook.from_json(args["document"])
    digest, version = args["digest"].removeprefix("0x"), int(args["version"])
    if book.digest != digest:
        raise PriceBookError(f"its document has the digest {book.digest}, the event says {digest}")
    if book.version != version:
        raise PriceBookError(f"its document is version {book.version}, the event says {version}")
    return book
