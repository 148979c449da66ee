"""All that deployments of one network need, put together: tables, hosts, the reconciler, routes, and what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rios.billing.pricing import Host as PricedHost
from rios.deploy.lifecycle import Wish
from rios.deploy.runtimes.protocol import Isolation
from rios.services.deployments.acting import Acting
from rios.services.deployments.engine_host import Deploy, EngineHost
from rios.services.deployments.front import Front
from rios.services.deployments.health import Prober
from rios.services.deployments.hosts import Hosts
from rios.services.deployments.leader import LEASE_S
from rios.services.deployments.metering import PERIOD_S, Metering
from rios.services.deployments.reconciler import Reconciler
from rios.services.deployments.routing import Routes
from rios.services.deployments.scaling import Scalers
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.store import AppStore
from rios.words.errors import RiosError

if TYPE_CHECKING:
    from rios.services.charging import Charging
    from rios.services.deployments.network_hosts import Agents
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
        period_s: int = PERIOD_S,
        lease_s: float = LEASE_S,
    ) -> None:
        """owner: who is paid for the host of a name. home: where what outlives the process is; nothing does without.

        lasts: the ledger does all the same, and other processes may serve its deployments.
        """
        ledger = charging.ledger()
        self.store = store = AppStore(ledger)
        self.secrets = SecretStore(store, open_secrets_key(home))
        self._keeps = home is not None or lasts
        self.hosts = hosts(store)

        def priced(name: str) -> PricedHost:
            found = self.hosts.now().get(name)
            ask_bp = 10_000 if found is None else found.offer().ask_bp
            return PricedHost(name, owner(name), "cpu", ask_bp)

        self.routes = Routes(store, self.hosts.way, woken=self._nudge)
        self.prober = Prober(changed=self._nudge)
        metering = Metering(store, charging, priced, period_s=period_s)
        acting = Acting(store, metering, self.secrets, self.routes)
        self.reconciler = Reconciler(store, self.hosts, acting, self.prober, Scalers(store), lease_s=lease_s)
        self.front = Front(self.routes)
        self.reconciler.start()

    def __repr__(self) -> str:
        return f"<Platform {self.reconciler!r}>"

    def _nudge(self) -> None:
        self.reconciler.nudge()

    def changed(self) -> None:
        """Something was written here: routes and reconciler look at it now."""
        self.routes.refresh()
        self.reconciler.nudge()

    def close(self) -> None:
        """End what this process does. Deployments go on where the network's ledger does; else they end with it."""
        if not self._keeps:
            try:
                self._end_all()
            except RiosError as error:
                log.warning("deployments did not end with their network", extra={"reason": str(error)})
        self.front.close()
        self.reconciler.close()
        self.prober.close()
        self.routes.close()
        self.hosts.close()

    def _end_all(self) -> None:
        from rios.services.deployments.service import ask_to_end

        apps, _ = self.store.snapshot()
        for app in apps:
            if app.wish is not Wish.DELETE:
                ask_to_end(self.store, app.id)
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
) -> Platform:
    """The platform of a network: on this machine, and on those whose agents are announced.

    deploy: deploys a model on the network. Sandboxes and volumes of this machine lie where `options.apps` says; in the
    home without, or in a temporary place where there is none.
    """

    lasts = options.home is not None or options.database is not None

    def hosts(store: AppStore) -> Hosts:
        from rios.services.deployments.kubernetes_host import cluster_of
        from rios.services.deployments.local_host import local_hosts, place_of
        from rios.services.deployments.network_hosts import NetworkHosts

        network_id, least = store.network_id(), Isolation.named(options.apps_isolation)
        place = options.apps or place_of(options.home, network_id)
        cluster = cluster_of(options)
        here = local_hosts(
            network_id, place, engine=EngineHost(deploy), isolation=least, cluster=cluster, lasts=lasts
        )  # fmt: skip
        return NetworkHosts(here, agents, network_id, options, isolation=least)

    return Platform(charging, hosts, owner, home=options.home, lasts=lasts)
