"""One pass over usage, refunds and entries at a pinned height of the ledger, in bounded memory.

What was posted after the height is left out, so that the same height gives the same rows for ever. Columns that change
later, such as `refunded_wei`, are not read: refunds are their own rows, of the moment at which they were given. A usage
record of no price counts where others of its hold step have one: these carry the entries that say when it was posted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Executable, Text, cast, select
from sqlalchemy.orm import aliased

from rios.billing.ledger import audit
from rios.billing.ledger.accounts import Kind, earned, user_account
from rios.services.moments import moment_of
from rios.services.reports.columns import Amounts, Ints, Names, whole
from rios.services.reports.periods import DAY_US
from rios.storage import models as m
from rios.storage.driver import pages
from rios.storage.engine import Database
from rios.words.ids import Address

_PAGE = 20_000
USAGE, REFUND = "usage", "refund"
"""Kinds of entries."""
_COLUMNS = {"user": "user_id", "request": "request_id"}


@dataclass(frozen=True, slots=True)
class Pin:
    """The last entry that a report counts, and the hash of the chain up to it."""

    height: int
    head: str


class Used:
    """Some usage records, as columns."""

    __slots__ = ("amounts", "at", "keys")

    def __init__(self, at: Ints, keys: Mapping[str, Ints], amounts: Mapping[str, Amounts]) -> None:
        """keys: numbers by `Reading.names`. amounts: "amount_wei" and others that were asked for."""
        self.at, self.keys, self.amounts = at, keys, amounts

    def __len__(self) -> int:
        return len(self.at)

    @property
    def day(self) -> Ints:
        """Number of the day, since 1970."""
        return self.at // DAY_US

    def where(self, chosen: NDArray[np.bool_]) -> Used:
        """The chosen ones."""
        if chosen.all():
            return self
        return Used(
            self.at[chosen],
            {name: column[chosen] for name, column in self.keys.items()},
            {name: column[chosen] for name, column in self.amounts.items()},
        )

    def within(self, since_us: int, until_us: int) -> Used:
        """Those of a time."""
        return self.where((self.at >= since_us) & (self.at < until_us))


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
        self.names: defaultdict[str, Names[str]] = defaultdict(Names)

    def usage(self, since_us: int, until_us: int, *, keys: Sequence[str], amounts: Sequence[str]) -> Iterator[Used]:
        """Usage records of a time, in no order, some thousand at once.

        keys: of "user", "model", "worker", "deployment", "resource", "owner", "request". amounts: of "amount_wei",
        "worker_wei", "quantity", "rows", "measured_ns".
        """
        row, other = m.UsageRow, aliased(m.UsageRow)
        late = self._late(USAGE, since_us, until_us)
        late_steps = self._steps(late)
        priced = select(other.id).where(
            other.hold_id == row.hold_id, other.step == row.step, other.amount_wei != 0
        ).exists()  # fmt: skip
        wanted = select(
            row.at, *(getattr(row, _COLUMNS.get(name, name)) for name in keys),
            *(cast(getattr(row, name), Text) for name in amounts),
        ).where(row.at >= since_us, row.at < until_us, (row.amount_wei != 0) | priced)  # fmt: skip
        if late:
            wanted = wanted.add_columns(row.id, row.hold_id, row.step, row.amount_wei == 0)
        if self._user is not None:
            wanted = wanted.where(row.user_id == self._user)
        for page in self._pages(wanted):
            if late:
                page = [one for one in page if one[-4] not in late and not (one[-1] and one[-3:-1] in late_steps)]
            if page:
                at, *columns = zip(*page, strict=True)
                yield Used(
                    np.array(at, np.int64),
                    {name: self.names[name].numbers(column) for name, column in zip(keys, columns, strict=False)},
                    {name: whole(column) for name, column in zip(amounts, columns[len(keys) :], strict=False)},
                )

    def number(self, key: str, text: str) -> int:
        """What stands for a text in a column of keys; -1 where it was in none so far."""
        return self.names[key].get(text, -1)

    def named(self, key: str, numbers: Iterable[int]) -> list[str]:
        """What these numbers of a key stand for; of "day", those of days."""
        if key == "day":
            return [day_name(number) for number in numbers]
        texts = list(self.names[key])
        return [texts[number] for number in numbers]

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

    def posted_wei(self, since_us: int, until_us: int) -> dict[str, int]:
        """The sums of the entries of USAGE and REFUND: what usage records and credit notes have to add up to."""
        row = m.TransferRow
        mine = {kind: row.kind == kind for kind in (USAGE, REFUND)}
        if self._user is not None:
            sides = {USAGE: (row.debit_id, (Kind.HELD,)), REFUND: (row.credit_id, (Kind.AVAILABLE, Kind.TRIAL))}
            for kind, (side, kinds) in sides.items():
                names = [user_account(self._user, one) for one in kinds]
                mine[kind] &= side.in_(select(m.AccountRow.id).where(m.AccountRow.name.in_(names)))
        wanted = select(row.kind, cast(row.amount_wei, Text)).where(
            row.seq <= self._height, row.at >= since_us, row.at < until_us, mine[USAGE] | mine[REFUND]
        )
        sums = {USAGE: 0, REFUND: 0}
        for page in self._pages(wanted):
            for kind, amount in page:
                sums[kind] += int(amount)
        return sums

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

    def _pages(self, wanted: Executable) -> Iterator[Sequence[Sequence[Any]]]:
        return pages(self._connection, wanted, _PAGE)
