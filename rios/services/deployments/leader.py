"""Leases in the database: of the one reconciler that acts, and of each engine, whose heartbeat its renewal is.

Nobody's clock is compared with another's. A holder renews its lease by changing the row; whoever has watched the same
row for as long as a lease lasts, by its own clock, takes it over with the next term, or gives its holder up for lost.
Everything that a holder writes is written under its term, in the transaction that checks it; so one that was frozen
and wakes up writes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from rios.services.deployments.store import LEADER, Lease
from rios.storage.deployment_models import LeaseRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.store import AppStore

LEASE_S = 4.0
RENEWED = 1 / 3
"""Of its time, a lease is renewed when so much is over."""


class Leadership:
    """One candidate. Not for several threads."""

    def __init__(
        self,
        store: AppStore,
        *,
        name: str = LEADER,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of the lease. lease_s: how long it lasts; for ever, and never renewed, where it is infinite."""
        self.holder = ""
        self.says: dict[str, Any] = {}
        """Further columns that the holder writes."""
        self._store = store
        self._name = name
        self._lease_s = lease_s
        self._clock = clock
        self._term: int | None = None
        self._stamp = 0
        self._renewed_at = 0.0
        self._watched: tuple[str, int, int] | None = None
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Leadership {self._name} {self.holder} {'leads' if self.leads else 'waits'}>"

    @property
    def leads(self) -> bool:
        """Whether this one may act now."""
        return self._term is not None and self._clock() < self._renewed_at + self._lease_s

    @property
    def lease(self) -> Lease:
        """What is checked in each transaction."""
        return self._name, self.holder, self._term or 0

    def look(self, *, renew: bool = False) -> bool:
        """Renew the lease when a third of it is over, or take one that is; whether this one leads.

        renew: at once, for what it `says` is another thing now. Raises LedgerUnavailable.
        """
        now = self._clock()
        if self._term is not None:
            due = renew or not self.leads or now >= self._renewed_at + self._lease_s * RENEWED
            return self._renew(now) if due else True
        found = self._read()
        return self._may_take(found, now) and self._take(found, now)

    def give_up(self, *, forget: bool = False) -> None:
        """Let another one lead at once. forget: nobody will."""
        if self._term is None:
            return
        row = LeaseRow
        mine = (row.name == self._name, row.holder == self.holder, row.term == self._term)
        changed = delete(row).where(*mine) if forget else update(row).where(*mine).values(until=0)
        self._store.transact(lambda batch: batch.connection.execute(changed))
        self._term = None

    def lost(self) -> None:
        """Another one has it: the transaction said so."""
        self._term = None
        self._watched = None

    def _read(self) -> tuple[str, int, int] | None:
        with self._store.ledger.database.reading() as connection:
            return self._row(connection)

    def _may_take(self, found: tuple[str, int, int] | None, now: float) -> bool:
        if found is None or found[2] == 0:
            return True
        if found != self._watched:
            self._watched, self._since = found, now
        return now - self._since > self._lease_s

    def _renew(self, now: float) -> bool:
        self._stamp = max(self._store.ledger.now(), self._stamp + 1)
        row = LeaseRow
        mine = (row.name == self._name, row.holder == self.holder, row.term == self._term)
        changed = update(row).where(*mine).values(until=self._stamp, **self.says)
        if self._store.transact(lambda batch: batch.connection.execute(changed).rowcount) != 1:
            self.lost()
            return False
        self._renewed_at = now
        return True

    def _take(self, seen: tuple[str, int, int] | None, now: float) -> bool:
        # A new holder each time: terms begin anew where the row was taken away meanwhile.
        holder = f"holder-{secrets.token_hex(8)}"
        self._stamp = max(self._store.ledger.now(), (seen[2] if seen else 0) + 1)
        term = (seen[1] if seen else 0) + 1
        values: dict[str, Any] = {"holder": holder, "term": term, "until": self._stamp, **self.says}

        def run(connection: Connection) -> bool:
            if self._row(connection) != seen:
                return False
            if seen is None:
                connection.execute(insert(LeaseRow), [{"name": self._name, **values}])
            else:
                connection.execute(update(LeaseRow).where(LeaseRow.name == self._name).values(**values))
            return True

        if not self._store.transact(lambda batch: run(batch.connection)):
            self._watched = None
            return False
        self.holder, self._term, self._renewed_at = holder, term, now
        return True

    def _row(self, connection: Connection) -> tuple[str, int, int] | None:
        row = LeaseRow
        found = connection.execute(select(row.holder, row.term, row.until).where(row.name == self._name)).first()
        return None if found is None else (found[0], found[1], found[2])
