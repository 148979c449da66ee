"""All that deployments of one network need, put together: tables, the engine, the reconciler, and for applications
hosts, probes, routes, and what they cost, which are made when there is one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.lifecycle import Wish
from rios.services.deployments.acting import Acting
from rios.services.deployments.engine import Deploy, Engine
from rios.services.deployments.leader import LEASE_S
from rios.services.deployments.reconciler import Reconciler
from rios.services.deployments.retention import Keeps
from rios.services.deployments.store import AppStore
from rios.services.lazy import Closes, Lazy
from rios.words.errors import HostLost, InvalidRequest, LedgerUnavailable, RiosError

if TYPE_CHECKING:
    from rios.billing.pricing import Host as PricedHost
    from rios.services.charging import Charging
    from rios.services.deployments.front import Front
    from rios.services.deployments.health import Prober
    from rios.services.deployments.hosts import Hosts
    from rios.services.deployments.metering import Metering
    from rios.services.deployments.network_hosts import Agents
    from rios.services.deployments.routing import Routes
    from rios.services.deployments.scaling import Scalers
    from rios.services.deployments.secrets import SecretStore
    from rios.words.config import Settings
    from rios.words.ids import Address

log = logging.getLogger(__name__)

_END_S = 30.0
_LOOK_S = 0.05


class Platform:
    """The deployments of a network, from this process. Close it."""

    def __init__(
        self,
        charging: Charging,
        hosts: Callable[[AppStore], Hosts],
        owner: Callable[[str], Address],
        *,
        home: Path | None,
        lasts: bool = False,
        deploy: Deploy | None = None,
        period_s: int | None = None,
        lease_s: float = LEASE_S,
        keeps: Keeps | None = None,
    ) -> None:
        """owner: who is paid for the host of a name. home: where what outlives the process is; nothing does without.

        lasts: the ledger does all the same, and other processes may serve its deployments. deploy: deploys a model;
        without it this process serves none. period_s: of accounting; a minute without. keeps: of what they have been
        through.
        """
        ledger = charging.ledger()
        self.store = store = AppStore(ledger)
        self._charging, self._owner, self._home, self._period_s = charging, owner, home, period_s
        self._keeps = home is not None or lasts
        if not self._keeps:
            lease_s = math.inf  # no other process knows of this ledger
        self._making = threading.RLock()
        self._hosts = Lazy(partial(hosts, store))
        self._routes: Lazy[Routes] = Lazy(self._make_routes)
        self._prober: Lazy[Prober] = Lazy(self._make_prober)
        self._scalers: Lazy[Scalers] = Lazy(self._make_scalers)
        self._front: Lazy[Front] = Lazy(self._make_front)
        self._engine = None if deploy is None else Engine(store, deploy, lease_s=lease_s)
        acting = Acting(store, lambda: self._metering, lambda: self.secrets, self._routes, keeps)
        self.reconciler = Reconciler(
            store, self._hosts, acting, self._prober, self._scalers, engine=self._engine, lease_s=lease_s
        )
        if self._engine is not None:
            self._engine.changed = self.reconciler.nudge
            self.reconciler.wrote = self._engine.nudge
        self.reconciler.start()

    def __repr__(self) -> str:
        return f"<Platform {self.reconciler!r}>"

    @property
    def engine(self) -> Engine:
        """What serves models in this process. Raises InvalidRequest where nothing does."""
        if self._engine is None:
            raise InvalidRequest("this process has no network of workers, and serves no models")
        return self._engine

    @property
    def hosts(self) -> Hosts:
        """The hosts of applications."""
        return self._hosts()

    @property
    def has_hosts(self) -> bool:
        """Whether somebody has needed them."""
        return self._hosts.is_made

    @property
    def routes(self) -> Routes:
        """Which replica takes the next request."""
        return self._routes()

    @property
    def front(self) -> Front:
        """Loopback ports of applications."""
        return self._front()

    @cached_property
    def secrets(self) -> SecretStore:
        """Values of secrets, encrypted under one key."""
        from rios.services.deployments.secrets import SecretStore, open_secrets_key

        with self._making:  # the first one is kept: a second key would open nothing
            known: SecretStore | None = self.__dict__.get("secrets")
            if known is None:
                key = open_secrets_key(self._home, self.store.ledger.database)
                known = self.__dict__["secrets"] = SecretStore(self.store, key)
            return known

    @cached_property
    def _metering(self) -> Metering:
        from rios.billing.pricing import Host as PricedHost
        from rios.services.deployments.metering import PERIOD_S, Metering

        asked = dict[str, int]()

        def priced(name: str) -> PricedHost:
            found = self.hosts.now().get(name)
            if found is not None:
                with contextlib.suppress(HostLost):  # it asks what it asked last
                    asked[name] = found.offer().ask_bp
            return PricedHost(name, self._owner(name), "cpu", asked.get(name, 10_000))

        return Metering(self.store, self._charging, priced, period_s=self._period_s or PERIOD_S)

    def _make_routes(self) -> Routes:
        from rios.services.deployments.routing import Routes

        def way(host: str, replica_id: str, address: str) -> str:
            return self.hosts.way(host, replica_id, address)

        found = Routes(self.store, way, woken=self._nudge, alone=not self._keeps)
        try:
            found.refresh()  # whoever asks for a route now may be sent to what is there already
        except LedgerUnavailable:
            found.close()
            raise
        return found

    def _make_prober(self) -> Prober:
        from rios.services.deployments.health import Prober

        return Prober(changed=self._nudge)

    def _make_scalers(self) -> Scalers:
        from rios.services.deployments.scaling import Scalers

        return Scalers(self.store)

    def _make_front(self) -> Front:
        from rios.services.deployments.front import Front

        return Front(self.routes)

    def _nudge(self) -> None:
        self.reconciler.nudge()

    def changed(self) -> None:
        """Something was written here: routes, reconciler and engine look at it now."""
        if self._routes.is_made:
            self.routes.refresh()
        self.reconciler.nudge()
        if self._engine is not None:
            self._engine.nudge()

    def close(self) -> None:
        """End what this process does. Deployments go on where the network's ledger does; else they end with it."""
        if not self._keeps:
            try:
                self._end_all()
            except RiosError as error:
                log.warning("deployments did not end with their network", extra={"reason": str(error)})
        self._front.close()
        if self._engine is not None:
            self._engine.close()
        self.reconciler.close()
        for part in (self._scalers, self._prober, self._routes, self._hosts):
            part.close()

    def _end_all(self) -> None:
        from rios.services.deployments.service import ask_to_end

        if self._engine is not None:
            self._engine.end_bound()
        apps, _ = self.store.snapshot()
        for app in apps:
            if app.wish is not Wish.DELETE:
                ask_to_end(self.store, app.id)
        if apps:
            self.changed()
        deadline = time.monotonic() + _END_S
        while not self.store.is_empty():
            if time.monotonic() > deadline:
                log.warning("deployments still end after %g s; what is left ends with this process", _END_S)
                return
            time.sleep(_LOOK_S)


def platform_of(
    charging: Charging,
    owner: Callable[[str], Address],
    options: Settings,
    *,
    deploy: Deploy,
    agents: Agents,
    door: Callable[[Path], Closes] | None = None,
) -> Platform:
    """The platform of a network: on this machine, and on those whose agents are announced.

    deploy: deploys a model on the network. door: as for `local_hosts`. Sandboxes and volumes of this machine lie where
    `options.apps` says; in the home without, or in a temporary place where there is none.
    """

    lasts = options.home is not None or options.database is not None
    if options.apps_networks:  # what is wrong with it is said now, and not with the first application
        from rios.services.deployments.machine import policy_of

        policy_of(options.apps_networks)

    def hosts(store: AppStore) -> Hosts:
        from rios.deploy.runtimes.protocol import Isolation
        from rios.services.deployments.kubernetes_host import cluster_of
        from rios.services.deployments.local_hosts import local_hosts, place_of
        from rios.services.deployments.machine import policy_of
        from rios.services.deployments.network_hosts import NetworkHosts
        from rios.services.deployments.room import Keeping

        network_id, least = store.network_id(), Isolation.named(options.apps_isolation)
        place = options.apps or place_of(options.home, network_id)
        here = local_hosts(
            network_id, place, isolation=least, cluster=cluster_of(options), lasts=lasts, region=options.region,
            ask_bp=options.ask_bp, policy=policy_of(options.apps_networks), door=door,
            snapshot_bytes=options.apps_snapshot_bytes, keeping=Keeping.of(options),
        )  # fmt: skip
        return NetworkHosts(here, agents, network_id, options, isolation=least)

    return Platform(charging, hosts, owner, home=options.home, lasts=lasts, deploy=deploy, keeps=Keeps.of(options))
