"""The engines of a network as whoever leads sees them: by their leases, which they renew while they live."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select

from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.deployments.engine import ENGINE
from rios.services.deployments.leader import RENEWED
from rios.storage.deployment_models import AppEventRow, LeaseRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.store import AppStore

_MODELS_MAX = 1000
_SEQ = select(func.max(AppEventRow.seq))
_LEASES = select(LeaseRow.name, LeaseRow.holder, LeaseRow.term, LeaseRow.until, LeaseRow.takes).where(
    LeaseRow.name.startswith(f"{ENGINE}-")
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Engines at one moment."""

    living: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    """Those of them that serve each model that is bound to none."""
    silent: frozenset[str] = frozenset()
    """Those whose leases are over and still there."""


class Engines:
    """Watches leases. Not for several threads."""

    def __init__(self, store: AppStore, *, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lease_s = lease_s
        self._clock = clock
        self._watched: dict[str, tuple[tuple[str, int, int], float]] = {}
        """By name: the lease as it was seen last, and since when it is that."""
        self._looked_at: float | None = None

    def __repr__(self) -> str:
        return f"<Engines of {len(self._watched)} leases>"

    def forget(self) -> None:
        """Watch anew: who did not look for a while cannot tell whose lease has not moved."""
        self._watched.clear()
        self._looked_at = None

    def look(self) -> Seen:
        """Those that there are now. Raises LedgerUnavailable."""
        with self._store.ledger.database.reading() as connection:
            found = connection.execute(_LEASES).all()
        return self._seen(found)

    def look_with_seq(self) -> tuple[int, Seen]:
        """The number of the last event, and those that there are then."""
        with self._store.ledger.database.reading() as connection:
            seq = connection.scalar(_SEQ) or 0
            found = connection.execute(_LEASES).all()
        return seq, self._seen(found)

    def _seen(self, found: Sequence[Any]) -> Seen:
        now = self._clock()
        # While the database did not answer, no engine could renew its lease, and nobody saw that.
        looked_at = now if self._looked_at is None else self._looked_at
        missed = max(now - looked_at - self._lease_s * RENEWED, 0.0)
        self._looked_at = now
        watched, takes, silent = {}, set(), set()
        for name, holder, term, until, does in found:
            lease = (holder, term, until)
            known = self._watched.get(name)
            since = now if known is None or known[0] != lease else known[1] + missed
            watched[name] = (lease, since)
            if now - since > self._lease_s:
                silent.add(name)
            elif does:
                takes.add(name)
        self._watched = watched
        return Seen(frozenset(watched.keys() - silent), frozenset(takes), frozenset(silent))

    def drop(self, names: Collection[str]) -> None:
        """Take away the leases of lost engines that have nothing any more; one that lives after all makes another."""
        if not names:
            return
        known = {name: self._watched[name][0] for name in names}

        def run(connection: Connection) -> None:
            for name, (holder, term, until) in known.items():
                seen = (LeaseRow.holder == holder, LeaseRow.term == term, LeaseRow.until == until)
                connection.execute(delete(LeaseRow).where(LeaseRow.name == name, *seen))

        self._store.transact(lambda batch: run(batch.connection))


def offer_of(name: str) -> HostOffer:
    """Room for models: the engine itself knows what fits into the workers' memory, and says so by an error."""
    return HostOffer(name=name, total=Amounts(replicas=_MODELS_MAX), runtimes=frozenset({ENGINE}))
