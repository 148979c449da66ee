"""One pass over usage, refunds and entries at a pinned height of the ledger, in bounded memory.

What was posted after the height is left out, so that the same height gives the same rows for ever. Columns that change
later, such as `refunded_wei`, are not read: refunds are their own rows, of the moment at which they were given. A usage
record of no price counts where others of its hold step have one: these carry the entries that say when it was posted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, cast, select
from sqlalchemy.orm import aliased

from rios.billing.ledger import audit
from rios.billing.ledger.accounts import Kind, earned, user_account
from rios.services.moments import moment_of
from rios.services.reports.periods import DAY_US
from rios.storage import models as m
from rios.storage.engine import Database
from rios.words.ids import Address

_PAGE = 5_000
USAGE, REFUND = "usage", "refund"
"""Kinds of entries."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The last entry that a report counts, and the hash of the chain up to it."""

    height: int
    head: str


class Used(NamedTuple):
    """One usage record."""

    at: int
    user: str
    model: str
    worker: str
    deployment: str
    resource: str
    owner: str
    request: str
    amount_wei: int
    worker_wei: int
    quantity: int
    measured_ns: int
    rows: int
    step: int


class Refunded(NamedTuple):
    """One credit note with what it was for."""

    at: int
    user: str
    model: str
    worker: str
    deployment: str
    resource: str
    owner: str
    amount_wei: int
    reason: str


def pin(database: Database) -> Pin:
    """The ledger as it is now."""
    with database.reading() as connection:
        height, head = audit.head(connection)
    return Pin(height, head.hex())


def day_name(number: int) -> str:
    """A day as "2026-11-27", from its number since 1970."""
    found = _NAMES.get(number)
    if found is None:
        found = _NAMES[number] = f"{moment_of(number * DAY_US):%Y-%m-%d}"
    return found


_NAMES: dict[int, str] = {}


class Reading:
    """Reads one state of the ledger, of all users or of one."""

    def __init__(self, connection: Connection, height: int, *, user: str | None = None) -> None:
        self._connection = connection
        self._height = height
        self._user = user

    def usage(self, since_us: int, until_us: int) -> Iterator[Used]:
        """Usage records of a time, in no order."""
        row, other = m.UsageRow, aliased(m.UsageRow)
        late = self._late(USAGE, since_us, until_us)
        late_steps = self._steps(late)
        priced = select(other.id).where(
            other.hold_id == row.hold_id, other.step == row.step, other.amount_wei != 0
        ).exists()  # fmt: skip
        wanted = select(
            row.id, row.hold_id, row.at, row.user_id, row.model, row.worker, row.deployment, row.resource, row.owner,
            row.request_id, cast(row.amount_wei, Text), cast(row.worker_wei, Text), cast(row.quantity, Text),
            cast(row.measured_ns, Text), row.rows, row.step,
        ).where(row.at >= since_us, row.at < until_us, (row.amount_wei != 0) | priced)  # fmt: skip
        if self._user is not None:
            wanted = wanted.where(row.user_id == self._user)
        for page in self._pages(wanted):
            for found in page:
                if late and (found[0] in late or (found[10] == "0" and (found[1], found[15]) in late_steps)):
                    continue
                yield Used._make(
                    (*found[2:10], int(found[10]), int(found[11]), int(found[12]), int(found[13]), found[14], found[15])
                )

    def refunds(self, since_us: int, until_us: int) -> Iterator[Refunded]:
        """Credit notes of a time, in no order."""
        note, row = m.CreditNoteRow, m.UsageRow
        late = self._late(REFUND, since_us, until_us)
        wanted = (
            select(
                note.id, note.at, row.user_id, row.model, row.worker, row.deployment, row.resource, row.owner,
                cast(note.amount_wei, Text), note.reason,
            )
            .join(row, row.id == note.usage_id)
            .where(note.at >= since_us, note.at < until_us)
        )  # fmt: skip
        if self._user is not None:
            wanted = wanted.where(note.user_id == self._user)
        for page in self._pages(wanted):
            for found in page:
                if found[0] not in late:
                    yield Refunded._make((*found[1:8], int(found[8]), found[9]))

    def posted_wei(self, kind: str, since_us: int, until_us: int) -> int:
        """The sum of the entries of a kind: what usage records and credit notes have to add up to."""
        row = m.TransferRow
        wanted = select(cast(row.amount_wei, Text)).where(
            row.seq <= self._height, row.kind == kind, row.at >= since_us, row.at < until_us
        )
        if self._user is not None:
            side = row.debit_id if kind == USAGE else row.credit_id
            kinds = (Kind.HELD,) if kind == USAGE else (Kind.AVAILABLE, Kind.TRIAL)
            names = [user_account(self._user, one) for one in kinds]
            wanted = wanted.where(side.in_(select(m.AccountRow.id).where(m.AccountRow.name.in_(names))))
        return sum(int(found[0]) for page in self._pages(wanted) for found in page)

    def earned_wei(self, since_us: int, until_us: int, *, owner: str | None) -> int:
        """The sum of the entries by which use was credited to workers' owners, or to one of them."""
        row, account = m.TransferRow, m.AccountRow
        mine = account.kind == str(Kind.EARNED) if owner is None else account.name == earned(Address(owner))
        wanted = select(cast(row.amount_wei, Text)).where(
            row.seq <= self._height, row.kind == USAGE, row.at >= since_us, row.at < until_us,
            row.credit_id.in_(select(account.id).where(mine)),
        )  # fmt: skip
        return sum(int(found[0]) for page in self._pages(wanted) for found in page)

    def sample_ids(self, since_us: int, until_us: int) -> Iterator[str]:
        """The ids of priced usage records of a time, in no order."""
        row = m.UsageRow
        late = self._late(USAGE, since_us, until_us)
        wanted = select(row.id).where(row.at >= since_us, row.at < until_us, row.amount_wei != 0)
        if self._user is not None:
            wanted = wanted.where(row.user_id == self._user)
        return (found[0] for page in self._pages(wanted) for found in page if found[0] not in late)

    def _late(self, kind: str, since_us: int, until_us: int) -> frozenset[str]:
        """What was posted after the height though it is of this time."""
        row = m.TransferRow
        wanted = select(row.reference).where(
            row.seq > self._height, row.kind == kind, row.at >= since_us, row.at < until_us
        )
        return frozenset(self._connection.scalars(wanted))

    def _steps(self, late: frozenset[str]) -> frozenset[tuple[str, int]]:
        row, ids = m.UsageRow, sorted(late)
        found: set[tuple[str, int]] = set()
        for start in range(0, len(ids), 400):
            wanted = select(row.hold_id, row.step).where(row.id.in_(ids[start : start + 400]))
            found.update((hold, step) for hold, step in self._connection.execute(wanted))
        return frozenset(found)

    def _pages(self, wanted: Any) -> Iterator[Any]:
        result = self._connection.execution_options(stream_results=True, yield_per=_PAGE).execute(wanted)
        return result.partitions(_PAGE)
