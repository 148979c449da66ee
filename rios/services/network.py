"""A network: the workers that pool their machines, and the models deployed on them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from rios.dmoe.params import check_timeout
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.edges import announce, edge
from rios.services.generation import Model
from rios.services.jobs import Jobs
from rios.services.lazy import Closes, Lazy
from rios.services.models import Dmoe, starter
from rios.services.owners import Owners
from rios.services.purse import Purse
from rios.services.views import WorkerInfo, Workers, size
from rios.words.config import Settings, settings
from rios.words.display import Unknown, answer, html_line
from rios.words.errors import InvalidRequest, NetworkClosed, NoWorkers
from rios.words.events import UsageSink

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.dmoe.cluster import LocalCluster
    from rios.dmoe.deployment import Deployment
    from rios.dmoe.membership import Membership
    from rios.dmoe.peer import Peer
    from rios.services.billing import Billing
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.platform import Platform
    from rios.services.deployments.service import Deployments
    from rios.services.governance import Governance
    from rios.services.reports.keeping import KeptBy
    from rios.services.reports.own import UserReports
    from rios.services.reports.reports import Reports
    from rios.services.wallet import Earnings, Wallet
    from rios.storage.breaker import Breaker
    from rios.words.ids import Address

log = logging.getLogger(__name__)


class Network:
    """What `rios.local()` and `rios.connect()` return. Use it as a context manager, or `close` it."""

    def __init__(self, address: str, *, cluster: LocalCluster | None, options: Settings) -> None:
        from rios.dmoe.certifying import certifier_of
        from rios.dmoe.membership import Membership
        from rios.dmoe.scheduler import Scheduler

        self.address = address
        self.cluster = cluster
        self.sinks: list[UsageSink] = []
        self._settings = options
        self._models: list[Model] = []
        self._closed = False
        self._deployments: list[Deployment] = []
        # What ends with the network, last things first. Nothing in it holds the network, or a model, which does.
        self._ends = ends = contextlib.ExitStack()
        if cluster is not None:
            ends.callback(cluster.close)
        self._dropped = weakref.finalize(self, _end_dropped, ends)
        try:
            scheduler = Scheduler(address, options)
        except OSError as error:
            raise NoWorkers(f"no Dask scheduler answers at {address}: start one with `dask scheduler`") from error
        ends.callback(scheduler.close)
        self._membership = membership = Membership(scheduler, options)
        ends.callback(membership.close)
        if (certifier := certifier_of(lambda: membership.hosts, options)) is not None:
            ends.callback(certifier.close)
        self._purse = purse = Purse(options)
        self._owners = Owners(
            lambda: membership.hosts, wallet=lambda: purse.books.address, before=partial(_paid_before, purse)
        )
        self.billing: Billing = purse.billing
        self.wallet: Wallet = purse.wallet
        self.earnings: Earnings = purse.earnings
        self.governance: Governance = purse.governance
        self.wallet.network = weakref.ref(self)
        self.jobs = Jobs(logins=purse.logins)
        ends.callback(self._purse.close)
        self._apps = Lazy(partial(_platform, purse, self._owners, options, weakref.ref(self)))
        self._reports = Lazy(partial(_reports, purse, options, scheduler, partial(_keepers, self._apps, membership)))
        ends.callback(self._reports.close)
        purse.books.when_open(partial(_go_on, self._apps))
        ends.callback(_close_all, self._deployments)
        ends.callback(self._apps.close)
        ends.callback(announce(self, kind="local"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._membership.hosts)} workers, {len(self._models)} models"
        return f"<Network {self.address} {state}>"

    def _repr_html_(self) -> str:
        workers = () if self._closed else answer(lambda: self.workers)
        if not workers or isinstance(workers, Unknown):
            return html_line(repr(self))
        models = ", ".join(model.name for model in self._models) or "none"
        memory = size(sum(worker.memory_bytes for worker in workers))
        about = f"{self.address}: {memory} for shards; models: {models}"
        return html_line(about, title="Network") + workers._repr_html_()

    @property
    def account(self) -> str:
        """Who pays for what is done through this object."""
        return self._purse.charging.user

    @property
    def dmoe(self) -> Dmoe:
        """Mixture-of-experts models on this network."""
        return Dmoe(self)

    @property
    def deploy(self) -> Deployments:
        """Applications and models with a life cycle on this network."""
        from rios.services.deployments.service import Deployments

        self._open()
        return Deployments(self._apps, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)

    @property
    def reports(self) -> UserReports:
        """Reports about costs, earnings and faults, made now and on a schedule."""
        from rios.services.reports.own import UserReports

        self._open()
        return UserReports(self._reports, user=LOCAL_USER, everybodys=True)

    def widget(self, view: str = "all") -> Any:
        """The panel of JupyterLab's sidebar in the notebook, live: all of it, or "wallet", "jobs" or "hosts"."""
        return edge("widgets").of_network(self, view)

    @property
    def models(self) -> tuple[Model, ...]:
        """Models deployed through this object."""
        return tuple(self._models)

    @property
    def workers(self) -> Workers:
        """The workers now: name, pid, address, device, memory, state, experts."""
        from rios.dmoe.control import welcomes

        self._open()
        self._membership.refresh()
        answers = welcomes(self._peers(), self._settings, session="workers")
        found: list[WorkerInfo] = []
        for name, (peer, said) in sorted(self._membership.hosts.items()):
            address = f"{peer.address[0]}:{peer.address[1]}"
            info = answers.get(name, {})
            state = "serving" if info else "lost"
            experts = sum(one["experts"] for one in info.get("deployments", {}).values())
            found.append(
                WorkerInfo(
                    name,
                    int(info.get("pid", said["pid"])),
                    address,
                    str(info.get("device", "unknown")),
                    int(info.get("memory_bytes", 0)),
                    int(info.get("reserved_bytes", 0)),
                    state,
                    experts,
                    float(info.get("speed", 0.0)),
                    peer.machine,
                    str(said["dask_address"]),
                    info.get("gpu"),
                )
            )
        return Workers(found)

    def _peers(self) -> dict[str, Peer]:
        return {name: peer for name, (peer, _) in self._membership.hosts.items()}

    def deployed(self) -> list[dict[str, Any]]:
        """What the hosts serve, whoever deployed it: model, architecture, layers, experts, bytes, hosts.

        A row for each deployment; two of one name are two rows.
        """
        from rios.dmoe.control import model_name, welcomes

        self._open()
        found: dict[str, dict[str, Any]] = {}
        for name, said in welcomes(self._peers(), self._settings, session="models").items():
            for deployment, stats in said["deployments"].items():
                row = found.setdefault(
                    deployment,
                    {
                        "model": model_name(deployment),
                        "architecture": stats["architecture"],
                        "layers": stats["layers"],
                        "experts": 0,
                        "bytes": 0,
                        "hosts": "",
                    },
                )
                row["experts"] += stats["experts"]
                row["bytes"] += stats["expert_bytes"]
                row["hosts"] = " ".join(filter(None, (row["hosts"], name)))
        return list(found.values())

    def wait_for_workers(self, count: int = 1, timeout: float | None = None) -> None:
        """Until `count` workers serve; `NoWorkers` after `timeout` seconds (default `RIOS_START_TIMEOUT_S`)."""
        timeout = check_timeout(timeout)
        timeout = self._settings.start_timeout_s if timeout is None else timeout
        deadline = time.monotonic() + timeout
        while True:
            self._membership.refresh()
            if len(self._membership.hosts) >= count:
                return
            if self.cluster is not None:
                self.cluster.check()
            if time.monotonic() > deadline:
                raise NoWorkers(
                    f"{len(self._membership.hosts)} of {count} workers after {timeout:g} s: start more with "
                    f"`dask worker {self.address} --preload rios.worker`"
                )
            time.sleep(0.05)

    def parts(self) -> list[tuple[Breaker, str]]:
        """What the network depends on besides its ledger, and how it does without."""
        return [
            (self._membership.breaker, "the workers that are known serve on, and nobody joins"),
            (self._purse.books.chain_breaker, "use is recorded; deposits, settlement and claims wait"),
        ]

    def _open(self) -> None:
        if self._closed:
            raise NetworkClosed("this network was closed; make another one")

    def _forget(self, model: Model) -> None:
        self._models.remove(model)
        self._deployments.remove(model._deployment)

    def close(self) -> None:
        """Close models, connections and, for `rios.local()`, the workers."""
        if self._closed:
            return
        self._closed = True
        self._dropped.detach()
        self._apps.close()  # it says that the models have ended before they do
        for model in list(self._models):
            model.close()
        self._ends.close()


def _platform(purse: Purse, owners: Owners, options: Settings, network: weakref.ref[Network]) -> Platform:
    from rios.services.deployments.platform import platform_of

    def agents() -> dict[str, dict[str, Any]]:
        found = network()
        return {} if found is None else found._membership.agents

    def door(directory: Path) -> Closes:
        found = network()
        if found is None:
            raise NetworkClosed("this network was closed; make another one")
        opened: Closes = edge("door")(found, directory)
        return opened

    return platform_of(purse.charging, owners.lasting, options, deploy=starter(network), agents=agents, door=door)


def _paid_before(purse: Purse, host: str) -> Address | None:
    from rios.services.deployments.places import paid_before
    from rios.services.deployments.store import AppStore

    return paid_before(AppStore(purse.books.ledger), host)


def _reports(purse: Purse, options: Settings, scheduler: Callable[[], Any], hosts: KeptBy) -> Reports:
    from rios.services.reports.elsewhere import on_workers
    from rios.services.reports.opening import open_reports

    lasts = options.home is not None or options.database is not None
    return open_reports(purse, options, execute=on_workers(scheduler), hosts=hosts if lasts else None)


def _keepers(apps: Lazy[Platform], membership: Membership) -> Mapping[str, Host]:
    """The hosts that keep reports. This machine, whose name is that of each other one too, has them in its folder."""
    from rios.services.deployments.remote_host import RemoteHost

    if not membership.agents and not (apps.is_made and apps().has_hosts):
        return {}
    return {name: host for name, host in apps().hosts.now().items() if isinstance(host, RemoteHost)}


def _go_on(apps: Lazy[Platform], ledger: Ledger) -> None:
    """Look after deployments that were there before this process was, and what hosts still have of deleted ones."""
    from rios.services.deployments.inheriting import is_any_left
    from rios.services.deployments.store import AppStore

    store = AppStore(ledger)
    try:
        if not store.is_empty() or is_any_left(store):
            apps()
    except NetworkClosed:
        log.info("the network was closed before it went on with its deployments")


def _close_all(deployments: list[Deployment]) -> None:
    for deployment in list(deployments):
        deployment.close()


def _end_dropped(ends: contextlib.ExitStack) -> None:
    """A network that nobody holds any more, or that is open when the process ends, ends as a closed one does.

    The collector may have come in any thread, with any lock held: the ending has a thread of its own.
    """
    if threading.main_thread().is_alive():
        threading.Thread(target=ends.close, name="rios-closing").start()
    else:  # the interpreter is ending and starts no thread, or does not wait for it
        ends.close()


def local(
    workers: int = 2,
    *,
    threads: int | None = None,
    memory_bytes: int | None = None,
    home: str | Path | None = None,
    tls: bool | str | Path = False,
    **options: Any,
) -> Network:
    """A network of processes on this machine: an embedded Dask scheduler and `workers` hosts.

    threads: per worker; default is the cores divided by the workers. memory_bytes: what each may take for shards.
    home: keep what outlives the process there; without it nothing is kept. tls: secure the network, by an authority in
    the home (or one that ends with the network), or by the member's directory that it names. Other keywords are
    settings (`rios.words.config.Settings`), such as `call_timeout_s=2`.
    """
    from rios.dmoe.cluster import LocalCluster

    if not isinstance(tls, bool):
        options["tls"] = Path(tls)
    chosen = _settings(home, options)
    cluster = LocalCluster(
        workers, chosen, threads=threads, memory_bytes=memory_bytes, host_class=None, secured=tls is True
    )
    try:
        network = Network(cluster.address, cluster=cluster, options=cluster.settings)
        network.wait_for_workers(workers)
    except BaseException:
        cluster.close()
        raise
    return network


def connect(address: str, *, home: str | Path | None = None, **options: Any) -> Network:
    """The network of a running Dask scheduler, such as "tcp://head:8786"."""
    if "://" not in address:
        raise InvalidRequest(f"{address!r} is not an address; give one such as tcp://head:8786")
    return Network(address, cluster=None, options=_settings(home, options))


def _settings(home: str | Path | None, options: dict[str, Any]) -> Settings:
    unknown = set(options) - set(Settings.model_fields)
    if unknown:
        raise InvalidRequest(f"unknown settings {sorted(unknown)}; see rios.words.config.Settings")
    update = dict(options)
    if home is not None:
        update["home"] = Path(home)
    if not update:
        return settings()
    try:
        return Settings(**(dict(settings()) | update))
    except ValidationError as error:
        raise InvalidRequest(f"settings that cannot be: {_said(error)}") from error


def _said(error: ValidationError) -> str:
    found = [(one["loc"], one["msg"]) for one in error.errors(include_url=False, include_input=False)]
    return "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in found)


__all__ = ["Dmoe", "Network", "connect", "local"]
