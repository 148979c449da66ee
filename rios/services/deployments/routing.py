"""Which replicas take requests, and which of them takes the next one.

A router reads the tables: every change of a state comes with an event, so one number tells whether to read again. It
sends to ready replicas alone: the one with the fewest requests in its hands, none whose circuit is open, and of two
revisions each its share; one that is asked again goes to another host.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from rios.deploy.deciding import SECOND
from rios.deploy.lifecycle import State, Wish
from rios.services.deployments.routers import ROUTER, Presence
from rios.services.deployments.values import App, Replica
from rios.storage.deployment_models import AppEventRow, AppLoadRow
from rios.words.errors import LedgerUnavailable

if TYPE_CHECKING:
    from rios.services.deployments.store import AppStore

log = logging.getLogger(__name__)

LOOK_S = 0.2
"""A router knows of a change after so long at the latest."""
REPORT_S = 1.0
_REPEATED_US = 43_200 * SECOND
"""What was answered is told again after so long: a router that says nothing for days has ended (`retention`)."""
FAILURES_OPEN = 3
"""So many failures in a row open a replica's circuit."""
OPEN_S = 1.0
"""An open circuit lets one request try again after this; each failure doubles it, up to `_OPEN_MAX_S`."""
_OPEN_MAX_S = 30.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """A replica that is ready, and what this router has going on with it."""

    replica_id: str
    host: str
    port: int
    revision: int
    mark: tuple[int, int]
    on: str = ""
    """The host that it runs on."""
    running: int = 0
    failures: int = 0
    open_until: float = 0.0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"


@dataclass(slots=True, eq=False)
class Route:
    """One deployment, as a router sees it."""

    app: App
    specification: Mapping[str, Any]
    endpoints: list[Endpoint] = field(default_factory=list)
    requests: int = 0
    running: int = 0
    waiting: int = 0
    sockets: int = 0
    turn: int = 0
    """Counts what a canary takes its share of."""

    @property
    def may_come(self) -> bool:
        """Whether a replica may become ready without anybody's doing more than asking."""
        return self.app.wish is Wish.RUN and self.app.paid and self.app.state is not State.FAILED


class Routes:
    """The routes of one process. Close it."""

    def __init__(
        self,
        store: AppStore,
        way: Callable[[str, str, str], str],
        *,
        woken: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> None:
        """way: `Hosts.way`. woken: called when a request waits that no replica can take. alone: no other process ends
        replicas of these deployments."""
        self.router = f"{ROUTER}-{secrets.token_hex(6)}"
        self._presence = None if alone else Presence(store, self.router)
        self._store, self._way = store, way
        self._woken = woken
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._specifications: dict[tuple[str, int], dict[str, Any]] = {}
        self._hands: dict[str, Endpoint] = {}
        self._staying: set[str] = set()
        self._leaving: set[str] = set()
        self._seq = -1
        self._reported: dict[str, tuple[tuple[int, int, int], int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="rios-routes", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Routes of {len(self._routes)} deployments>"

    def close(self) -> None:
        """Route no more."""
        self._stop.set()
        self._thread.join(self._store.ledger.database.timeout_s)
        if self._presence is not None:
            try:
                self._presence.leave()
            except LedgerUnavailable as error:  # whoever ends replicas finds out that it says nothing any more
                log.warning("a router leaves without a word", extra={"reason": str(error)})

    # --- who takes a request ---------------------------------------------------------------------------------

    def find(self, organisation_id: str, name: str) -> Route | None:
        """The route of a name, or None."""
        with self._lock:
            app_id = self._names.get((organisation_id, name))
            return None if app_id is None else self._routes.get(app_id)

    def public(self, name: str) -> Route | None:
        """The route of a name that everybody may use; of several organisations' the oldest, so that nobody takes over
        an address that others use."""
        with self._lock:
            found = [
                route
                for route in self._routes.values()
                if route.app.name == name and route.specification["access"] == "public"
            ]
        return min(found, key=lambda route: route.app.created_at, default=None)

    def of(self, app_id: str) -> Route | None:
        """The route of a deployment, or None."""
        with self._lock:
            return self._routes.get(app_id)

    def take(self, route: Route, *, avoid: Collection[str] = ()) -> Endpoint | None:
        """The replica for the next request, which counts as being in its hands until `give_back`; None for now.

        avoid: replicas that this request has tried. Where one did not answer, its host may be gone, and with it all
        that run there: the next is on another host, if any is.
        """
        with self._lock:
            now = time.monotonic()
            usable = [one for one in route.endpoints if one.replica_id not in avoid and one.open_until <= now]
            usable = _share(route, usable)
            if not usable:
                return None
            tried = {one.on for one in route.endpoints if one.replica_id in avoid}
            found = min(usable, key=lambda one: (one.on in tried, one.running, one.replica_id))
            if found.failures >= FAILURES_OPEN:
                # One request tries; the others go elsewhere until it is back.
                found.open_until = now + OPEN_S
            found.running += 1
            return found

    def give_back(self, endpoint: Endpoint, *, good: bool) -> None:
        """A request is not in a replica's hands any more. good: whether the replica answered."""
        with self._lock:
            endpoint.running -= 1
            if good:
                endpoint.failures, endpoint.open_until = 0, 0.0
            else:
                endpoint.failures += 1
                if (beyond := endpoint.failures - FAILURES_OPEN) >= 0:
                    endpoint.open_until = time.monotonic() + min(OPEN_S * 2 ** min(beyond, 10), _OPEN_MAX_S)

    def count(self, route: Route, *, running: int = 0, waiting: int = 0, requests: int = 0, sockets: int = 0) -> None:
        """So many requests more that run, wait, or were answered, and sockets; fewer where it is below 0."""
        with self._lock:
            route.sockets += sockets
            route.running += running
            route.waiting += waiting
            route.requests += requests

    def running(self, replica_id: str) -> int:
        """The requests in a replica's hands that came by this router."""
        with self._lock:
            return self._hands.get(replica_id, _NOBODY).running

    def sockets(self, route: Route) -> int:
        """The sockets of a deployment that this router has open."""
        with self._lock:
            return route.sockets

    def is_leaving(self, replica_id: str) -> bool:
        """Whether a replica is being ended, or has been."""
        with self._lock:
            return replica_id not in self._staying

    def wake(self, route: Route) -> None:
        """A request waits: say so at once where nothing runs."""
        self._report({route.app.id: route})
        self._woken()

    # --- what there is ---------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read what has changed, by one thread at a time: what is older is never taken in after what is newer, or
        requests would go once more to who is leaving. Raises LedgerUnavailable."""
        with self._refreshing:
            with self._store.ledger.database.reading() as connection:
                seq = connection.scalar(select(func.max(AppEventRow.seq))) or 0
            if seq == self._seq:
                return
            if self._presence is not None:
                self._presence.be_there()
            apps, replicas = self._store.snapshot()
            if missing := {(app.id, app.revision) for app in apps} - self._specifications.keys():
                self._specifications |= self._store.specifications(missing)
            with self._lock:
                self._take_in(apps, replicas)
                self._seq = seq

    def _take_in(self, apps: list[App], replicas: Mapping[str, list[Replica]]) -> None:
        routes: dict[str, Route] = {}
        hands = self._hands
        for app in apps:
            specification = self._specifications[app.id, app.revision]
            route = self._routes.get(app.id) or Route(app, specification)
            route.app, route.specification = app, specification
            route.endpoints = []
            for replica in replicas.get(app.id, []):
                if replica.state is not State.READY or not replica.address:
                    continue
                endpoint = hands.get(replica.id)
                if endpoint is None:
                    host, _, port = self._way(replica.host, replica.id, replica.address).rpartition(":")
                    if not port:  # its host is not known here yet
                        continue
                    mark = (replica.revision, replica.round)
                    endpoint = hands[replica.id] = Endpoint(
                        replica.id, host, int(port), replica.revision, mark, on=replica.host
                    )
                route.endpoints.append(endpoint)
            routes[app.id] = route
        alive = {replica.id for found in replicas.values() for replica in found}
        self._hands = {name: one for name, one in hands.items() if name in alive or one.running}
        self._staying = {replica.id for found in replicas.values() for replica in found if replica.lives}
        self._leaving = alive - self._staying
        self._routes = routes
        self._names = {(app.organisation_id, app.name): app.id for app in apps}
        known = {(app.id, app.revision) for app in apps}
        self._specifications = {mark: one for mark, one in self._specifications.items() if mark in known}

    def _loop(self) -> None:
        report_at = 0.0
        while not self._stop.wait(LOOK_S):
            try:
                self.refresh()
                self._say()
                if time.monotonic() >= report_at:
                    report_at = time.monotonic() + REPORT_S
                    with self._lock:
                        routes = dict(self._routes)
                    self._report(routes)
            except LedgerUnavailable as error:
                log.warning("routes are as they were", extra={"reason": str(error)})

    def _say(self) -> None:
        """Tell whoever ends replicas what of them is still waited for here."""
        if self._presence is None:
            return
        with self._refreshing:
            with self._lock:
                seq, leaving, sends = self._seq, self._leaving, bool(self._hands)
                hands = [one for one in leaving if self._hands.get(one, _NOBODY).running]
            self._presence.say(seq, leaving, hands, sends=sends)

    def _report(self, routes: Mapping[str, Route]) -> None:
        """Tell the scaler what goes on, where something does."""
        now, rows = self._store.ledger.now(), []
        for app_id, route in routes.items():
            found = (route.requests, route.running, route.waiting)
            known, at = self._reported.get(app_id, ((0, 0, 0), now))
            if found != known or route.running or route.waiting or (route.requests and now - at > _REPEATED_US):
                self._reported[app_id] = found, now
                rows.append(
                    {
                        "app_id": app_id, "router": self.router, "at": now, "requests": found[0], "running": found[1],
                        "waiting": found[2],
                    }
                )  # fmt: skip
        if not rows:
            return
        mine = (AppLoadRow.router == self.router, AppLoadRow.app_id.in_([row["app_id"] for row in rows]))

        def run(batch: Any) -> None:
            batch.connection.execute(delete(AppLoadRow).where(*mine))
            batch.connection.execute(insert(AppLoadRow), rows)

        self._store.transact(run)


_NOBODY = Endpoint("", "", 0, 0, (0, 0))


def _share(route: Route, usable: list[Endpoint]) -> list[Endpoint]:
    """Of two revisions, the replicas of the one whose turn it is."""
    mark = (route.app.revision, route.app.round)
    new = [one for one in usable if one.mark == mark]
    old = [one for one in usable if one.mark != mark]
    if not new or not old:
        return usable
    update = route.specification["update"]
    if update["strategy"] == "blue-green":
        return old
    if update["strategy"] == "canary":
        route.turn += 1
        weight = update["weight"]
        return new if route.turn * weight // 100 > (route.turn - 1) * weight // 100 else old
    return usable
