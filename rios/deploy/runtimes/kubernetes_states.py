"""What a Pod says: the state of an instance, why it cannot start, what it has used."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from rios.deploy.runtimes.engine_logs import seconds
from rios.deploy.runtimes.kubernetes_objects import CONTAINER, INSTANCE, LABELS, USED, Manifest
from rios.deploy.runtimes.protocol import State, Status

LOST_S = 60.0
"""A node that has not ended a Pod for so long after the Pod's grace is taken for lost."""
_COMMAND_NOT_FOUND = 127
_NOT_STARTED = {"StartError", "ContainerCannotRun"}
"""How engines say that a container was made and that its command could not be run."""
_HOPELESS = {"CreateContainerConfigError", "CreateContainerError", "InvalidImageName", "ErrImageNeverPull"}
_NO_IMAGE = {"InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "ErrImagePull"}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([a-zA-Z]*))")
_UNITS = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: str) -> float:
    """A number as the API writes it: "250m", "128Mi", "1800n", "1e3". Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None or (found[3] or "") not in _UNITS:
        raise ValueError(f"{text!r} is no quantity of Kubernetes")
    return float(found[1] + (found[2] or "")) * _UNITS[found[3] or ""]


def labels_of(found: Manifest) -> dict[str, str]:
    """The labels that its instance was given, also those that a cluster could not hold."""
    given: dict[str, str] = json.loads(found["metadata"].get("annotations", {}).get(LABELS, "{}"))
    return given


def instance_of(found: Manifest) -> str:
    """The instance that an object is of."""
    return str(found["metadata"]["labels"][INSTANCE])


def port_of(pod: Manifest) -> int | None:
    """Where the application listens inside; None where it serves nobody."""
    ports = _own(pod["spec"]["containers"]).get("ports")
    return int(ports[0]["containerPort"]) if ports else None


def container(pod: Manifest) -> dict[str, Any]:
    """What the node says of the application's container; empty until it says something."""
    return _own((pod.get("status") or {}).get("containerStatuses") or [])


def _own(containers: list[dict[str, Any]]) -> dict[str, Any]:
    """The application's of several: a cluster may add some of its own to every Pod."""
    return next((one for one in containers if one["name"] == CONTAINER), {})


def _terminated(pod: Manifest) -> dict[str, Any] | None:
    ended: dict[str, Any] | None = (container(pod).get("state") or {}).get("terminated")
    return ended


def state_of(pod: Manifest) -> State:
    """A Pod of which no node says that it ended has exited too where none can, or will: its node is lost."""
    said = container(pod).get("state") or {}
    if "terminated" in said or (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return "exited"
    if ends_at := pod["metadata"].get("deletionTimestamp"):
        unplaced = not pod["spec"].get("nodeName")
        if unplaced or time.time() > seconds(ends_at) + LOST_S:
            return "exited"
    return "running" if "running" in said else "created"


def status_of(pod: Manifest, endpoint: tuple[str, int] | None = None) -> Status:
    """endpoint: how this process reaches it while it runs."""
    state, ended = state_of(pod), _terminated(pod) or {}
    code = ended.get("exitCode")
    if ended.get("reason") in _NOT_STARTED:
        code = _COMMAND_NOT_FOUND
    running = (container(pod).get("state") or {}).get("running") or {}
    started, finished = running.get("startedAt") or ended.get("startedAt"), ended.get("finishedAt")
    return Status(
        instance=instance_of(pod),
        state=state,
        labels=labels_of(pod),
        exit_code=None if code is None else int(code),
        out_of_memory=ended.get("reason") == "OOMKilled",
        started_at=seconds(started) if started else None,
        finished_at=seconds(finished) if finished else None,
        endpoint=endpoint if state == "running" else None,
    )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a Pod does not start."""

    why: str
    image: bool = False
    """Whether its image is not to be had."""
    made: bool = False
    """Whether its image is there, and an engine could make no container of it."""


def obstacle(pod: Manifest) -> Obstacle | None:
    """What no waiting mends. A first failure to fetch an image is not among it: the node tries again."""
    waiting = (container(pod).get("state") or {}).get("waiting") or {}
    reason, why = str(waiting.get("reason", "")), str(waiting.get("message") or waiting.get("reason", ""))
    if reason in _HOPELESS or reason == "ImagePullBackOff":
        return Obstacle(why, image=reason in _NO_IMAGE, made=reason == "CreateContainerError")
    status = pod.get("status") or {}
    if status.get("phase") == "Failed" and _terminated(pod) is None:
        return Obstacle(f"{status.get('reason', 'Failed')}: {status.get('message', 'it does not say why')}")
    return None


def waits_for(pod: Manifest) -> str:
    """What a Pod that has not started says it waits for."""
    waiting = (container(pod).get("state") or {}).get("waiting") or {}
    if waiting:
        return f"{waiting.get('reason', 'waiting')}: {waiting.get('message', '')}".rstrip(": ")
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("status") != "True" and condition.get("message"):
            return str(condition["message"])
    return "no node has said anything of it"


# --- what it used ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Used:
    """What was measured of a Pod up to a moment, kept with it: a cluster tells rates, and forgets them."""

    cpu_seconds: float = 0.0
    at: float = 0.0
    """Up to when, in seconds since 1970; 0.0 for nothing measured yet."""
    memory_bytes: int = 0
    memory_peak_bytes: int = 0

    @classmethod
    def of(cls, pod: Manifest) -> Used:
        """As it was written down."""
        text = pod["metadata"].get("annotations", {}).get(USED)
        return cls(**json.loads(text)) if text else cls()

    def to_json(self) -> str:
        """As it is written down."""
        return json.dumps(
            {
                "cpu_seconds": self.cpu_seconds,
                "at": self.at,
                "memory_bytes": self.memory_bytes,
                "memory_peak_bytes": self.memory_peak_bytes,
            }
        )

    def after(self, measured: Manifest, *, started_at: float) -> Used:
        """With a measurement of metrics.k8s.io: its rate holds since the one before, or since the start."""
        at = seconds(measured["timestamp"])
        if at <= self.at:
            return self
        usages = [one["usage"] for one in measured["containers"]]
        rate = sum(quantity(usage["cpu"]) for usage in usages)
        memory = int(sum(quantity(usage["memory"]) for usage in usages))
        elapsed_s = max(at - max(self.at, started_at), 0.0)
        return Used(self.cpu_seconds + rate * elapsed_s, at, memory, max(self.memory_peak_bytes, memory))
