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
        """Renew the lease when a fourth of it is over, or take one that is; whether this one leads.

        renew: at once, for what it `says` is another thing now. Raises LedgerUnavailable.
        """
        now = self._clock()
        if not renew and self._term is not None and self.leads and now < self._renewed_at + self._lease_s / 4:
            return True
        found = self._read()
        if self._term is None and not self._may_take(found, now):
            return False
        return self._claim(found, now)

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

    def _claim(self, seen: tuple[str, int, int] | None, now: float) -> bool:
        stamp = max(self._store.ledger.now(), (seen[2] if seen else 0) + 1)
        own = self._term
        # A new holder each time: terms begin anew where the row was taken away meanwhile.
        holder = self.holder if own is not None else f"holder-{secrets.token_hex(8)}"

        def run(connection: Connection) -> int | None:
            found = self._row(connection)
            changed = update(LeaseRow).where(LeaseRow.name == self._name)
            if own is not None and found is not None and found[:2] == (holder, own):
                connection.execute(changed.values(until=stamp, **self.says))
                return own
            if own is not None or found != seen:
                return None
            term = (found[1] if found else 0) + 1
            values: dict[str, Any] = {"holder": holder, "term": term, "until": stamp, **self.says}
            if found is None:
                connection.execute(insert(LeaseRow), [{"name": self._name, **values}])
            else:
                connection.execute(changed.values(**values))
            return term

        self._term = self._store.transact(lambda batch: run(batch.connection))
        if self._term is None:
            self._watched = None
            return False
        self.holder = holder
        self._renewed_at = now
        return True

    def _row(self, connection: Connection) -> tuple[str, int, int] | None:
        row = LeaseRow
        found = connection.execute(select(row.holder, row.term, row.until).where(row.name == self._name)).first()
        return None if found is None else (found[0], found[1], found[2])
