"""A cluster of Kubernetes as a host: what asks for the runtime kubernetes by name runs there, as Pods.

All gateways of a network that have its kubeconfig have the same host, for all that is known of its replicas is in the
cluster; on this machine lie the ends of their logs alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_objects import Cluster
from rios.deploy.runtimes.protocol import Isolation, Runtime, Status
from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.deployments.hosts import Ended, Order
from rios.services.deployments.local_host import REPLICAS_MAX, LocalHost

if TYPE_CHECKING:
    from rios.words.config import Settings

T = TypeVar("T")
NAME = "kubernetes"
_QUOTA_S = 30.0
"""What a namespace may have is asked for so often."""
_LOOK_S = 1.0
"""What runs in a cluster is asked for so often, and not in every pass: others have the same API server."""
_CPU_MILLI_MAX, _BYTES_MAX = 1 << 40, 1 << 60
"""Of a namespace without a quota: a Pod that finds no node says so when it is to start."""
_MARK = "cluster.json"


def cluster_of(options: Settings) -> Cluster | None:
    """The cluster that the settings name; None where they name none."""
    if options.kubeconfig is None:
        return None
    return Cluster(
        kubeconfig=options.kubeconfig,
        namespace=options.kube_namespace,
        runtime_class=options.kube_runtime_class,
        isolation=Isolation.named(options.kube_isolation),
        storage_class=options.kube_storage_class,
        reached_from=options.kube_reached_from,
    )


class KubernetesHost(LocalHost):
    """One namespace of a cluster, for one network."""

    def __init__(
        self, place: Path, cluster: Cluster, *, network_id: str, isolation: Isolation = Isolation.PROCESS
    ) -> None:
        """place: where this network's sandboxes lie on this machine. isolation: no replica runs here with less."""
        self._runtime = KubernetesRuntime(cluster, network_id)
        self._cluster = cluster
        self._quota: Mapping[str, float] = {}
        self._asked_at = -math.inf
        self._looking = threading.Lock()
        self._seen: tuple[list[Status], float] = [], -math.inf
        self._changed_at = -math.inf
        super().__init__(
            NAME, place / NAME, self._begun, {"kubernetes": cluster.isolation},
            network_id=network_id, isolation=isolation,
        )  # fmt: skip

    def _begun(self, directory: Path) -> Mapping[Runtime, Isolation]:
        write_json(directory / _MARK, {"cluster": asdict(self._cluster), "owner": self._network_id})
        return {self._runtime: self._cluster.isolation}

    def offer(self) -> HostOffer:
        """What the namespace may have. Raises SandboxFailed, UnsupportedRuntime where the cluster does not answer."""
        if time.monotonic() > self._asked_at + _QUOTA_S:
            self._quota = self._runtime.quota()
            self._asked_at = time.monotonic()

        def least(most: int, *resources: str, scale: int = 1) -> int:
            return min([most, *(int(self._quota[name] * scale) for name in resources if name in self._quota)])

        return HostOffer(
            name=self.name,
            total=Amounts(
                cpu_milli=least(_CPU_MILLI_MAX, "limits.cpu", scale=1000),
                memory_bytes=least(_BYTES_MAX, "limits.memory", "requests.memory", "memory"),
                disk_bytes=least(_BYTES_MAX, "requests.storage"),
                replicas=least(REPLICAS_MAX, "pods", "count/pods"),
            ),
            isolation=self._cluster.isolation,
            runtimes=frozenset({"kubernetes"}),
            cordoned=self._cluster.isolation < self._least,
            by_name=True,
        )

    def instances(self) -> list[Status]:
        """All there is of this network's replicas, also where another machine started them; as of a second ago."""
        begun = time.monotonic()
        with self._looking:
            seen, looked_at = self._seen
            # What was asked for before this process changed something does not know of it.
            if max(begun - _LOOK_S, self._changed_at) < looked_at:
                return seen
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        found = super().instances()
        with self._looking:
            self._seen = found, begun
        return found

    def start(self, order: Order) -> Status:
        """Start a replica, or find it running."""
        return self._changing(lambda: super(KubernetesHost, self).start(order))

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """End a replica."""
        return self._changing(lambda: super(KubernetesHost, self).end(replica_id, grace_s=grace_s))

    def clear(self, replica_id: str) -> None:
        """Take away all there is of it, but the end of its log."""
        self._changing(lambda: super(KubernetesHost, self).clear(replica_id))

    def _changing(self, act: Callable[[], T]) -> T:
        try:
            return act()
        finally:
            with self._looking:
                self._changed_at = time.monotonic()

    def way(self, replica_id: str, address: str) -> str:
        """A port of this process, where Pods are not reached by their own addresses."""
        found = self._runtime.way(replica_id)
        return address if found is None else f"{found[0]}:{found[1]}"

    def _volume(self, organisation_id: str, app_id: str, path: str) -> Path:
        """The volume's name, which is the same on every machine."""
        return Path("/", self._network_id, organisation_id, app_id, path.strip("/").replace("/", "+"))

    def _end_volume(self, place: Path, *, keep: bool) -> None:
        if not keep:
            self._runtime.remove_volume(place)

    def close(self) -> None:
        """Let go of connections; Pods go on."""
        self._runtime.close()


def clear_cluster(directory: Path) -> None:
    """Take away what runs in a cluster for the network whose sandboxes lie in `directory`."""
    said = read_json(directory / NAME / _MARK)
    if said is None:
        return
    of = said["cluster"]
    isolation, networks = Isolation(of["isolation"]), tuple(of["reached_from"])
    runtime = KubernetesRuntime(Cluster(**{**of, "isolation": isolation, "reached_from": networks}), said["owner"])
    for status in runtime.instances():
        runtime.remove(status.instance)
    runtime.close()
