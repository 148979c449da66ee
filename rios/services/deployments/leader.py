"""Which of several reconcilers acts: the one that holds the lease in the database.

Nobody's clock is compared with another's. A holder renews its lease by changing the row; whoever has watched the same
row for as long as a lease lasts, by its own clock, takes it over with the next term. Everything that a reconciler
writes is written under its term, in the transaction that checks it; so one that was frozen and wakes up writes
nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from rios.services.deployments.store import LEADER
from rios.storage.deployment_models import LeaseRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.store import AppStore

LEASE_S = 4.0
RENEW_S = 1.0


class Leadership:
    """One candidate. Not for several threads."""

    def __init__(
        self, store: AppStore, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.holder = f"reconciler-{secrets.token_hex(8)}"
        self._store = store
        self._lease_s = lease_s
        self._clock = clock
        self._term: int | None = None
        self._renewed_at = 0.0
        self._watched: tuple[str, int, int] | None = None
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Leadership {self.holder} {'leads' if self.leads else 'waits'}>"

    @property
    def leads(self) -> bool:
        """Whether this one may act now."""
        return self._term is not None and self._clock() < self._renewed_at + self._lease_s

    @property
    def lease(self) -> tuple[str, int]:
        """What is checked in each transaction."""
        return self.holder, self._term or 0

    def look(self) -> bool:
        """Renew the lease, or take one that is over; whether this one leads. Raises LedgerUnavailable."""
        now = self._clock()
        if self._term is not None and self.leads and now < self._renewed_at + min(RENEW_S, self._lease_s / 4):
            return True
        found = self._read()
        if self._term is None and not self._may_take(found, now):
            return False
        return self._claim(found, now)

    def give_up(self) -> None:
        """Let another one lead at once."""
        if self._term is None:
            return
        mine = (LeaseRow.name == LEADER, LeaseRow.holder == self.holder, LeaseRow.term == self._term)
        changed = update(LeaseRow).where(*mine).values(until=0)
        self._store.transact(lambda batch: batch.connection.execute(changed))
        self._term = None

    def lost(self) -> None:
        """Another one has it: the transaction said so."""
        self._term = None
        self._watched = None

    def _read(self) -> tuple[str, int, int] | None:
        with self._store.ledger.database.reading() as connection:
            return _row(connection)

    def _may_take(self, found: tuple[str, int, int] | None, now: float) -> bool:
        if found is None or found[2] == 0:
            return True
        if found != self._watched:
            self._watched, self._since = found, now
        return now - self._since > self._lease_s

    def _claim(self, seen: tuple[str, int, int] | None, now: float) -> bool:
        stamp = max(self._store.ledger.now(), (seen[2] if seen else 0) + 1)
        own = self._term

        def run(connection: Connection) -> int | None:
            found = _row(connection)
            if own is not None and found is not None and found[:2] == (self.holder, own):
                connection.execute(update(LeaseRow).where(LeaseRow.name == LEADER).values(until=stamp))
                return own
            if own is not None or found != seen:
                return None
            values: dict[str, Any] = {"holder": self.holder, "term": (found[1] if found else 0) + 1, "until": stamp}
            if found is None:
                connection.execute(insert(LeaseRow), [{"name": LEADER, **values}])
            else:
                connection.execute(update(LeaseRow).where(LeaseRow.name == LEADER).values(**values))
            term: int = values["term"]
            return term

        self._term = self._store.transact(lambda batch: run(batch.connection))
        if self._term is None:
            self._watched = None
            return False
        self._renewed_at = now
        return True


def _row(connection: Connection) -> tuple[str, int, int] | None:
    row = LeaseRow
    found = connection.execute(select(row.holder, row.term, row.until).where(row.name == LEADER)).first()
    return None if found is None else (found[0], found[1], found[2])
