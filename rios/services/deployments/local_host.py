"""This machine as a host: its runtimes, what they run for one network, and the volumes that lie here."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import SecretBytes

from rios.deploy import functions
from rios.deploy.runtimes import cgroup
from rios.deploy.runtimes.gpus import Gpus
from rios.deploy.runtimes.protocol import (
    Allowed,
    Base,
    Capabilities,
    Executed,
    ImageBase,
    Isolation,
    KeepsVolumes,
    Launch,
    Limits,
    LogLine,
    Metrics,
    Mount,
    Runtime,
    Status,
)
from rios.deploy.runtimes.watching import begun
from rios.deploy.scheduling import Amounts, HostOffer
from rios.deploy.spec import GATEWAY, App, RuntimeName
from rios.deploy.volume_names import volume_name
from rios.deploy.volumes import Volumes
from rios.services.deployments.bases import own_env
from rios.services.deployments.contents import Contents
from rios.services.deployments.host_archives import HostArchives
from rios.services.deployments.host_bases import HostBases
from rios.services.deployments.host_snapshots import HostSnapshots
from rios.services.deployments.hosts import APP, ASKS, NETWORK, REVISION, Ended, Order
from rios.services.deployments.machine import HOST_BASED, gpus_to_offer
from rios.services.deployments.room import Keeping, Room
from rios.services.deployments.volume_turns import VolumeTurns
from rios.words.errors import InvalidRequest, NotFound, RiosError

log = logging.getLogger(__name__)

CPU_SHARES = 4
"""Cores are shared: so many times the machine's may be promised. Memory is not: what is promised is there."""
_MEMORY_SHARE = 0.8
REPLICAS_MAX = 500
LOG_LINES, LOGS_KEPT = 5000, 20
"""Of a replica that was cleared away, and of how many of one deployment."""


class LocalHost:
    """This machine. Close it; what runs goes on."""

    def __init__(
        self,
        name: str,
        directory: Path,
        runtimes: Callable[[Path], Mapping[Runtime, Isolation]],
        promised: Mapping[RuntimeName, Isolation],
        *,
        network_id: str,
        region: str = "",
        ask_bp: int = 10_000,
        isolation: Isolation = Isolation.PROCESS,
        gpus: Gpus | None = None,
        unmetered: bool = True,
        gateway: Callable[[], object] | None = None,
        snapshot_bytes: int = 1 << 36,
        keeping: Keeping | None = None,
    ) -> None:
        """directory: where sandboxes and volumes lie; made when the first replica starts. runtimes: makes them then.

        promised: those that there will be. isolation: no replica runs here with less. gpus: this machine's, without.
        unmetered: whether replicas may run here where the kernel neither limits nor meters them. gateway: sees to it
        that the network's own answers where the runtimes lead to it; without, replicas have no way to it from here.
        snapshot_bytes: room for snapshots. keeping: of images and root file systems that nobody uses.
        """
        self.name = name
        self._directory = directory
        self._network_id = network_id
        self._make = runtimes
        self._made: list[Runtime] | None = None
        self._promised = promised
        self._least = isolation
        self._unmetered = unmetered
        self._gpus = gpus or Gpus()
        self._gateway = gateway
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._where: dict[str, Runtime] = {}
        self._unmended: list[Runtime] | None = None
        """Whose instances have not been adopted yet; None before the first look."""
        self._mending: Future[None] | None = None
        self._volumes = Volumes()
        self._turns = VolumeTurns(directory / "turns")
        contents = Contents(directory / "content", snapshot_bytes, name=name, network_id=network_id)
        self._room = Room(name, directory, lambda: self._runtimes, keeping)
        self._bases = HostBases(name, HostArchives(name, directory, contents, self._room), self._room)
        self.snapshots: HostSnapshots | None = HostSnapshots(
            name, contents, self._volumes, self._volume, runs=self._runs, making=self._turns.making
        )
        self._offer: HostOffer | None = None
        self._region, self._ask_bp = region, ask_bp

    def __repr__(self) -> str:
        return f"<LocalHost {self.name}: {', '.join(self._promised) or 'no runtime'}>"

    @property
    def _runtimes(self) -> list[Runtime]:
        """The strongest isolation first."""
        with self._making:
            if self._made is None:
                self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
                found = self._make(self._directory)
                self._made = sorted(found, key=lambda runtime: -found[runtime])
            return self._made

    def _adopted(self) -> None:
        """Mend once what was running before this process was.

        An engine that cannot be asked now is asked again, beside those that wait for an answer of this host: each time
        it may take half a minute to find out that it still cannot.
        """
        with self._lock:
            if self._unmended is None:
                self._volumes.thaw_all(self._directory)  # who was reading one was killed
                self._unmended = list(self._runtimes)
                self._mend()
            elif self._unmended and (self._mending is None or self._mending.done()):
                self._mending = begun(self._mend, "rios-adopting")

    def _mend(self) -> None:
        for runtime in list(self._unmended or ()):
            try:
                adopted = self._adopts(runtime)
            except RiosError as error:
                log.warning("what ran here is not adopted yet", extra={"runtime": runtime.name, "reason": str(error)})
                continue
            if adopted and self._unmended is not None:
                self._unmended.remove(runtime)

    def _adopts(self, runtime: Runtime) -> bool:
        """Whether nothing is left to mend of what a runtime has."""
        if not runtime.instances():
            return True
        if not runtime.capabilities().usable:
            return False
        self._where.update({status.instance: runtime for status in runtime.adopt()})
        asking = runtime.instances({NETWORK: self._network_id, ASKS: GATEWAY})
        if self._gateway is not None and any(one.state != "exited" for one in asking):
            begun(self._gateway_again, "rios-door")  # seconds, of which those who serve the others have none
        return True

    def _gateway_again(self) -> None:
        """What ran before this process asks the gateway still."""
        assert self._gateway is not None
        try:
            self._gateway()
        except (RiosError, OSError) as error:
            log.error("applications do not reach their gateway", extra={"host": self.name, "reason": str(error)})

    def offer(self) -> HostOffer:
        """What this machine has. What its engines really can is found out when something is to run on them."""
        if self._offer is None:
            disk = shutil.disk_usage(self._directory if self._directory.exists() else "/")
            self._offer = HostOffer(
                name=self.name,
                total=Amounts(
                    cpu_milli=len(os.sched_getaffinity(0)) * 1000 * CPU_SHARES,
                    memory_bytes=int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _MEMORY_SHARE),
                    gpus=gpus_to_offer(self._gpus),
                    disk_bytes=disk.free,
                    replicas=REPLICAS_MAX,
                ),
                isolation=max(self._promised.values(), default=0),
                runtimes=frozenset(self._promised),
                region=self._region,
                ask_bp=self._ask_bp,
                gateway=self._gateway is not None,
                cordoned=max(self._promised.values(), default=0) < self._least
                or not (self._unmetered or cgroup.version()),
            )
        return self._offer

    # --- starting --------------------------------------------------------------------------------------------

    def runtime_for(self, app: App) -> Runtime:
        """The strongest runtime that can run `app`, or the one that it names.

        Raises InvalidRequest, which says what each of them lacks.
        """
        why = []
        for runtime in self._runtimes:
            if app.image is None and app.rootfs is None and runtime.name != HOST_BASED:
                lacks = "needs an image or a root file system"
            else:
                can = runtime.capabilities()
                lacks = can.why_not or self._lacks(app, can)
                if app.resources.gpu and not lacks:
                    lacks = runtime.no_gpus()
            if not lacks:
                return runtime
            why.append(f"{runtime.name} {lacks}")
        raise InvalidRequest(f"no runtime of {self.name} can run {app.name}: {'; '.join(why) or 'it has none'}")

    def _lacks(self, app: App, can: Capabilities) -> str:
        """What a runtime lacks for `app`; empty where it can run it."""
        least = max(Isolation.named(app.schedule.isolation), self._least)
        if app.runtime is not None and can.name != app.runtime:
            return f"is not the {app.runtime} that it names"
        if can.isolation < least:
            return f"isolates as a {can.isolation.name.lower()} does, and a {least.name.lower()} is asked for"
        if not (self._unmetered or can.metered):
            return "meters nothing here: run the worker as root, or let it run so by RIOS_APPS_UNMETERED=1"
        if app.image is not None and not can.images:
            return "takes no images"
        if app.rootfs is not None and not can.archives:
            return "takes no archives: push it to a registry, and give image"
        if app.port is not None and not can.port:
            return "serves no port"
        if app.asks_gateway and self._gateway is None:
            return "has no way to the network's gateway, which is on another machine"
        return "has no egress" if app.egress and not can.egress else ""

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        """Whether an image or archive is not prepared yet, or an image's name not resolved."""
        return self._bases.pulls(specification, image)

    def prepare(
        self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True
    ) -> ImageBase | None:
        """Fetch the image."""
        app = App.model_validate(specification)
        base = self._bases.base(app, self.runtime_for(app), image, here=here)
        return base if app.image is not None and isinstance(base, ImageBase) else None

    def unpack(self, specification: Mapping[str, Any], digest: str) -> list[str]:
        """Unpack the archive that a specification stands on, or say what is missing for that."""
        app = App.model_validate(specification)
        return self._bases.unpack(app, self.runtime_for(app), digest)

    def start(self, order: Order) -> Status:
        """Start a replica, or find it running."""
        app = App.model_validate(order.specification)
        runtime = self.runtime_for(app)
        if app.asks_gateway and self._gateway is not None:
            self._gateway()
        with self._bases.standing(app, runtime, order.image) as base:
            launch = self._launch(order, app, runtime, base)
            # Known before it is there: whoever ends it meanwhile looks in the right place.
            self._where[order.replica_id] = runtime
            with self._starting(order.app_id):
                return runtime.start(launch)

    def _launch(self, order: Order, app: App, runtime: Runtime, base: Base) -> Launch:
        return Launch(
            instance=order.replica_id,
            base=base,
            command=app.command if app.python is None else functions.command(app.python),
            env={**own_env(app), **app.env},
            workdir=app.workdir,
            user=app.user,
            limits=Limits(
                cpu=app.resources.cpu, memory_bytes=app.resources.memory, pids=app.resources.pids,
                files=app.resources.files, tmp_bytes=app.resources.tmp,
            ),
            gpus=app.resources.gpu,
            port=app.port,
            egress=tuple(Allowed(rule.host, rule.port) for rule in app.egress),
            secrets=order.secrets,
            files={} if app.python is None else functions.files(app.python),
            scratch=app.scratch,
            mounts=self._mounts(order, app, runtime),
            labels={
                NETWORK: self._network_id, APP: order.app_id, REVISION: str(order.revision),
                **({ASKS: GATEWAY} if app.asks_gateway else {}),
            },
        )  # fmt: skip

    def _starting(self, app_id: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.snapshots is None else self.snapshots.starting(app_id)

    # --- volumes ---------------------------------------------------------------------------------------------

    def _volume(self, organisation_id: str, app_id: str, path: str) -> Path:
        return self._directory / "volumes" / organisation_id / app_id / volume_name(path)

    def _mounts(self, order: Order, app: App, runtime: Runtime) -> tuple[Mount, ...]:
        if not app.volumes:
            return ()
        with self._turns.making(order.app_id):
            return self._made_mounts(order, app, runtime)

    def _made_mounts(self, order: Order, app: App, runtime: Runtime) -> tuple[Mount, ...]:
        found = []
        for path, volume in app.volumes.items():
            place = self._volume(order.organisation_id, order.app_id, path)
            if isinstance(runtime, KeepsVolumes):
                runtime.ensure_volume(place, volume.size)
            else:
                place.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
                self._volumes.ensure(place, volume.size)
                if os.getuid() == 0:  # else all is this user's
                    os.chown(place, app.user, app.user)
            found.append(Mount(source=place, path=path, read_only=volume.read_only))
        return tuple(found)

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        """Take away the logs and snapshots of a deleted deployment, and the volumes that are not to be kept."""
        shutil.rmtree(self._logs(app_id), ignore_errors=True)
        if self.snapshots is not None:
            self.snapshots.forget(app_id)
        if not specification["volumes"] and not self._turns.knows(app_id):
            return
        with self._turns.ending(app_id):
            for path, volume in specification["volumes"].items():
                self._end_volume(self._volume(organisation_id, app_id, path), keep=volume["keep"])

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        """A volume that a deleted deployment left is from now on another one's."""
        self._require_ended(app_id, path)
        place = self._volume(organisation_id, app_id, path)
        self._volumes.move(place, self._volume(organisation_id, to_app, to_path))

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        """Take a volume away that a deleted deployment left."""
        self._require_ended(app_id, path)
        self._end_volume(self._volume(organisation_id, app_id, path), keep=False)

    def _require_ended(self, app_id: str, path: str) -> None:
        if self._runs(app_id):
            raise InvalidRequest(f"a replica of {app_id} runs on host {self.name}: its volume at {path} stays")

    def _runs(self, app_id: str) -> bool:
        """Whether a replica of a deployment is here that has not ended."""
        return any(one.labels.get(APP) == app_id and one.state != "exited" for one in self.instances())

    def _end_volume(self, place: Path, *, keep: bool) -> None:
        (self._volumes.release if keep else self._volumes.remove)(place)

    # --- what runs -------------------------------------------------------------------------------------------

    def instances(self) -> list[Status]:
        """All there is of this network's replicas."""
        if self._made is None and not self._directory.exists():
            return []
        self._adopted()
        self._room.look_if_due()
        found = []
        for runtime in self._runtimes:
            for status in runtime.instances({NETWORK: self._network_id}):
                self._where[status.instance] = runtime
                found.append(status)
        return found

    def give_up(self, replica_id: str) -> None:
        """Starts end within a minute here."""

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """End a replica."""
        status = metrics = None
        with contextlib.suppress(NotFound):
            runtime = self._of(replica_id)
            status = runtime.stop(replica_id, grace_s=grace_s)
            metrics = runtime.metrics(replica_id)
        return Ended(status=status, metrics=metrics)

    def clear(self, replica_id: str) -> None:
        """Take away all there is of it, but the end of its log."""
        known = self._where.get(replica_id)
        try:
            self._keep_log(replica_id)
        except (RiosError, OSError) as error:
            log.info("a log is not kept", extra={"replica": replica_id, "reason": str(error)})
        for runtime in self._runtimes if known is None else [known]:
            runtime.remove(replica_id)
        self._where.pop(replica_id, None)

    def _keep_log(self, replica_id: str) -> None:
        runtime = self._of(replica_id)
        app_id = runtime.status(replica_id).labels.get(APP)
        if app_id is None:
            return
        lines: deque[str] = deque(maxlen=LOG_LINES)
        lines.extend(json.dumps([line.at, line.stream, line.text]) for line in runtime.logs(replica_id))
        if lines:
            place = self._logs(app_id)
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place / f"{replica_id}.jsonl").write_text("\n".join(lines) + "\n")
            for old in sorted(place.iterdir(), key=lambda path: path.stat().st_mtime)[:-LOGS_KEPT]:
                old.unlink()

    def _logs(self, app_id: str) -> Path:
        return self._directory / "logs" / app_id

    def status(self, replica_id: str) -> Status:
        """What is true of it now. Raises NotFound."""
        return self._of(replica_id).status(replica_id)

    def metrics(self, replica_id: str) -> Metrics:
        """What it used so far."""
        return self._of(replica_id).metrics(replica_id)

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        """Its lines; the last of them where it has been cleared away."""
        try:
            runtime = self._of(replica_id)
        except NotFound:
            kept = next(self._directory.glob(f"logs/*/{replica_id}.jsonl"), None)
            if kept is None:
                raise
            return iter([line for line in _kept_lines(kept) if line.at > since])
        return runtime.logs(replica_id, since=since, follow=follow)

    def way(self, replica_id: str, address: str) -> str:
        """How this process reaches a replica. address: as it was when the replica started."""
        return address

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        """Run a command inside."""
        return self._of(replica_id).exec(replica_id, tuple(command), timeout_s=timeout_s)

    def put_secrets(self, replica_id: str, secrets: Mapping[str, SecretBytes]) -> None:
        """Replace its secrets while it runs."""
        self._of(replica_id).put_secrets(replica_id, secrets)

    def _of(self, replica_id: str) -> Runtime:
        known = self._where.get(replica_id)
        if known is not None:
            return known
        for runtime in self._runtimes:
            try:
                runtime.status(replica_id)
            except NotFound:
                continue
            self._where[replica_id] = runtime
            return runtime
        raise NotFound(f"there is no replica {replica_id} on {self.name}")

    def leave(self) -> None:
        """What is read or made for snapshots is broken off; all else ends by deadlines of its own."""
        if self.snapshots is not None:
            self.snapshots.leave()

    def close(self) -> None:
        """Let go of the runtimes."""
        self._room.close()
        for runtime in self._made or []:
            try:
                runtime.close()
            except RiosError as error:
                log.warning("a runtime did not close", extra={"runtime": runtime.name, "reason": str(error)})


def _kept_lines(path: Path) -> list[LogLine]:
    return [LogLine(*json.loads(line)) for line in path.read_text().splitlines()]
