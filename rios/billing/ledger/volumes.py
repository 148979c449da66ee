"""What the prices of an account depend on: what it used in the month so far, and the discount that it has.

Volume tiers are of the calendar month (UTC): each record of a request starts in them where the account stood when the
request was held for, so its price is known before the work and does not depend on what else is posted meanwhile. What
was refunded was used all the same.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, RowMapping, bindparam, exists, or_, select, tuple_

from rios.billing.books import MINIMUM, PriceBook
from rios.billing.budgets import Period
from rios.billing.ledger.accounts import check_user
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.spending import start_of
from rios.billing.ledger.values import Grant, Standing
from rios.billing.pricing import DEFAULT_BOOK
from rios.billing.rating import Charge
from rios.storage.driver import first
from rios.storage.models import DiscountRow, PersonRow, PriceBookRow, VolumeRow
from rios.words.errors import InvalidRequest

_USER, _ORGANISATION = "user:", "organisation:"
# Asked for every request, so built once, and all that there nearly always is in one statement.
_BOOK = (
    select(PriceBookRow.document)
    .where(PriceBookRow.published, PriceBookRow.effective_from_s <= bindparam("second"))
    .order_by(PriceBookRow.effective_from_s.desc(), PriceBookRow.version.desc())
    .limit(1)
)
_VOLUME = select(VolumeRow.quantities).where(
    VolumeRow.user_id == bindparam("user"), VolumeRow.start == bindparam("start")
)
_THEIRS = or_(
    DiscountRow.subject == bindparam("subject"),
    DiscountRow.subject
    == select(_ORGANISATION + PersonRow.organisation_id).where(PersonRow.id == bindparam("user")).scalar_subquery(),
)
_STANDING = select(_BOOK.scalar_subquery(), _VOLUME.scalar_subquery(), exists().where(_THEIRS))
_DISCOUNTS = (
    select(DiscountRow.name)
    .where(
        _THEIRS,
        DiscountRow.since <= bindparam("at"),
        or_(DiscountRow.until.is_(None), DiscountRow.until > bindparam("at")),
    )
    .order_by(DiscountRow.subject.desc(), DiscountRow.since.desc())  # "user:" is after "organisation:"
)


def key_of(user: str, at: int) -> tuple[str, int]:
    """The key of the row that counts what `user` uses at `at`."""
    return user, start_of(Period.MONTH, at)


def count(batch: Batch, user: str, charges: Iterable[Charge], *, at: int) -> None:
    """Count what was used in the month around `at`, by price line."""
    rows, key = batch.rows(VolumeRow), key_of(user, at)
    used = _quantities(rows.get(*key))
    for charge in charges:
        if charge.line != MINIMUM:
            used[charge.line] = used.get(charge.line, 0) + charge.record.quantity
    said = json.dumps({line: str(quantity) for line, quantity in sorted(used.items())})
    rows.put({"user_id": user, "start": key[1], "quantities": said})


def standing(connection: Connection, user: str, *, at: int) -> Standing:
    """What the prices of `user` depend on at `at`."""
    asked = {
        "second": at // 10**6,
        "user": user,
        "start": start_of(Period.MONTH, at),
        "subject": _USER + user,
        "at": at,
    }
    document, quantities, discounted = first(connection, _STANDING, asked)
    book = None if document is None else _book(document)
    priced = book or DEFAULT_BOOK
    names = connection.scalars(_DISCOUNTS, asked) if discounted and priced.discounts else ()
    # The account's own comes before its organisation's, and of several the one that began last. A name that the book in
    # force does not have takes nothing off, so it gives way to one that does.
    discount = next((name for name in names if name in priced.discounts), None)
    tiered = [key for key in priced.keys() if len(priced.line(key).tiers) > 1]  # noqa: SIM118  a book is no mapping
    used = _quantities({"quantities": quantities}) if tiered and quantities is not None else {}
    return Standing(book=book, discount=discount, used={key: used[key] for key in tiered if used.get(key)})


def book_at(connection: Connection, at: int) -> PriceBook | None:
    """The published book in force at `at`: the latest that had begun, of equal ones the higher version."""
    document = connection.scalar(_BOOK, {"second": at // 10**6})
    return None if document is None else _book(document)


@functools.lru_cache(maxsize=16)
def _book(document: str) -> PriceBook:
    return PriceBook.from_dict(json.loads(document))


def grant(batch: Batch, given: Grant, *, at: int) -> None:
    """Let a discount hold for an account or an organisation; one that begins at the same moment takes its place.

    Raises InvalidRequest unless it is for one of the two, and ends after it begins.
    """
    if (given.user is None) == (given.organisation is None):
        raise InvalidRequest("a discount is for one user or for one organisation: name one of the two")
    if given.user is not None:
        check_user(given.user)
    if given.until is not None and given.until < given.since:
        raise InvalidRequest(f"discount {given.discount!r} would end before it begins; give a later end")
    batch.rows(DiscountRow).put(
        {
            "subject": given.subject, "since": given.since, "until": given.until,
            "name": given.discount, "granted_at": at,
        }
    )  # fmt: skip


def grants(connection: Connection, *, after: tuple[int, str] = (-1, ""), limit: int | None = None) -> list[Grant]:
    """All that were ever given, by whom they are for and when they begin.

    after: `since` and `subject` of the last one before.
    """
    since, subject = after
    place = tuple_(DiscountRow.subject, DiscountRow.since) > (subject, since)
    wanted = select(DiscountRow.__table__).where(place).order_by(DiscountRow.subject, DiscountRow.since).limit(limit)
    return [_as_grant(row) for row in connection.execute(wanted).mappings()]


def _quantities(row: Mapping[str, str] | None) -> dict[str, int]:
    return {} if row is None else {line: int(said) for line, said in json.loads(row["quantities"]).items()}


def _as_grant(row: RowMapping) -> Grant:
    subject: str = row["subject"]
    user = subject.removeprefix(_USER) if subject.startswith(_USER) else None
    organisation = None if user is not None else subject.removeprefix(_ORGANISATION)
    return Grant(
        discount=row["name"], user=user, organisation=organisation, since=row["since"], until=row["until"]
    )  # fmt: skip
