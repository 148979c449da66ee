"""Containers by an engine that speaks Docker's API: podman, with runc, gVisor or Kata as what starts them.

The engine makes the container; rios makes what is around it: the network namespace with its relay, the control group
that limits and meters it, and the files in memory. So these are the same in every runtime, and outlive the container.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from pydantic import SecretBytes

from rios.deploy.runtimes import arguments, cgroup, gvisor, seccomp
from rios.deploy.runtimes.beside import start_beside
from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.containers import container_request, ending_of, state_of
from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.engine_containers import Containers, container_name, inspected
from rios.deploy.runtimes.engine_exec import run_inside
from rios.deploy.runtimes.engine_gpus import CDI, GpuWay
from rios.deploy.runtimes.engine_images import Images
from rios.deploy.runtimes.engine_leftovers import drop_image, sweep_images
from rios.deploy.runtimes.engine_logs import follow_lines, read_lines
from rios.deploy.runtimes.engine_service import EngineService, Kind, translated
from rios.deploy.runtimes.fetched import Fetched, Mark
from rios.deploy.runtimes.gpus import Gpus
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import (
    Base,
    Capabilities,
    Executed,
    HostBase,
    ImageBase,
    Launch,
    LogLine,
    Metrics,
    Status,
)
from rios.deploy.runtimes.records import Record, Records
from rios.deploy.runtimes.relay import Counters
from rios.deploy.runtimes.watching import Policy, begun, must_run, until_exited
from rios.deploy.spec import RuntimeName
from rios.words.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RiosError,
    SandboxFailed,
    UnsupportedRuntime,
)

log = logging.getLogger(__name__)

_ENDED_WITHIN_S = 15.0
_MEND_EVERY_S = 20.0
"""A relay that died is started anew once in this time: longer than that may take."""
_TRIED_EVERY_S = 5.0
"""A service that did not come up is not started again before: that takes as long as it is waited for."""
_PROCESSES_MAX = 1 << 15


class EngineRuntime:
    """Containers of one kind. It meets `protocol.Runtime` and `fetched.Fetches`."""

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        *,
        policy: Policy | None = None,
        gpus: Gpus | None = None,
        cdi: Sequence[Path] = CDI,
    ) -> None:
        """directory: where records of instances are, and the storage of the engine, which all kinds share.

        gpus: what this machine has, without. cdi: where the engine reads what devices are.
        """
        self.name: RuntimeName = kind.name
        self._kind = kind
        self._directory = directory.resolve()
        self._policy = policy or Policy()
        self._records = Records(self._directory / kind.name)
        self._service = EngineService(kind, self._directory / "engine")
        self._fetched = Fetched(self._directory)
        self._images = Images(self._service, self._fetched)
        self._gpus = gpus or Gpus()
        self._gpu_way = GpuWay(kind, self._gpus, self._client, cdi)
        self._starts_gpus = self._service
        if kind.gpu_flags:
            self._starts_gpus = EngineService(kind, self._directory / "engine", for_gpus=True)
        self._containers = Containers(self._service, self._client, kind.name)
        self._mended_at: dict[str, float] = {}
        self._answered, self._failure, self._failed_until = False, "", 0.0

    # What works here.

    @functools.cached_property
    def _layout(self) -> int:
        return cgroup.version()

    @functools.cached_property
    def _lacking(self) -> str:
        """What this machine lacks for it; empty where it lacks nothing."""
        if why_not := self._kind.why_not():
            return why_not
        if not self._layout:
            return "no control group can be made here, and containers are not run without limits: mount the controllers"
        return ""

    @property
    def _why_not(self) -> str:
        """Why it cannot be asked. A service that did not come up is started again, for it may have been killed."""
        if self._lacking or self._answered:
            return self._lacking
        now = time.monotonic()
        if now < self._failed_until:
            return self._failure
        try:
            self._service.client()
        except SandboxFailed as error:
            self._failure, self._failed_until = str(error), now + _TRIED_EVERY_S
            return self._failure
        self._answered = True
        return ""

    @functools.cached_property
    def _program(self) -> str:
        return self._kind.found() or self._kind.program

    @functools.cached_property
    def _profile(self) -> Path | None:
        """The file with the system call filter, where it can be made."""
        if not seccomp.available():
            return None
        path = self._directory / "seccomp.json"
        seccomp.write_profile(path)
        return path

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=self.name,
            isolation=self._kind.isolation,
            why_not=self._why_not,
            images=True,
            cpu="cgroup",
            memory="cgroup",
            pids="cgroup",
            port=True,
            egress=True,
            pause=True,
            metered=True,
            volume_quota="enforced",
            seccomp=True,
        )

    def no_gpus(self) -> str:
        return self._why_not or self._gpu_way.why_not()

    def _client(self) -> docker.APIClient:
        if self._why_not:
            raise UnsupportedRuntime(self._why_not)
        return self._service.client()

    # Images.

    def prepare_image(
        self,
        reference: str,
        *,
        pinned: ImageBase | None = None,
        here: bool = True,
        timeout_s: float = 600.0,
        no_room: Callable[[], str] = str,
    ) -> ImageBase:
        self._client()
        if pinned is not None:
            return self._images.pinned(reference, pinned, timeout_s, no_room=no_room)
        return self._images.named(reference, timeout_s, here=here, no_room=no_room)

    def prepare_archive(self, archive: Path, *, timeout_s: float = 600.0) -> Base:
        self._client()
        return self._images.of_archive(archive, timeout_s)

    def prepared_archive(self, digest: str) -> Base | None:
        self._client()
        return self._images.known_archive(digest)

    def drop(self, mark: Mark) -> bool:
        if not isinstance(mark.base, ImageBase):
            return False
        self._client()
        drop_image(self._service, mark)
        return True

    def sweep(self, *, at_once: bool) -> None:
        sweep_images(self._service, self._fetched, at_once=at_once)

    # Starting.

    def start(self, launch: Launch, *, timeout_s: float = 60.0) -> Status:
        self._client()
        if not isinstance(launch.base, ImageBase):
            raise UnsupportedRuntime(
                f"{self.name} runs images and archives, and the instance {launch.instance} has neither: "
                + ("give an image, or ask for bubblewrap" if isinstance(launch.base, HostBase) else "prepare it anew")
            )
        if launch.gpus and (why_not := self.no_gpus()):
            raise UnsupportedRuntime(f"{self.name} {why_not}")
        record = self._records.of(launch.instance)
        with record.turn(make=True):
            record.make(launch)
            if not (record.directory / "started.json").exists():
                try:
                    with (self._starts_gpus if launch.gpus else self._service).patient(timeout_s) as client:
                        self._start(client, record, launch, launch.base.digest, timeout_s)
                except BaseException:
                    self._take_away(record)
                    raise
        return self.status(launch.instance)

    def _start(self, client: docker.APIClient, record: Record, launch: Launch, image: str, timeout_s: float) -> None:
        self._containers.remove(record.instance)  # of an attempt that was cut off
        self._end_relay(record)
        memory = MemoryFiles(launch.instance)
        memory.make({k: v.get_secret_value() for k, v in launch.secrets.items()}, launch.files, owner=launch.user)
        for mount in launch.mounts:
            if not mount.read_only:
                os.chown(mount.source, launch.user, launch.user)
        arguments.write_etc(record.directory, launch)
        given = self._gpus.take(record.directory, launch.gpus)
        limits, kind = launch.limits, self._kind
        pids, memory_bytes = limits.pids + kind.own_pids, limits.memory_bytes + kind.own_bytes
        # Beside the container, its monitor is in the group.
        group = Cgroup(launch.instance, layout=self._layout)
        group.make(cpu=limits.cpu, memory_bytes=memory_bytes + (16 << 20), pids=pids + 64)
        network = "none"
        if launch.port is not None or launch.egress:
            task = {"relay": self._policy.relay(launch.port, launch.egress), "join": None}
            made = start_beside("rios.deploy.runtimes.relay_process", record, task, timeout_s=timeout_s)
            network = f"ns:/proc/{made['inside']}/ns/net"
        request = container_request(
            launch,
            image=image,
            runtime=self.name,
            network=network,
            parent=group.name,
            pids=pids,
            memory_bytes=memory_bytes,
            etc=record.directory / "etc",
            memory=memory,
            profile=self._profile,
            nproc=_processes_of_a_user(),
            given=given,
            devices=self._gpu_way.requests(given),
        )
        with translated(f"the instance {launch.instance} could not be started"):
            created = self._containers.create(client, request, launch.instance)
            client.start(created["Id"])
            details = inspected(client, created["Id"])
        write_json(
            record.directory / "started.json",
            {"at": time.time(), "container": details["Id"], "log": details.get("LogPath") or ""},
        )

    def adopt(self) -> list[Status]:
        for record in self._records.all():
            with contextlib.suppress(NotFound), record.turn():
                self._mend(record)
        self._containers.sweep(lambda instance: self._records.of(instance).exists)
        return self.instances()

    def _mend(self, record: Record) -> None:
        """Give a running container whose relay died a new one."""
        asked = record.asked
        if record.alive or (asked["port"] is None and not asked["egress"]):
            return
        details = self._containers.details(record.instance)
        if details is None or state_of(details) != "running":
            return
        before = read_json(record.directory / "relay.json") or {"port": None}
        relay = self._policy.relay(asked["port"], asked["egress"], before["port"])
        start_beside(
            "rios.deploy.runtimes.relay_process",
            record,
            {"relay": relay, "join": details["State"]["Pid"]},
            timeout_s=_ENDED_WITHIN_S,
        )

    # What is true.

    def instances(self, labels: Mapping[str, str] | None = None) -> list[Status]:
        return self._records.each(labels, self._looked_after)

    def _looked_after(self, record: Record) -> Status:
        """The status, and a new relay on its way where a running container has lost its own: nobody reaches it then."""
        status = self._status(record)
        now = time.monotonic()
        if status.state != "running" or record.alive or now < self._mended_at.get(record.instance, 0) + _MEND_EVERY_S:
            return status
        asked = record.asked
        if asked["port"] is not None or asked["egress"]:
            self._mended_at[record.instance] = now
            begun(lambda: self._mended(record), "rios-relay")
        return status

    def _mended(self, record: Record) -> None:
        try:
            with contextlib.suppress(NotFound), record.turn():  # it may be removed meanwhile
                self._mend(record)
        except RiosError as error:
            log.warning("a relay is not mended", extra={"replica": record.instance, "reason": str(error)})

    def status(self, instance: str) -> Status:
        return self._status(self._records.there(instance))

    def _status(self, record: Record) -> Status:
        asked = (record.read() or {"asked": {"labels": {}}})["asked"]
        started = read_json(record.directory / "started.json")
        ended = read_json(record.directory / "exit.json") or self._ended(record, started)
        group = Cgroup(record.instance, layout=self._layout)
        if started is None:
            return Status(instance=record.instance, state="created", labels=asked["labels"])
        relay = read_json(record.directory / "relay.json")
        endpoint = ("127.0.0.1", int(relay["port"])) if relay and relay["port"] else None
        return Status(
            instance=record.instance,
            state="exited" if ended else "paused" if group.frozen else "running",
            labels=asked["labels"],
            exit_code=ended["code"] if ended else None,
            out_of_memory=bool(ended and ended["out_of_memory"]) or group.ran_out,
            started_at=started["at"],
            finished_at=ended["at"] if ended else None,
            endpoint=None if ended else endpoint,
        )

    def _ended(self, record: Record, started: dict[str, Any] | None) -> dict[str, Any] | None:
        """How the container ended, kept once it is known; None while it runs."""
        if started is None:
            return None
        details = self._containers.details(record.instance)
        if details is not None and state_of(details) == "running":
            return None
        if details is not None and state_of(details) == "created":
            details = None  # the machine started anew, and the engine forgot that it ran
        group = Cgroup(record.instance, layout=self._layout)
        peak = group.counted().memory_peak_bytes if group.exists else 0
        limit = arguments.limits_of(record.asked).memory_bytes
        ended = ending_of(details, memory_peak_bytes=peak, memory_bytes=limit)
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            write_json(record.directory / "exit.json", ended)
        return ended

    def wait(self, instance: str, *, timeout_s: float) -> Status:
        return until_exited(self, instance, timeout_s)

    def metrics(self, instance: str) -> Metrics:
        record = self._records.of(instance)
        counted = Cgroup(record.asked["instance"], layout=self._layout).counted_if_there()
        if counted is None:  # it never began, for its engine ended meanwhile, or the machine has started anew
            raise NotFound(f"nothing counts what the instance {instance} used: it has no control group")
        sent, received = Counters.read(record.directory / "bytes")
        gpu_percent, gpu_memory_bytes = self._gpus.used(record.directory)
        return Metrics(
            at=time.time(),
            cpu_seconds=counted.cpu_seconds,
            memory_bytes=counted.memory_bytes,
            memory_peak_bytes=counted.memory_peak_bytes,
            pids=counted.pids,
            egress_bytes=sent,
            ingress_bytes=received,
            gpu_percent=gpu_percent,
            gpu_memory_bytes=gpu_memory_bytes,
        )

    def logs(self, instance: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        record = self._records.of(instance)
        record.asked  # noqa: B018 -- raises NotFound now, and not at the first line
        started = read_json(record.directory / "started.json")
        path = Path(started["log"] if started and started["log"] else record.directory / "log")
        if not follow:
            return read_lines(path, since, ended=self.status(instance).state == "exited")
        return follow_lines(path, since, lambda: self.status(instance).state == "exited")

    # What is done to it.

    def stop(self, instance: str, *, grace_s: float = 10.0) -> Status:
        if self.status(instance).state == "paused":
            self.resume(instance)
        if self.status(instance).state == "running":
            self._containers.send(instance, signal.SIGTERM)
            with contextlib.suppress(DeadlineExceeded):
                return until_exited(self, instance, grace_s)
        return self.kill(instance)

    def kill(self, instance: str) -> Status:
        status = self.status(instance)
        if status.state not in ("running", "paused"):
            return status
        if status.state == "paused":
            self.resume(instance)
        self._containers.send(instance, signal.SIGKILL)
        return until_exited(self, instance, _ENDED_WITHIN_S)

    def remove(self, instance: str) -> None:
        record = self._records.of(instance)
        with contextlib.suppress(NotFound), record.turn():
            self._take_away(record)
        self._mended_at.pop(instance, None)

    def _take_away(self, record: Record) -> None:
        group = Cgroup(record.instance, layout=self._layout)
        if group.frozen:
            group.freeze(False)
        self._containers.remove(record.instance)
        self._end_relay(record)
        # The engine's own clean-up runs in the group; killed half-way, it would leave the storage in disorder.
        deadline = time.monotonic() + _ENDED_WITHIN_S
        while any(_is_engine(pid) for pid in group.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        group.remove()
        MemoryFiles(record.instance).remove()
        record.remove()

    def _end_relay(self, record: Record) -> None:
        deadline = time.monotonic() + _ENDED_WITHIN_S
        while record.alive:
            if relay := read_json(record.directory / "relay.json"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(relay["watcher"]), signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SandboxFailed(f"the relay of {record.instance} did not end within {_ENDED_WITHIN_S:g} s")
            time.sleep(0.01)

    def pause(self, instance: str) -> Status:
        self._freeze(instance, frozen=True)
        return self.status(instance)

    def resume(self, instance: str) -> Status:
        self._freeze(instance, frozen=False)
        return self.status(instance)

    def _freeze(self, instance: str, *, frozen: bool) -> None:
        status = self.status(instance)
        if status.state not in ("running", "paused"):
            raise InvalidRequest(f"the instance {instance} is {status.state}: what runs can be paused and resumed")
        Cgroup(instance, layout=self._layout).freeze(frozen)

    def exec(
        self, instance: str, command: tuple[str, ...], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> Executed:
        must_run(self.status(instance))
        record = self._records.of(instance)
        try:
            with translated(f"{command[0]} in {instance}"):
                return run_inside(
                    self._client(),
                    container_name(instance),
                    command,
                    user=record.asked["user"],
                    env=env or {},
                    timeout_s=timeout_s,
                    kill_inside=functools.partial(gvisor.kill_inside, self._program) if self.name == "gvisor" else None,
                )
        except SandboxFailed:
            must_run(self.status(instance))  # where it ended in between, that is the reason
            raise

    def put_secrets(self, instance: str, secrets: Mapping[str, SecretBytes]) -> None:
        owner = self._records.of(instance).asked["user"]
        values = {name: value.get_secret_value() for name, value in secrets.items()}
        MemoryFiles(instance).replace(values, owner=owner)

    def close(self) -> None:
        self._service.close()
        self._starts_gpus.close()


def _is_engine(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "podman"
    return False


def _processes_of_a_user() -> int:
    """What a user may have on the whole host, all containers together: far above the bound of one of them.

    podman lowers its own limit at its start, and cannot give containers more than it has itself.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return _PROCESSES_MAX if hard == resource.RLIM_INFINITY else min(hard // 4, _PROCESSES_MAX)
