"""A host on another machine: its agent is asked, and asked again where an answer was lost, as all verbs allow.

What runs there and what it has is asked for in a thread, so that a host that does not answer holds nobody up.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import SecretBytes

from rios.deploy.runtimes.protocol import Executed, ImageBase, Isolation, LogLine, Metrics, Status
from rios.deploy.scheduling import HostOffer
from rios.dmoe.control import HostControl
from rios.dmoe.peer import Peer
from rios.dmoe.trust import trust_of
from rios.services.deployments import agent_wire as wire
from rios.services.deployments.heard import Heard
from rios.services.deployments.hosts import Ended, Order
from rios.services.deployments.remote_snapshots import RemoteSnapshots, missing_of
from rios.services.deployments.ways import Ways
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, HostLost, InvalidRequest, NetworkClosed, RiosError

log = logging.getLogger(__name__)

LOOK_S = 0.4
FRESH_S = 2.0
"""What a host said counts for so long; a host that is silent for longer does not answer."""
_CUT_S = 4.0
"""After a silence of so long its replicas are lost to a reconciler too: what was asked of them is not waited for."""
_AGAIN_S = 8.0
"""A call whose answer was lost is repeated for so long: an agent that is started again is back by then."""
_PAUSE_S = 0.2
_CALL_S = 30.0
_START_S = 90.0
_PREPARE_S = 630.0
_VOLUME_S = 600.0
"""What is removed may be a million files, on a disk that others keep busy."""
_FOLLOW_S = 0.4
_LEAVE_S = 2.0
"""Who ends waits for so long for what was asked before."""
_STILL = frozenset(("look", wire.GIVE_UP))
"""What is asked of a host while this process ends."""
_IDLE_MAX = 8


class RemoteHost:
    """One host of a network, as its agent shows it. Close it; what runs goes on."""

    def __init__(
        self, peer: Peer, network_id: str, settings: Settings, *, isolation: Isolation = Isolation.PROCESS
    ) -> None:
        """isolation: the network's policy, whatever the host's own is."""
        self.name = peer.name
        self.peer = peer
        self._network_id, self._settings, self._least = network_id, settings, isolation
        self._ways = Ways(lambda: self.peer, network_id, settings)
        self._lock = threading.Lock()
        self._idle: list[HostControl] = []
        self._asking: dict[HostControl, str] = {}
        """What waits for an answer that may be long in coming."""
        self._offer: HostOffer | None = None
        self._instances: dict[str, Status] = {}
        self._own: dict[str, tuple[float, Status | None]] = {}
        """What this process did to instances, and when: an answer that was asked for before does not know of it."""
        self._heard = Heard()
        self._answered_at = 0.0
        self._why = "it has not answered yet"
        self._closing, self._leaving = threading.Event(), threading.Event()
        self.snapshots = RemoteSnapshots(self._ask)
        self._thread = threading.Thread(target=self._watch, name=f"rios-host-{peer.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<RemoteHost {self.name} {self.peer.address[0]}:{self.peer.address[1]}>"

    def moved(self, peer: Peer) -> None:
        """Its agent was started again, and is somewhere else."""
        with self._lock:
            self.peer = peer
            stale, self._idle = self._idle, []
        for control in stale:
            control.close()

    # --- what it has and runs --------------------------------------------------------------------------------

    @property
    def silent_s(self) -> float:
        """Since its last answer."""
        return time.monotonic() - self._answered_at

    def _watch(self) -> None:
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                said = self._once("look", timeout_s=FRESH_S, args={})
                ended = time.monotonic()
                self._heard.answered(ended - begun, now=ended)
                self._take_in(begun, said)
            except (RiosError, KeyError, TypeError, ValueError) as error:
                self._heard.missed(now=time.monotonic())
                self._lose(str(error))
                if self.silent_s > _CUT_S:
                    self._ways.cut()
            self._closing.wait(LOOK_S)

    def _take_in(self, begun: float, said: Mapping[str, Any]) -> None:
        instances = {status.instance: status for status in map(wire.status_of, said["instances"])}
        offer = wire.offer_of(said["offer"])
        with self._lock:
            # What can give too little isolation is asked for nothing new. How far it is and whether one can rely on it
            # is for who asks to say.
            self._offer = replace(
                offer, cordoned=offer.cordoned or offer.isolation < self._least,
                latency_ms=self._heard.latency_ms, reliability=self._heard.reliability,
            )  # fmt: skip
            self._own = {name: own for name, own in self._own.items() if own[0] >= begun}
            for name, (_, status) in self._own.items():
                if status is None:
                    instances.pop(name, None)
                else:
                    instances[name] = status
            self._instances = instances
            self._answered_at, self._why = begun, ""
        self._ways.keep(instances)

    def _lose(self, why: str) -> None:
        with self._lock:
            if not self._why:
                log.info("a host does not answer", extra={"host": self.name, "reason": why})
            self._why = why

    def _did(self, replica_id: str, status: Status | None) -> None:
        with self._lock:
            self._own[replica_id] = (time.monotonic(), status)
            if status is None:
                self._instances.pop(replica_id, None)
            else:
                self._instances[replica_id] = status

    def _known(self) -> tuple[HostOffer, dict[str, Status]]:
        with self._lock:
            offer, silent_s = self._offer, time.monotonic() - self._answered_at
            if offer is None or silent_s > FRESH_S:
                raise HostLost(f"host {self.name} does not answer: {self._why or f'silent for {silent_s:.1f} s'}")
            return offer, dict(self._instances)

    def offer(self) -> HostOffer:
        """As it said last. Raises HostLost where that is too long ago."""
        return self._known()[0]

    def instances(self) -> list[Status]:
        """As it said last. Raises HostLost where that is too long ago."""
        return list(self._known()[1].values())

    # --- calls -----------------------------------------------------------------------------------------------

    def _once(self, op: str, *, timeout_s: float, args: Mapping[str, Any]) -> dict[str, Any]:
        """One call. What is raised tells nothing of whether it was done."""
        return self._asked(op, b"", timeout_s=timeout_s, args=args)[0]

    def _asked(
        self, op: str, body: bytes, *, timeout_s: float, args: Mapping[str, Any]
    ) -> tuple[dict[str, Any], memoryview]:
        """The same on a connection of its own meanwhile, with bytes beside the call and its answer."""
        with self._lock:
            peer = self.peer
            control = self._idle.pop() if self._idle else None
        if control is None:
            control = HostControl(peer, self._settings, session=self._network_id, role=wire.CALLS)
        try:
            self._begin(op, control)
            answer = control.ask(op, body=body, timeout_s=timeout_s, **args)
        except (HostLost, DeadlineExceeded):
            control.close()
            raise
        finally:
            with self._lock:
                self._asking.pop(control, None)
            if not control.closed:
                self._keep(control, peer)
        return answer

    def _begin(self, op: str, control: HostControl) -> None:
        """Something is asked. Raises NetworkClosed where this process ends."""
        if op in _STILL:
            return
        with self._lock:
            if self._leaving.is_set():
                raise self._left()
            self._asking[control] = op

    def _left(self) -> NetworkClosed:
        return NetworkClosed(f"this process ends: nothing more is asked of host {self.name}; another one goes on")

    def _keep(self, control: HostControl, peer: Peer) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_MAX and peer == self.peer and not self._closing.is_set():
                self._idle.append(control)
                return
        control.close()

    def _call(self, op: str, *, timeout_s: float = _CALL_S, **args: Any) -> dict[str, Any]:
        """A call that is repeated while its answer is lost."""
        return self._ask(op, b"", timeout_s, args)[0]

    def _ask(
        self, op: str, body: bytes, timeout_s: float, args: Mapping[str, Any]
    ) -> tuple[dict[str, Any], memoryview]:
        deadline = time.monotonic() + _AGAIN_S
        while True:
            try:
                return self._asked(op, body, timeout_s=timeout_s, args=args)
            except HostLost as error:
                if self._leaving.is_set():
                    raise self._left() from error
                if time.monotonic() > deadline or self._closing.wait(_PAUSE_S):
                    raise HostLost(f"host {self.name} does not answer: {error}") from error

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        """Whether something has to be fetched before it can start."""
        return bool(self._call("pulls", specification=self._raised(specification), image=wire.image(image))["pulls"])

    def prepare(
        self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True
    ) -> ImageBase | None:
        """Fetch what a replica stands on."""
        args = {"specification": self._raised(specification), "image": wire.image(image), "here": here}
        return wire.image_of(self._call("prepare", timeout_s=_PREPARE_S, **args)["image"])

    def unpack(self, specification: Mapping[str, Any], digest: str) -> list[str]:
        """Have the archive of a specification unpacked; or some of the objects that are missing."""
        asked = {"specification": self._raised(specification), "digest": digest}
        return missing_of(self._call("unpack", timeout_s=_PREPARE_S, **asked))

    def _raised(self, specification: Mapping[str, Any]) -> dict[str, Any]:
        """With the isolation that the network asks for, where the specification asks for less."""
        schedule = specification["schedule"]
        least = max(Isolation.named(schedule["isolation"]), self._least)
        return {**specification, "schedule": {**schedule, "isolation": least.name.lower()}}

    def start(self, order: Order) -> Status:
        """Start a replica, or find it running. InvalidRequest for secrets that would cross a network in clear."""
        if order.secrets and not self._is_private():
            raise InvalidRequest(
                f"secrets are not sent to {self.name} in clear: secure the network (RIOS_TLS, docs/security.md)"
            )
        raised = self._raised(order.specification)
        sent = {**wire.order(order), "specification": raised}
        status = wire.status_of(self._call("start", timeout_s=_START_S, order=sent))
        self._did(order.replica_id, status)
        return status

    def _is_private(self) -> bool:
        """Whether nobody can listen on the way to it."""
        if trust_of(self._settings) is not None:
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.peer.address[0]).is_loopback
        return False

    def give_up(self, replica_id: str) -> None:
        """Starts end within a minute there."""

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """End a replica."""
        self._ways.end(replica_id)
        return wire.ended_of(self._call("end", timeout_s=_CALL_S + grace_s, replica=replica_id, grace_s=grace_s))

    def clear(self, replica_id: str) -> None:
        """Take away all there is of it, but the end of its log."""
        self._call("clear", replica=replica_id)
        self._did(replica_id, None)

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        """Take away the logs and snapshots of a deleted deployment, and the volumes that are not to be kept."""
        self._call("forget", organisation=organisation_id, app=app_id, specification=dict(specification))

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        """A volume that a deleted deployment left is from now on another one's."""
        names = {"organisation": organisation_id, "app": app_id, "path": path}
        self._call("move_volume", timeout_s=_VOLUME_S, **names, to_app=to_app, to_path=to_path)

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        """Take a volume away that a deleted deployment left."""
        self._call("remove_volume", timeout_s=_VOLUME_S, organisation=organisation_id, app=app_id, path=path)

    def metrics(self, replica_id: str) -> Metrics:
        """What it used so far."""
        return Metrics(**self._call("metrics", replica=replica_id))

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        """Its lines; the last of them where it has been cleared away. NotFound is raised now, not at the first line."""
        return self._lines(self._call("logs", replica=replica_id, since=since), replica_id, since, follow)

    def _lines(self, said: dict[str, Any], replica_id: str, since: float, follow: bool) -> Iterator[LogLine]:
        while True:
            for at, stream, text in said["lines"]:
                since = float(at)
                yield LogLine(since, stream, text)
            if not said["full"]:
                if not follow or said["ended"]:
                    return
                time.sleep(_FOLLOW_S)
            said = self._call("logs", replica=replica_id, since=since)

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        """Run a command inside. Not repeated: it may have been run where its answer is lost."""
        args = {"replica": replica_id, "command": list(command), "within_s": timeout_s}
        return wire.executed_of(self._once("exec", timeout_s=_CALL_S + timeout_s, args=args))

    def put_secrets(self, replica_id: str, secrets: Mapping[str, SecretBytes]) -> None:
        """Replace its secrets while it runs."""
        if not self._is_private():
            raise InvalidRequest(f"secrets are not sent to {self.name} in clear: secure the network (RIOS_TLS)")
        self._call("put_secrets", replica=replica_id, secrets=wire.secrets(secrets))

    def way(self, replica_id: str) -> str:
        """A loopback address of this process that leads to a replica."""
        host, port = self._ways.to(replica_id)
        return f"{host}:{port}"

    def leave(self) -> None:
        """This process ends: its agent breaks off what it does for snapshots, and after `_LEAVE_S` no answer is waited
        for, whatever it was to: verbs are repeated by whoever leads next."""
        with self._lock:
            self._leaving.set()
            asking = list(self._asking.values())
        if any(op.startswith(wire.SNAPSHOTS) for op in asking):
            threading.Thread(target=self._tell, name=f"rios-host-{self.name}-ends", daemon=True).start()
        if asking:
            threading.Thread(target=self._cut, name=f"rios-host-{self.name}-cut", daemon=True).start()

    def _tell(self) -> None:
        try:
            self._once(wire.GIVE_UP, timeout_s=_LEAVE_S, args={})
        except RiosError as error:  # it goes on for nobody, and ends by its own deadlines
            log.info("a host does not hear that it may stop", extra={"host": self.name, "reason": str(error)})

    def _cut(self) -> None:
        self._closing.wait(_LEAVE_S)
        with self._lock:
            asking = list(self._asking)
        for control in asking:  # whoever waits for it wakes
            control.close()

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
        self._ways.close()
        with self._lock:
            idle, self._idle = self._idle, []
        for control in idle:
            control.close()
        self._thread.join(2 * FRESH_S)
