"""Which routers there are, and what each of them still has in the hands of replicas that are being ended.

A router has a row among the leases, under its own name, before it sends anything anywhere. It changes that row while it
has replicas to send to, and says by it up to which event it has read, and in which of the replicas that leave a request
of its own is. Whoever ends a replica waits until each router has read that it ends, and has nothing in its hands: a
drain costs writes, a request none. Nobody's clock is compared with another's: a router whose row has not changed for
`DEAD_S` by the clock of who waits is dead, and its row is taken away.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from rios.deploy.lifecycle import State
from rios.services.deployments.leader import LEASE_S, RENEWED
from rios.services.deployments.store import NotLeader
from rios.storage.deployment_models import AppEventRow, LeaseRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.routing import Routes
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import Replica

ROUTER = "router"
DEAD_S = LEASE_S
"""A router whose row has not changed for so long has ended, or cannot be waited for."""
_ALIVE_S = DEAD_S * RENEWED
"""A router with replicas to send to changes its row so often at least."""
_FRESH_S = DEAD_S / 2
"""A router that said something within this is not taken for dead while it reads what there is."""
_LOOK_S = 0.02
_READ_S = 0.1
"""What other routers say is read so often at most, for all replicas that are ended at a time."""
_ROUTERS = select(LeaseRow.name, LeaseRow.holder, LeaseRow.term, LeaseRow.until).where(
    LeaseRow.name.startswith(f"{ROUTER}-")
)


class Presence:
    """The row of one router. Not for several threads."""

    def __init__(self, store: AppStore, name: str) -> None:
        """name: begins with `ROUTER-`."""
        self._store, self._name = store, name
        self._stamp = 0
        self._told_at: float | None = None
        self._leaving: frozenset[str] = frozenset()
        self._hands: frozenset[str] = frozenset()
        self._seq = -1

    def __repr__(self) -> str:
        return f"<Presence {self._name} at {self._seq}>"

    def be_there(self) -> None:
        """Have the row there, and not old, before something is read that requests will follow. Raises
        LedgerUnavailable."""
        if self._told_at is None or time.monotonic() - self._told_at >= _FRESH_S:
            self._tell()

    def say(self, seq: int, leaving: Collection[str], hands: Collection[str], *, sends: bool) -> None:
        """Say what has changed for whoever ends replicas, or that this router lives. Raises LedgerUnavailable.

        seq: the event up to which was read. leaving: the replicas that are being ended by then. hands: those of them
        that have a request of this router. sends: whether there is a replica that it may send to.
        """
        is_news = not self._leaving.issuperset(leaving) or self._hands != frozenset(hands)
        self._leaving, self._hands, self._seq = frozenset(leaving), frozenset(hands), seq
        is_due = self._told_at is None or time.monotonic() - self._told_at >= _ALIVE_S
        if is_news or (sends and is_due):
            self._tell()

    def leave(self) -> None:
        """Nothing is sent any more. Raises LedgerUnavailable."""
        if self._told_at is not None:
            mine = LeaseRow.name == self._name
            self._store.transact(lambda batch: batch.connection.execute(delete(LeaseRow).where(mine)))

    def _tell(self) -> None:
        self._stamp = max(self._store.ledger.now(), self._stamp + 1)
        values = {"name": self._name, "holder": json.dumps(sorted(self._hands)), "term": self._seq}
        begun = time.monotonic()

        def run(connection: Connection) -> None:
            # Whoever took this router for dead has taken its row away.
            connection.execute(delete(LeaseRow).where(LeaseRow.name == self._name))
            connection.execute(insert(LeaseRow), [{**values, "until": self._stamp}])

        self._store.transact(lambda batch: run(batch.connection))
        self._told_at = begun


class Drains:
    """Waits for what replicas that are being ended have in their hands. For several threads."""

    def __init__(self, store: AppStore, routes: Callable[[], Routes] | None, closing: threading.Event) -> None:
        """routes: those of this process. closing: set when it ends."""
        self._store, self._routes, self._closing = store, routes, closing
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._others: dict[str, tuple[int, frozenset[str]]] = {}
        self._watched: dict[str, tuple[int, float]] = {}
        """By router: the stamp of its row as it was seen last, and since when it is that."""

    def __repr__(self) -> str:
        return f"<Drains among {len(self._others)} routers>"

    def wait(self, one: Replica, grace_s: float) -> None:
        """Until no router has a request in the hands of a replica, which gets no new ones, or `grace_s` are over.

        Raises NotLeader where this process ends, LedgerUnavailable.
        """
        routes = None if self._routes is None else self._routes()
        if routes is not None:
            routes.refresh()
        begun = time.monotonic()
        told = self._told(one)
        while time.monotonic() < begun + grace_s:
            is_here = routes is not None and routes.running(one.id)
            if not is_here and self._is_done(one.id, told, routes.router if routes else "", since=begun):
                return
            if self._closing.wait(_LOOK_S):
                raise NotLeader("this process ends: another one goes on")

    def _told(self, one: Replica) -> int:
        """The event by which routers know that a replica takes nothing more."""
        row = AppEventRow
        mine = (row.app_id == one.app_id, row.replica_id == one.id, row.state == str(State.STOPPING))
        with self._store.ledger.database.reading() as connection:
            return connection.scalar(select(func.max(row.seq)).where(*mine)) or 0

    def _is_done(self, replica_id: str, told: int, mine: str, *, since: float) -> bool:
        """Whether all other routers know, and have nothing. since: what they said before is not enough."""
        with self._lock:
            now = time.monotonic()
            if self._read_at < since or now - self._read_at >= _READ_S:
                self._read(now)
            return all(
                seq >= told and replica_id not in hands for name, (seq, hands) in self._others.items() if name != mine
            )

    def _read(self, now: float) -> None:
        with self._store.ledger.database.reading() as connection:
            found = connection.execute(_ROUTERS).all()
        before, self._watched, self._others = self._watched, {}, {}
        dead = []
        for name, hands, seq, stamp in found:
            known = before.get(name)
            since = known[1] if known is not None and known[0] == stamp else now
            self._watched[name] = stamp, since
            if now - since > DEAD_S:
                dead.append((name, stamp))
            else:
                self._others[name] = seq, frozenset(json.loads(hands))
        self._read_at = now
        if dead:
            self._store.transact(lambda batch: self._bury(batch.connection, dead))

    @staticmethod
    def _bury(connection: Connection, dead: list[tuple[str, int]]) -> None:
        for name, stamp in dead:
            connection.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.until == stamp))
