"""Pods of a cluster as instances: one Pod each, named for the instance, never started anew by the cluster.

All that is known of an instance is in the cluster, so any process with the same kubeconfig and owner finds it. Its
NetworkPolicy is made first and removed last; its Pod is made last. A Pod that is ended stays, by a finalizer, until
`remove`: how it ended and what it used are read from it. rios itself sees to replicas, healing and updates, whatever
they run on; so there are no Deployments, and no Services.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from pydantic import SecretBytes

from rios.deploy.runtimes import kubernetes_objects as objects
from rios.deploy.runtimes.kubernetes_api import Api, loaded
from rios.deploy.runtimes.kubernetes_exec import run_inside
from rios.deploy.runtimes.kubernetes_logs import PodLogs
from rios.deploy.runtimes.kubernetes_objects import Cluster, Manifest, name_of
from rios.deploy.runtimes.kubernetes_states import (
    LOST_S,
    Used,
    container,
    instance_of,
    labels_of,
    obstacle,
    port_of,
    quantity,
    state_of,
    status_of,
    waits_for,
)
from rios.deploy.runtimes.kubernetes_volumes import ensure_claim, remove_claim
from rios.deploy.runtimes.kubernetes_ways import PodWays
from rios.deploy.runtimes.protocol import (
    Allowed,
    Base,
    Capabilities,
    Executed,
    ImageBase,
    Isolation,
    Launch,
    LogLine,
    Metrics,
    Status,
)
from rios.deploy.runtimes.relay import is_public
from rios.deploy.runtimes.watching import Policy, must_run, until_exited
from rios.deploy.spec import USER, RuntimeName
from rios.words.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RiosError,
    SandboxFailed,
    UnsupportedRuntime,
)

_LOOK_S = 0.2
_START_S = 600.0
"""A Pod waits for a node, which a cluster may have to add first, and for its image, which that node may not have."""
_GONE_WITHIN_S = 30.0
_GRACE_LEAST_S = 1
"""No grace at all would take a Pod out of the cluster's memory at once, whatever its node still runs."""
_MEASURED, _CLASSES = "/apis/metrics.k8s.io/v1beta1", "/apis/node.k8s.io/v1/runtimeclasses"
_UNMEASURED = "CPU time and memory are not measured: the cluster has no metrics.k8s.io (metrics-server)"
_NOTES = (
    "processes, open files and lines of logs are bounded by the cluster's nodes alone",
    "secrets lie in the cluster's store; a replaced one is there when its node has synchronised",
    "egress goes to the addresses that names had at the start, and is not counted",
    "egress and ingress are held by NetworkPolicy alone, which the cluster's network must enforce",
    "killing takes the second or two that nodes give at least",
)


class KubernetesRuntime:
    """Pods in one namespace, for one owner. It meets `protocol.Runtime`, and `protocol.KeepsVolumes`."""

    name: RuntimeName = "kubernetes"

    def __init__(self, cluster: Cluster, owner: str, *, policy: Policy | None = None) -> None:
        """owner: marks what is whose in the namespace; a network's id. policy: of egress, beyond public addresses."""
        self._cluster, self._owner = cluster, owner
        self._policy = policy or Policy()
        self._api = Api(cluster)
        self._logs = PodLogs(self._api)
        self._ways = PodWays(self._api, self._port_of)
        self._given_up: set[str] = set()
        """Whose starts are waited for no longer."""
        self._works = self._measured = False
        """Until the cluster was seen to."""

    def __repr__(self) -> str:
        return f"<KubernetesRuntime {self._cluster.namespace} of {self._owner}>"

    def prepare(self) -> None:
        """Be ready to ask, which takes seconds at first. Raises UnsupportedRuntime and DeadlineExceeded."""
        self._api.client()

    # --- what works here -------------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """What the cluster gives. Asked again until it works; what is true then is kept."""
        why_not = self._why_not()
        measured = bool(why_not) or self._measures()
        return Capabilities(
            name=self.name,
            isolation=self._cluster.isolation,
            why_not=why_not,
            images=True,
            archives=False,
            cpu="cgroup",
            memory="cgroup",
            port=True,
            egress=True,
            seccomp=True,
            notes=_NOTES if measured else (*_NOTES, _UNMEASURED),
        )

    def no_gpus(self) -> str:
        """Nodes have them or not: a Pod that finds none says so when it is to start."""
        return ""

    def _why_not(self) -> str:
        if self._works:
            return ""
        if self._cluster.isolation > Isolation.CONTAINER and self._cluster.runtime_class is None:
            return "only a RuntimeClass isolates more than a container does: set RIOS_KUBE_RUNTIME_CLASS"
        try:
            self._api.listed("pods", objects.selector(self._owner))
            wanted = self._cluster.runtime_class
            if wanted is not None and self._api.call("GET", f"{_CLASSES}/{wanted}", fine=(404,))[0] == 404:
                return f"the cluster has no RuntimeClass {wanted}: make it, or name another"
        except RiosError as error:
            return str(error)
        self._works = True
        return ""

    def _measures(self) -> bool:
        """Whether the cluster measures Pods. Where it does not, it may begin to."""
        if not self._measured:
            self._measured = self._api.call("GET", _MEASURED, fine=(403, 404, 503))[0] == 200
        return self._measured

    # --- images ----------------------------------------------------------------------------------------------

    def prepare_image(
        self,
        reference: str,
        *,
        pinned: ImageBase | None = None,
        here: bool = True,
        timeout_s: float = 600.0,
        no_room: Callable[[], str] = str,
    ) -> ImageBase:
        """The image of a reference, as a node of the cluster fetched it: pinned by the digest that it has there.

        Room is the node's own: its kubelet removes images that nothing stands on when its disk fills.
        """
        if pinned is not None:
            return pinned  # nodes fetch it by that themselves
        manifest = objects.image_pod(reference, USER, self._cluster, self._owner, deadline_s=timeout_s)
        name, deadline = manifest["metadata"]["name"], time.monotonic() + timeout_s
        pod: Manifest | None = None
        try:
            while time.monotonic() < deadline:
                # Another process may have made it, and may have taken it away meanwhile.
                pod = self._api.read("pods", name)
                if pod is None:
                    self._api.create("pods", manifest)
                elif found := _pinned(pod, reference):
                    return ImageBase(found)
                elif (hindered := obstacle(pod)) is not None:
                    if hindered.image:
                        raise NotFound(f"the image {reference} is not to be had by the cluster: {hindered.why}")
                    if hindered.made:
                        return ImageBase(reference)  # it is there, and its engine does not tell its digest
                    raise SandboxFailed(f"the image {reference} could not be fetched: {hindered.why}")
                time.sleep(_LOOK_S)
        finally:
            self._api.delete("pods", name, grace_s=_GRACE_LEAST_S)
        waits = "no Pod could be made" if pod is None else waits_for(pod)
        raise DeadlineExceeded(f"the image {reference} was not fetched within {timeout_s:g} s: {waits}")

    def prepare_archive(self, archive: Path, *, timeout_s: float = 600.0) -> Base:
        """A cluster takes images of registries alone."""
        raise UnsupportedRuntime(
            f"kubernetes runs images of a registry, and {archive} is an archive: push it to one, and give `image`"
        )

    def prepared_archive(self, digest: str) -> Base | None:
        """None is ever there."""
        return None

    # --- starting --------------------------------------------------------------------------------------------

    def start(self, launch: Launch, *, timeout_s: float = _START_S) -> Status:
        if not isinstance(launch.base, ImageBase):
            raise UnsupportedRuntime(
                f"kubernetes runs images of a registry, and the instance {launch.instance} has none: give an image"
            )
        deadline = time.monotonic() + timeout_s
        pod = self._api.read("pods", name_of(launch.instance))
        try:
            if pod is None:
                pod = self._made(launch)
            if objects.is_of(pod, launch):
                return self._until_started(launch.instance, pod, deadline, timeout_s)
        except (SandboxFailed, DeadlineExceeded):
            with contextlib.suppress(SandboxFailed, DeadlineExceeded):  # what went wrong first is what is told
                self.remove(launch.instance)
            raise
        raise InvalidRequest(f"the instance {launch.instance} was started with another launch; take a new id")

    def _made(self, launch: Launch) -> Manifest:
        """The Pod, and before it what closes it and what it reads; whatever there is of them already."""
        addresses = self._resolved(launch.egress)
        self._api.put("networkpolicies", objects.network_policy(launch, self._cluster, self._owner, addresses))
        for secret in objects.secrets(launch, self._cluster, self._owner):
            self._api.put("secrets", secret)
        self._api.create("pods", objects.pod(launch, self._cluster, self._owner, addresses))
        return self._pod(launch.instance)

    def give_up(self, instance: str) -> None:
        """Have a start of it that waits for a node or an image fail now."""
        self._given_up.add(instance)

    def _until_started(self, instance: str, pod: Manifest, deadline: float, timeout_s: float) -> Status:
        while (hindered := obstacle(pod)) is None:
            if state_of(pod) != "created":
                return self._status(pod)
            if instance in self._given_up:
                raise SandboxFailed(f"the instance {instance} was given up before it had started: {waits_for(pod)}")
            if time.monotonic() > deadline:
                raise SandboxFailed(f"the instance {instance} was not started within {timeout_s:g} s: {waits_for(pod)}")
            time.sleep(_LOOK_S)
            pod = self._pod(instance)
        raise SandboxFailed(f"the instance {instance} could not be started: {hindered.why}")

    def _resolved(self, egress: tuple[Allowed, ...]) -> dict[str, tuple[str, ...]]:
        """The addresses that an instance may connect to, of each host: none of one without a public address."""
        found: dict[str, tuple[str, ...]] = {}
        for host in dict.fromkeys(allowed.host for allowed in egress):
            addresses = self._policy.names.get(host, ())
            if host not in self._policy.names:
                with contextlib.suppress(OSError):
                    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))
            found[host] = tuple(one for one in addresses if is_public(one, self._policy.private))
        return found

    def adopt(self) -> list[Status]:
        """What runs needs nothing of this process. Pods that fetched images for another one, which died, are ended."""
        for left in self._api.listed("pods", objects.selector(self._owner)):
            is_image = left["metadata"]["labels"].get(objects.USE) == "image"
            if is_image and (_pinned(left, "") or obstacle(left) is not None):
                self._api.delete("pods", str(left["metadata"]["name"]), grace_s=_GRACE_LEAST_S)
        return self.instances()

    # --- what is true ----------------------------------------------------------------------------------------

    def instances(self, labels: Mapping[str, str] | None = None) -> list[Status]:
        chosen = objects.selector(self._owner)
        pods = [pod for pod in self._api.listed("pods", chosen) if objects.INSTANCE in pod["metadata"]["labels"]]
        policies = self._api.listed("networkpolicies", chosen)
        found = {instance_of(pod): self._status(pod) for pod in pods}
        for policy in policies:
            half_made = Status(instance=instance_of(policy), state="created", labels=labels_of(policy))
            found.setdefault(half_made.instance, half_made)
        wanted = (labels or {}).items()
        return [one for _, one in sorted(found.items()) if wanted <= dict(one.labels).items()]

    def status(self, instance: str) -> Status:
        pod = self._api.read("pods", name_of(instance))
        if pod is not None:
            return self._status(pod)
        policy = self._api.read("networkpolicies", name_of(instance))
        if policy is None:
            raise NotFound(f"there is no instance {instance} in this cluster")
        return Status(instance=instance, state="created", labels=labels_of(policy))

    def _status(self, pod: Manifest) -> Status:
        return status_of(pod, self._endpoint(pod) if state_of(pod) == "running" else None)

    def _endpoint(self, pod: Manifest) -> tuple[str, int] | None:
        port = port_of(pod)
        if port is None:
            return None
        if self._cluster.reached_from:
            address = (pod.get("status") or {}).get("podIP")
            return (str(address), port) if address else None
        return self._ways.to(instance_of(pod))

    def way(self, instance: str) -> tuple[str, int] | None:
        """How this process reaches an instance, without asking for it; None where its own address is the way."""
        return None if self._cluster.reached_from else self._ways.to(instance)

    def _port_of(self, instance: str) -> int:
        port = port_of(self._pod(instance))
        if port is None:
            raise NotFound(f"the instance {instance} serves no port")
        return port

    def _pod(self, instance: str) -> Manifest:
        pod = self._api.read("pods", name_of(instance))
        if pod is None:
            raise NotFound(f"there is no instance {instance} in this cluster")
        return pod

    def wait(self, instance: str, *, timeout_s: float) -> Status:
        return until_exited(self, instance, timeout_s, every_s=_LOOK_S)

    def metrics(self, instance: str) -> Metrics:
        """What metrics.k8s.io said while it ran, which it does every 15 s or so; zeros where a cluster has none."""
        pod = self._pod(instance)
        used = Used.of(pod)
        if self._measures():
            name, started_at = name_of(instance), status_of(pod).started_at
            path = f"{_MEASURED}/namespaces/{self._cluster.namespace}/pods/{name}"
            status, data = self._api.call("GET", path, fine=(404, 503))
            if status == 200 and started_at is not None:
                now = used.after(loaded(data), started_at=started_at)
                if now != used:
                    used = now
                    # Of several processes that measure at a time, one adds its measurement to what it has read.
                    version = pod["metadata"]["resourceVersion"]
                    change = {"resourceVersion": version, "annotations": {objects.USED: used.to_json()}}
                    self._api.merge("pods", name, {"metadata": change})
        return Metrics(
            at=time.time(),
            cpu_seconds=used.cpu_seconds,
            memory_bytes=used.memory_bytes if state_of(pod) == "running" else 0,
            memory_peak_bytes=used.memory_peak_bytes,
            pids=0,
            egress_bytes=0,
            ingress_bytes=0,
        )

    def logs(self, instance: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        self.status(instance)  # raises NotFound now, and not at the first line
        if not follow:
            return self._logs.lines(name_of(instance), since)
        return self._logs.follow(name_of(instance), since, lambda: self._has_ended(instance))

    def _has_ended(self, instance: str) -> bool:
        pod = self._api.read("pods", name_of(instance))
        return pod is None or state_of(pod) == "exited"

    # --- what is done to it ----------------------------------------------------------------------------------

    def stop(self, instance: str, *, grace_s: float = 10.0) -> Status:
        status = self.status(instance)
        if status.state not in ("created", "running"):
            return status
        if status.state == "running":
            with contextlib.suppress(
                SandboxFailed, DeadlineExceeded, NotFound
            ):  # less is paid for then, and it is ended all the same
                self.metrics(instance)
        grace = max(_GRACE_LEAST_S, math.ceil(grace_s))
        self._api.delete("pods", name_of(instance), grace_s=grace)
        if self._api.read("pods", name_of(instance)) is None:
            return self.status(instance)
        return until_exited(self, instance, grace + LOST_S + _GONE_WITHIN_S, every_s=_LOOK_S)

    def kill(self, instance: str) -> Status:
        return self.stop(instance, grace_s=0.0)

    def remove(self, instance: str) -> None:
        name = name_of(instance)
        self._ways.end(instance)
        deadline = time.monotonic() + _GONE_WITHIN_S
        while (pod := self._api.read("pods", name)) is not None:
            if pod["metadata"].get("deletionTimestamp") is None:
                self._api.delete("pods", name, grace_s=_GRACE_LEAST_S)
                continue
            late = time.monotonic() > deadline
            if state_of(pod) == "exited" or late:
                self._let_go(pod)
            if late:  # its node is lost: the cluster is to forget it, and ends it where the node comes back
                self._api.delete("pods", name, grace_s=0)
            if time.monotonic() > deadline + _GONE_WITHIN_S:
                raise SandboxFailed(f"the Pod {name} is not removed by the cluster: another finalizer holds it")
            time.sleep(_LOOK_S)
        for kind, one in (("secrets", name), ("secrets", f"{name}-files"), ("networkpolicies", name)):
            self._api.delete(kind, one)
        self._given_up.discard(instance)

    def _let_go(self, pod: Manifest) -> None:
        """Take rios' finalizer away: nothing of ours keeps an ended Pod in the cluster then."""
        left = [one for one in pod["metadata"].get("finalizers") or [] if one != objects.KEPT]
        self._api.merge("pods", str(pod["metadata"]["name"]), {"metadata": {"finalizers": left or None}})

    def pause(self, instance: str) -> Status:
        self.status(instance)
        raise UnsupportedRuntime("a cluster freezes no Pod: kubernetes cannot pause; stop it, and start it anew")

    def resume(self, instance: str) -> Status:
        return self.pause(instance)

    def exec(
        self, instance: str, command: tuple[str, ...], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> Executed:
        must_run(self.status(instance))
        return run_inside(self._api, name_of(instance), command, env=env or {}, timeout_s=timeout_s)

    def put_secrets(self, instance: str, secrets: Mapping[str, SecretBytes]) -> None:
        self._pod(instance)
        name = name_of(instance)
        values = {key: value.get_secret_value() for key, value in secrets.items()}
        data = objects.secret_data(values, f"secrets of {instance}")
        known = (self._api.read("secrets", name) or {}).get("data") or {}
        change = {**dict.fromkeys(known), **data}
        if self._api.merge("secrets", name, {"data": change}) is None:
            raise SandboxFailed(f"the Secret of {instance} is not in the cluster any more: remove the instance")
        # A Pod that has changed is synchronised by its node at once, and its files with it; else within a minute.
        self._api.merge("pods", name, {"metadata": {"annotations": {objects.SECRETS_AT: f"{time.time():.6f}"}}})

    def quota(self, resources: Collection[str]) -> dict[str, float]:
        """What the namespace may have in all of `resources`, such as limits.memory, as its ResourceQuotas say."""
        found: dict[str, float] = {}
        for one in self._api.listed("resourcequotas"):
            for resource, text in one["spec"].get("hard", {}).items():
                if resource in resources:
                    found[resource] = min(quantity(str(text)), found.get(resource, math.inf))
        return found

    # --- volumes ---------------------------------------------------------------------------------------------

    def ensure_volume(self, source: Path, size_bytes: int) -> None:
        ensure_claim(self._api, source, size_bytes, self._cluster, self._owner)

    def remove_volume(self, source: Path) -> None:
        remove_claim(self._api, source)

    def clear(self) -> None:
        """Take away all there is of this owner: instances, volumes, and Pods that fetch images."""
        for status in self.instances():
            self.remove(status.instance)
        chosen = objects.selector(self._owner)
        for kind in ("pods", "persistentvolumeclaims"):
            for one in self._api.listed(kind, chosen):
                self._api.delete(kind, str(one["metadata"]["name"]))

    def close(self) -> None:
        self._ways.close()
        self._api.close()


def _pinned(pod: Manifest, reference: str) -> str:
    """The image that a node has for a Pod, as repository@digest; empty until it has one.

    Engines tell a digest with its repository; some tell that of the configuration alone, which cannot be asked for
    again: what was asked for is what there is then.
    """
    told = str(container(pod).get("imageID") or "").removeprefix("docker-pullable://")
    if not told:
        return ""
    return told if "@sha256:" in told else reference or told
