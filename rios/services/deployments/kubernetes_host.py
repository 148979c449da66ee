"""A cluster of Kubernetes as a host: what asks for the runtime kubernetes by name runs there, as Pods.

All gateways of a network that have its kubeconfig have the same host, for all that is known of its replicas is in the
cluster; on this machine lie the ends of their logs alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_objects import GPU, Cluster
from rios.deploy.runtimes.protocol import Isolation, Runtime, Status
from rios.deploy.scheduling import Amounts, HostOffer
from rios.deploy.volume_names import volume_name
from rios.services.deployments.hosts import Ended, Order
from rios.services.deployments.local_host import REPLICAS_MAX, LocalHost
from rios.words.errors import HostLost, InvalidRequest, RiosError

if TYPE_CHECKING:
    from rios.deploy.runtimes.watching import Policy
    from rios.words.config import Settings

log = logging.getLogger(__name__)

NAME = "kubernetes"
_QUOTA_S = 30.0
"""What a namespace may have is asked for so often."""
_LOOK_S = 1.0
"""What runs in a cluster is asked for so often, by a thread: an API server that does not answer holds nobody up."""
_FRESH_S, _ANSWER_S = 4.0, 2.0
"""What was seen counts for so long; the first answer is waited for so long."""
_CPU_MILLI_MAX, _BYTES_MAX = 1 << 40, 1 << 60
"""Of a namespace without a quota: a Pod that finds no node says so when it is to start."""
_OF = {
    "cpu": ("limits.cpu",),
    "memory": ("limits.memory", "requests.memory", "memory"),
    "disk": ("requests.storage",),
    "gpus": (f"requests.{GPU}",),
    "replicas": ("pods", "count/pods"),
}
"""What a quota says of each amount."""
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
        self,
        place: Path,
        cluster: Cluster,
        *,
        network_id: str,
        isolation: Isolation = Isolation.PROCESS,
        lasts: bool = True,
        policy: Policy | None = None,
    ) -> None:
        """place: where this network's sandboxes lie on this machine. isolation: no replica runs here with less. policy:
        of egress, beyond public addresses.

        lasts: whether the network outlives this process; else it is said in `place` what `clear_cluster` is to end.
        """
        self._runtime = KubernetesRuntime(cluster, network_id, policy=policy)
        self._cluster, self._lasts = cluster, lasts
        self._quota: Mapping[str, float] = {}
        self._asked_at = -math.inf
        self._looks = threading.Condition()
        self._seen: tuple[HostOffer, dict[str, Status]] | None = None
        self._own: dict[str, tuple[float, Status | None]] = {}
        """What this process did to instances, and when: a look that began before does not know of it."""
        self._looked_at, self._why = -math.inf, ""
        self._lost_by: type[Exception] | None = None
        self._closing = threading.Event()
        super().__init__(
            NAME, place / NAME, self._begun, {"kubernetes": cluster.isolation},
            network_id=network_id, isolation=isolation,
        )  # fmt: skip
        self.snapshots = None  # volumes are the cluster's, and so are snapshots of them
        try:
            # Seconds of importing, or of a plugin for credentials: who leads meanwhile would take the host for lost.
            self._runtime.prepare()
        except RiosError as error:
            self._why = str(error)
        self._begun_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="rios-cluster", daemon=True)
        self._thread.start()

    def _begun(self, directory: Path) -> Mapping[Runtime, Isolation]:
        if not self._lasts:  # what other processes serve, or will, is not this one's to end
            write_json(directory / _MARK, {"cluster": asdict(self._cluster), "owner": self._network_id})
        return {self._runtime: self._cluster.isolation}

    # --- what it has and runs --------------------------------------------------------------------------------

    def offer(self) -> HostOffer:
        """What the namespace may have. Raises HostLost where the cluster has not answered lately."""
        return self._looked()[0]

    def instances(self) -> list[Status]:
        """All there is of this network's replicas, whichever process started them. Raises HostLost, as `offer`."""
        return list(self._looked()[1].values())

    def _looked(self) -> tuple[HostOffer, dict[str, Status]]:
        """What the last look saw, with what this process did since it began."""
        with self._looks:
            # Who asks has other hosts to look after: it waits where a first answer is due, and not where none comes.
            self._looks.wait_for(self._is_fresh, timeout=max(0.0, self._begun_at + _ANSWER_S - time.monotonic()))
            if self._seen is None or not self._is_fresh():
                raise HostLost(f"the cluster of {self.name} does not answer: {self._why or 'it has not yet'}")
            offer, instances = self._seen
            return offer, dict(instances)

    def _is_fresh(self) -> bool:
        return self._looked_at > time.monotonic() - _FRESH_S

    def _watch(self) -> None:
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                offer, instances = self._asked()
            except Exception as error:  # noqa: BLE001 -- told to who asks; the next answer may be better
                self._lose(error)
            else:
                self._take_in(begun, offer, instances)
            self._closing.wait(_LOOK_S)

    def _take_in(self, begun: float, offer: HostOffer, instances: list[Status]) -> None:
        with self._looks:
            self._own = {name: own for name, own in self._own.items() if own[0] >= begun}
            found = {status.instance: status for status in instances}
            for name, (_, status) in self._own.items():
                _put(found, name, status)
            self._seen, self._looked_at, self._why, self._lost_by = (offer, found), begun, "", None
            self._looks.notify_all()

    def _lose(self, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        with self._looks:
            is_new = self._lost_by is not type(error)
            self._why, self._lost_by = why, type(error)
        if is_new:
            # Where it is no error of rios', whoever mends it needs the place.
            trace = None if isinstance(error, RiosError) else error
            log.warning("a cluster is not seen", extra={"host": self.name, "reason": why}, exc_info=trace)

    def _asked(self) -> tuple[HostOffer, list[Status]]:
        if time.monotonic() > self._asked_at + _QUOTA_S:
            self._quota = self._runtime.quota([one for several in _OF.values() for one in several])
            self._asked_at = time.monotonic()
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        return self._offered(), super().instances()

    def _offered(self) -> HostOffer:
        def least(what: str, most: int, scale: int = 1) -> int:
            return min([most, *(int(self._quota[name] * scale) for name in _OF[what] if name in self._quota)])

        return HostOffer(
            name=self.name,
            total=Amounts(
                cpu_milli=least("cpu", _CPU_MILLI_MAX, 1000),
                memory_bytes=least("memory", _BYTES_MAX),
                # Most clusters have none, and a Pod would wait for one in vain: a quota has to say that there are.
                gpus=int(self._quota.get(_OF["gpus"][0], 0)),
                disk_bytes=least("disk", _BYTES_MAX),
                replicas=least("replicas", REPLICAS_MAX),
            ),
            isolation=self._cluster.isolation,
            runtimes=frozenset({NAME}),
            cordoned=self._cluster.isolation < self._least,
            by_name=True,
        )

    # --- what is done there ----------------------------------------------------------------------------------

    def start(self, order: Order) -> Status:
        """Start a replica, or find it running."""
        status = super().start(order)
        self._did(order.replica_id, status)
        return status

    def give_up(self, replica_id: str) -> None:
        """A Pod may wait for a node for long."""
        self._runtime.give_up(replica_id)

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """End a replica."""
        ended = super().end(replica_id, grace_s=grace_s)
        if ended.status is not None:
            self._did(replica_id, ended.status)
        return ended

    def clear(self, replica_id: str) -> None:
        """Take away all there is of it, but the end of its log."""
        super().clear(replica_id)
        self._did(replica_id, None)

    def _did(self, replica_id: str, status: Status | None) -> None:
        with self._looks:
            self._own[replica_id] = (time.monotonic(), status)
            if self._seen is not None:
                _put(self._seen[1], replica_id, status)

    def way(self, replica_id: str, address: str) -> str:
        """A port of this process, where Pods are not reached by their own addresses."""
        found = self._runtime.way(replica_id)
        return address if found is None else f"{found[0]}:{found[1]}"

    def _volume(self, organisation_id: str, app_id: str, path: str) -> Path:
        """The volume's name, which is the same on every machine."""
        return Path("/", self._network_id, organisation_id, app_id, volume_name(path))

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        """A claim has one name for its life."""
        raise InvalidRequest(f"the volumes of {self.name} keep their names: none becomes another deployment's")

    def _end_volume(self, place: Path, *, keep: bool) -> None:
        if not keep:
            self._runtime.remove_volume(place)

    def close(self) -> None:
        """Ask no more; Pods go on."""
        self._closing.set()
        self._thread.join(_ANSWER_S)
        self._runtime.close()


def _put(instances: dict[str, Status], name: str, status: Status | None) -> None:
    if status is None:
        instances.pop(name, None)
    else:
        instances[name] = status


def clear_cluster(directory: Path) -> None:
    """Take away all there is in a cluster of the network whose sandboxes lay in `directory`, if it ends with them."""
    said = read_json(directory / NAME / _MARK)
    if said is None:
        return
    of = said["cluster"]
    isolation, networks = Isolation(of["isolation"]), tuple(of["reached_from"])
    runtime = KubernetesRuntime(Cluster(**{**of, "isolation": isolation, "reached_from": networks}), said["owner"])
    try:
        runtime.clear()
    finally:
        runtime.close()
