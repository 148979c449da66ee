"""A launch as objects of Kubernetes: a Pod, the Secrets that are its files, and the NetworkPolicy that closes it.

Nothing here asks a cluster. What Kubernetes reads in another way than Docker's API is settled here: `$` in commands and
environments, names of objects, what a label may hold.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.deploy.runtimes import arguments
from rios.deploy.runtimes.gpus import NO_GPU
from rios.deploy.runtimes.protocol import ImageBase, Isolation, Launch
from rios.deploy.runtimes.records import check_id, described
from rios.words.canonical import digest
from rios.words.errors import InvalidRequest

INSTANCE, OWNER, USE = "rios.instance", "rios.owner", "rios.use"
"""Labels of all that rios makes in a cluster: of which instance, for whom, and what for where it is no instance's."""
MANAGED = {"app.kubernetes.io/managed-by": "rios"}
LABELS, LAUNCH, USED, SECRETS_AT = "rios/labels", "rios/launch", "rios/used", "rios/secrets-at"
"""Annotations: the labels as they were given, the digest of the launch, what was used so far, when secrets changed."""
KEPT = "rios/kept"
"""The finalizer by which a Pod that was ended stays readable until rios removes it, as those of Jobs do."""
CONTAINER = "app"
GPU = "nvidia.com/gpu"
"""The resource by which the device plugin of NVIDIA offers those of a node."""
GRACE_S = 30
"""Where somebody else ends a Pod, such as who drains a node; rios says a grace of its own."""
_SECRETS_MAX = 1 << 20
"""Of one Secret, by Kubernetes."""
_CPU_PROMISED = 4
"""Cores are shared, as on every host: of its limit an instance is promised a quarter. Memory is not."""
_RUN_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Pods run, as the operator says it."""

    kubeconfig: str
    """A file, or IN_CLUSTER: the service account of the Pod that this process runs in."""
    namespace: str
    runtime_class: str | None = None
    isolation: Isolation = Isolation.CONTAINER
    """What the RuntimeClass gives; a cluster does not say it."""
    storage_class: str | None = None
    reached_from: tuple[str, ...] = ()
    """Networks from which this process reaches Pods by their own addresses; through the API server without."""


IN_CLUSTER = "in-cluster"


def name_of(instance: str) -> str:
    """The name of an instance's objects. Raises InvalidRequest where it can be no instance's id."""
    return f"rios-{check_id(instance)}"


def claim_name(source: Path) -> str:
    """The name of the claim that is the volume `source`."""
    return f"rios-volume-{hashlib.sha256(str(source).encode()).hexdigest()[:24]}"


def selector(owner: str) -> str:
    """Selects what is an owner's."""
    return ",".join(f"{key}={value}" for key, value in {**MANAGED, OWNER: owner}.items())


def is_of(pod: Manifest, launch: Launch) -> bool:
    """Whether a Pod was made of this launch, and not of another with the same id."""
    return bool(pod["metadata"].get("annotations", {}).get(LAUNCH) == digest(described(launch)))


def _holdable(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if _KEY.fullmatch(key) and _KEY.fullmatch(value)}


def _metadata(launch: Launch, cluster: Cluster, owner: str, suffix: str = "") -> Manifest:
    labels = {**_holdable(launch.labels), **MANAGED, OWNER: owner, INSTANCE: launch.instance}
    return {
        "name": name_of(launch.instance) + suffix,
        "namespace": cluster.namespace,
        "labels": labels,
        "annotations": {LABELS: json.dumps(dict(launch.labels), sort_keys=True)},
    }


def literal(text: str) -> str:
    """Text that a cluster hands on as it is: it would put the value of NAME in the place of `$(NAME)`."""
    return text.replace("$", "$$")


# --- what closes it -------------------------------------------------------------------------------------------


def network_policy(
    launch: Launch, cluster: Cluster, owner: str, addresses: Mapping[str, tuple[str, ...]] | None = None
) -> Manifest:
    """Nothing comes in but from rios to its port, nothing goes out but to the addresses of what it may call.

    addresses: of each host of `launch.egress`; one that has none is not reached.
    """
    ingress: list[Manifest] = []
    if launch.port is not None and cluster.reached_from:
        sources = [{"ipBlock": {"cidr": network}} for network in cluster.reached_from]
        ingress = [{"from": sources, "ports": [{"protocol": "TCP", "port": launch.port}]}]
    egress = [
        {
            "to": [{"ipBlock": {"cidr": _alone(address)}} for address in (addresses or {})[allowed.host]],
            "ports": [{"protocol": "TCP", "port": allowed.port}],
        }
        for allowed in launch.egress
        if (addresses or {}).get(allowed.host)  # a rule to nobody would be one to everybody
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(launch, cluster, owner),
        "spec": {
            "podSelector": {"matchLabels": {INSTANCE: launch.instance}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _alone(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


# --- files in memory ------------------------------------------------------------------------------------------


def secret_data(values: Mapping[str, bytes], what: str) -> dict[str, str]:
    """Contents as a Secret holds them. Raises InvalidRequest for more than that."""
    if (size := sum(map(len, values.values()))) > _SECRETS_MAX:
        raise InvalidRequest(f"{size} bytes of {what}: Kubernetes holds at most {_SECRETS_MAX} in one Secret")
    return {name: base64.b64encode(value).decode() for name, value in sorted(values.items())}


def secrets(launch: Launch, cluster: Cluster, owner: str) -> list[Manifest]:
    """The Secret of its secrets, also where it has none yet; and that of its other files, where it has any."""
    values = {name: value.get_secret_value() for name, value in launch.secrets.items()}
    found = [(_metadata(launch, cluster, owner), values, "secrets")]
    if launch.files:
        found.append((_metadata(launch, cluster, owner, "-files"), dict(launch.files), "files"))
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": secret_data(contents, f"{what} of {launch.instance}"),
        }
        for metadata, contents, what in found
    ]


# --- volumes --------------------------------------------------------------------------------------------------


def volume_claim(source: Path, size_bytes: int, cluster: Cluster, owner: str) -> Manifest:
    """The claim of a volume that outlives its instances."""
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(size_bytes)}},
    }
    if cluster.storage_class is not None:
        spec["storageClassName"] = cluster.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(source),
            "namespace": cluster.namespace,
            "labels": {**MANAGED, OWNER: owner, USE: "volume"},
            "annotations": {"rios/volume": str(source)},
        },
        "spec": spec,
    }


# --- the Pod --------------------------------------------------------------------------------------------------


def pod(
    launch: Launch, cluster: Cluster, owner: str, addresses: Mapping[str, tuple[str, ...]] | None = None
) -> Manifest:
    """The Pod of an instance. Its Secrets and its NetworkPolicy have to be there before it is."""
    assert isinstance(launch.base, ImageBase)
    metadata = _metadata(launch, cluster, owner)
    metadata["annotations"][LAUNCH] = digest(described(launch))
    metadata["finalizers"] = [KEPT]
    volumes, mounts = _places(launch)
    container: Manifest = {
        "name": CONTAINER,
        "image": launch.base.digest,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": literal(value)} for name, value in sorted(_environment(launch).items())],
        "resources": _resources(launch),
        "securityContext": _closed(launch.user),
        "volumeMounts": mounts,
    }
    if launch.command:
        container["command"] = [literal(word) for word in launch.command]
    if launch.workdir is not None:
        container["workingDir"] = launch.workdir
    if launch.port is not None:
        container["ports"] = [{"name": "app", "containerPort": launch.port, "protocol": "TCP"}]
    spec = {**_sandbox(launch.user, cluster), "containers": [container], "volumes": volumes}
    spec["hostname"] = launch.instance
    spec["terminationGracePeriodSeconds"] = GRACE_S
    if aliases := _aliases(launch, addresses or {}):
        spec["hostAliases"] = aliases
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def image_pod(reference: str, user: int, cluster: Cluster, owner: str, *, deadline_s: float) -> Manifest:
    """A Pod that has a node fetch an image, and tells its digest. Its command is in no image: nothing of it runs."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"rios-image-{hashlib.sha256(f'{owner} {reference}'.encode()).hexdigest()[:24]}",
            "namespace": cluster.namespace,
            "labels": {**MANAGED, OWNER: owner, USE: "image"},
        },
        "spec": {
            **_sandbox(user, cluster),
            "activeDeadlineSeconds": max(1, math.ceil(deadline_s)),
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": reference,
                    "imagePullPolicy": "Always",  # a node that has one of that name would tell what it led to once
                    "command": ["/nothing-runs-here"],
                    # Both limits, for a namespace with a quota takes no Pod without them.
                    "resources": {
                        "requests": {"cpu": "1m", "memory": "16Mi"},
                        "limits": {"cpu": "100m", "memory": "64Mi"},
                    },
                    "securityContext": _closed(user),
                }
            ],
        },
    }


def _sandbox(user: int, cluster: Cluster) -> Manifest:
    """What is the same in every Pod: it meets the standard "restricted" of Pod security, and more."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostNetwork": False,
        "hostPID": False,
        "hostIPC": False,
        # The sandbox's own process is the first one then, and not the application: signals end it as anywhere else,
        # which the first process of a namespace would not notice, and what it leaves behind is reaped.
        "shareProcessNamespace": True,
        # Names are resolved by /etc/hosts alone; a name server has to be named, and nobody listens at this one.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if cluster.runtime_class is not None:
        spec["runtimeClassName"] = cluster.runtime_class
    return spec


def _closed(user: int) -> Manifest:
    return {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _resources(launch: Launch) -> Manifest:
    milli, memory = max(1, round(launch.limits.cpu * 1000)), str(launch.limits.memory_bytes)
    # Of what cannot be shared, a limit is a request too.
    devices = {GPU: str(launch.gpus)} if launch.gpus else {}
    return {
        "limits": {"cpu": f"{milli}m", "memory": memory, **devices},
        "requests": {"cpu": f"{max(1, milli // _CPU_PROMISED)}m", "memory": memory},
    }


def _environment(launch: Launch) -> dict[str, str]:
    """With a GPU, the node names it; what the launch says of GPUs would be said over that, and could name others."""
    found = arguments.environment(launch.env)
    if launch.gpus:
        return {name: value for name, value in found.items() if name not in NO_GPU}
    return {**found, **NO_GPU}


def _places(launch: Launch) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and where they are mounted: places in memory, secrets, files, and claims."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []

    def add(name: str, source: Manifest, path: str, *, read_only: bool = False) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": path, "readOnly": read_only})

    in_memory = ("/tmp", "/home", "/dev/shm", *launch.scratch)  # noqa: S108 -- inside
    for number, path in enumerate(in_memory):
        size = str(launch.limits.tmp_bytes)
        add(f"memory-{number}", {"emptyDir": {"medium": "Memory", "sizeLimit": size}}, path)
    add("run", {"emptyDir": {"medium": "Memory", "sizeLimit": str(_RUN_BYTES)}}, "/run")
    name = name_of(launch.instance)
    add("secrets", {"secret": {"secretName": name, "defaultMode": 0o400}}, "/run/secrets", read_only=True)
    if launch.files:
        add("files", {"secret": {"secretName": f"{name}-files", "defaultMode": 0o400}}, "/run/rios", read_only=True)
    known: dict[str, str] = {}
    for mount in launch.mounts:
        claim = claim_name(mount.source)
        if claim not in known:
            known[claim] = f"volume-{len(known)}"
            volumes.append({"name": known[claim], "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": known[claim], "mountPath": mount.path, "readOnly": mount.read_only})
    return volumes, mounts


def _aliases(launch: Launch, addresses: Mapping[str, tuple[str, ...]]) -> list[Manifest]:
    """Lines of /etc/hosts: an address, and the names that are there."""
    names: dict[str, list[str]] = {}
    for host in dict.fromkeys(allowed.host for allowed in launch.egress):
        for address in addresses.get(host, ()):
            names.setdefault(address, []).append(host)
    return [{"ip": address, "hostnames": hosts} for address, hosts in names.items()]
