"""Sandboxes of namespaces, a system call filter and a control group, without any engine: bubblewrap.

As root, the sandbox runs as a user of its own on the host (`uid`), never as root; what is inside sees `Launch.user`.
Without root it runs as the host's user, and limits are those of single processes: `capabilities` says so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretBytes

from rios.deploy.runtimes import arguments, ungrouped
from rios.deploy.runtimes.beside import get_ready, start_beside
from rios.deploy.runtimes.bubblewrap_host import BubblewrapHost
from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.durable import read_json
from rios.deploy.runtimes.executing import execute
from rios.deploy.runtimes.fetched import Fetched, Mark
from rios.deploy.runtimes.gpus import Gpus, told_of
from rios.deploy.runtimes.logs import follow_lines, read_lines
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import (
    Base,
    Capabilities,
    Executed,
    ImageBase,
    Launch,
    LogLine,
    Metrics,
    RootfsBase,
    Status,
)
from rios.deploy.runtimes.records import Record, Records
from rios.deploy.runtimes.relay import Counters
from rios.deploy.runtimes.rootfs import RootStore, is_image
from rios.deploy.runtimes.watching import Policy, until_exited
from rios.deploy.spec import USER, RuntimeName
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound, SandboxFailed, UnsupportedRuntime

_PIDS_OF_BUBBLEWRAP = 3
_ENDED_WITHIN_S = 15.0


class BubblewrapRuntime:
    """The runtime of hosts without a container engine. It meets `protocol.Runtime` and `fetched.Fetches`."""

    name: RuntimeName = "bubblewrap"

    def __init__(
        self, directory: Path, *, policy: Policy | None = None, uid: int = USER, gpus: Gpus | None = None
    ) -> None:
        """directory: where instances and unpacked root file systems are; other users must be able to pass through.

        uid: whom sandboxes run as on the host, where this process is root. gpus: what this machine has, without.
        InvalidRequest for an unfit directory.
        """
        self._directory = directory.resolve()
        self._policy = policy or Policy()
        self._gpus = gpus or Gpus()
        self._host = host = BubblewrapHost(self._directory, uid, self._gpus)
        self._root, self._uid = host.root, host.uid
        self._records = Records(self._directory / "bubblewrap")
        self._roots = RootStore(self._directory / "rootfs")
        self._fetched = Fetched(self._directory)
        if self._root:
            arguments.check_passable(self._directory)

    def capabilities(self) -> Capabilities:
        get_ready()
        return self._host.capabilities()

    def no_gpus(self) -> str:
        return self._host.no_gpus()

    # What runs.

    def prepare_image(
        self,
        reference: str,
        *,
        pinned: ImageBase | None = None,
        here: bool = True,
        timeout_s: float = 600.0,
        no_room: Callable[[], str] = str,
    ) -> ImageBase:
        raise UnsupportedRuntime(
            f"bubblewrap runs no images, and {reference!r} is one: give a root file system (rootfs), or ask for runc"
        )

    def prepare_archive(self, archive: Path, *, timeout_s: float = 600.0) -> Base:
        if is_image(archive):
            raise UnsupportedRuntime(f"{archive} is an image, and bubblewrap runs root file systems alone: export one")
        return RootfsBase(self._roots.add(archive, comes=lambda digest: self._fetched.mark(RootfsBase(digest))))

    def prepared_archive(self, digest: str) -> Base | None:
        return RootfsBase(digest) if self._roots.has(digest) else None

    def drop(self, mark: Mark) -> bool:
        if not isinstance(mark.base, RootfsBase):
            return False
        self._roots.remove(mark.base.digest)
        return True

    def sweep(self, *, at_once: bool) -> None:
        self._roots.sweep()

    def start(self, launch: Launch, *, timeout_s: float = 60.0) -> Status:
        if why_not := self._host.why_not:
            raise UnsupportedRuntime(why_not)
        if isinstance(launch.base, ImageBase):
            raise UnsupportedRuntime("bubblewrap runs no images: give a root file system (rootfs), or ask for runc")
        if not launch.command:
            raise InvalidRequest(f"the instance {launch.instance} has no command, and no image that says one")
        if launch.gpus and (why_not := self.no_gpus()):
            raise UnsupportedRuntime(f"bubblewrap {why_not}")
        record = self._records.of(launch.instance)
        with record.turn(make=True):
            record.make(launch)
            self._await_watcher(record)
            if not (record.directory / "started.json").exists():
                try:
                    self._start(record, launch, timeout_s)
                except BaseException:
                    self._take_away(record)
                    raise
        return self.status(launch.instance)

    def _await_watcher(self, record: Record) -> None:
        """Where an earlier starter was cut off, its watcher may just be starting the sandbox: let it, or see it end."""
        deadline = time.monotonic() + _ENDED_WITHIN_S
        while record.alive and not (record.directory / "started.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _start(self, record: Record, launch: Launch, timeout_s: float) -> None:
        memory = MemoryFiles(launch.instance)
        memory.make({k: v.get_secret_value() for k, v in launch.secrets.items()}, launch.files, owner=self._uid)
        root = None
        if isinstance(launch.base, RootfsBase):
            root = self._roots.path(launch.base.digest)
            self._roots.make_places(launch.base.digest, arguments.places(launch))
        if self._root:
            for mount in launch.mounts:
                if not mount.read_only:
                    os.chown(mount.source, self._uid, self._uid)
        arguments.write_etc(record.directory, launch)
        given = self._gpus.take(record.directory, launch.gpus)
        group = Cgroup(launch.instance, layout=self._host.layout)
        if self._host.layout:
            limits = launch.limits
            group.make(cpu=limits.cpu, memory_bytes=limits.memory_bytes, pids=limits.pids + _PIDS_OF_BUBBLEWRAP)
        task = {
            "bubblewrap": self._host.program,
            "arguments": arguments.bubblewrap(
                launch,
                record.directory,
                memory,
                root,
                devices=self._gpus.nodes(given),
                told=told_of(given),
            ),
            "command": list(launch.command),
            "uid": self._uid if self._root else None,
            "entrances": group.entrances(),
            "rlimits": arguments.rlimits(launch.limits, memory=not self._host.layout),
            "log_bytes": launch.limits.log_bytes,
            "relay": self._policy.relay(launch.port, launch.egress),
        }
        if self._host.filter is None:
            start_beside("rios.deploy.runtimes.shim", record, {**task, "seccomp": None}, timeout_s=timeout_s)
            return
        with self._host.filter.open("rb") as file:
            task["seccomp"] = file.fileno()
            start_beside("rios.deploy.runtimes.shim", record, task, timeout_s=timeout_s, give=[file.fileno()])

    def adopt(self) -> list[Status]:
        """Watchers relay themselves, so there is nothing to mend."""
        return self.instances()

    # What is true.

    def instances(self, labels: Mapping[str, str] | None = None) -> list[Status]:
        return self._records.each(labels, self._status)

    def status(self, instance: str) -> Status:
        return self._status(self._records.there(instance))

    def _status(self, record: Record) -> Status:
        alive = record.alive  # asked first: a watcher writes how it ended, and then it ends
        asked = (record.read() or {"asked": {"labels": {}}})["asked"]
        started = read_json(record.directory / "started.json")
        ended = read_json(record.directory / "exit.json")
        group = Cgroup(record.instance, layout=self._host.layout)
        if started is None:
            return Status(instance=record.instance, state="created", labels=asked["labels"])
        running = alive and ended is None
        return Status(
            instance=record.instance,
            state="exited" if not running else "paused" if self._is_paused(group, started) else "running",
            labels=asked["labels"],
            exit_code=None if ended is None else int(ended["code"]),
            out_of_memory=group.ran_out,
            started_at=started["at"],
            finished_at=None if ended is None else ended["at"],
            endpoint=("127.0.0.1", started["port"]) if running and started["port"] else None,
        )

    def wait(self, instance: str, *, timeout_s: float) -> Status:
        return until_exited(self, instance, timeout_s)

    def metrics(self, instance: str) -> Metrics:
        record = self._records.of(instance)
        asked = record.asked
        sent, received = Counters.read(record.directory / "bytes")
        group = Cgroup(asked["instance"], layout=self._host.layout)
        counted = group.counted_if_there()
        if counted is not None:
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
        return ungrouped.metrics(self._processes(record), sent, received)

    def logs(self, instance: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        record = self._records.of(instance)
        record.asked  # noqa: B018 -- raises NotFound now, and not at the first line
        if not follow:
            return read_lines(record.directory / "log", since)
        return follow_lines(record.directory / "log", since, lambda: not record.alive)

    # What is done to it.

    def _first(self, record: Record) -> int | None:
        """The id of the sandbox's first process, while its watcher lives."""
        started = read_json(record.directory / "started.json")
        return int(started["first"]) if started and record.alive else None

    def _processes(self, record: Record) -> list[psutil.Process]:
        first = self._first(record)
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(first).children(recursive=True) if first else []
        return []

    def stop(self, instance: str, *, grace_s: float = 10.0) -> Status:
        record = self._records.of(instance)
        if self.status(instance).state == "paused":
            self.resume(instance)
        if first := self._first(record):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(first).children():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGTERM)
            with contextlib.suppress(DeadlineExceeded):
                return until_exited(self, instance, grace_s)
        return self.kill(instance)

    def kill(self, instance: str) -> Status:
        record = self._records.of(instance)
        self.status(instance)
        self._end(record)
        return self.status(instance)

    def _end(self, record: Record) -> None:
        group = Cgroup(record.instance, layout=self._host.layout)
        deadline = time.monotonic() + _ENDED_WITHIN_S
        while True:  # again and again, for its watcher may just be starting it
            if self._host.layout:
                group.kill()
            if first := self._first(record):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)
            if not record.alive:
                return
            if time.monotonic() > deadline:
                raise SandboxFailed(f"the watcher of {record.instance} did not end within {_ENDED_WITHIN_S:g} s")
            time.sleep(0.005)

    def remove(self, instance: str) -> None:
        record = self._records.of(instance)
        with contextlib.suppress(NotFound), record.turn():
            self._take_away(record)

    def _take_away(self, record: Record) -> None:
        self._end(record)
        Cgroup(record.instance, layout=self._host.layout).remove()
        MemoryFiles(record.instance).remove()
        record.remove()

    def _is_paused(self, group: Cgroup, started: dict[str, Any]) -> bool:
        if self._host.layout:
            return group.frozen
        return ungrouped.frozen(int(started["first"]))

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
        if self._host.layout:
            Cgroup(instance, layout=self._host.layout).freeze(frozen)
            return
        wanted = "paused" if frozen else "running"
        ungrouped.freeze(
            lambda: self._processes(self._records.of(instance)),
            frozen,
            done=lambda: self.status(instance).state in (wanted, "exited"),
            name=f"the instance {instance}",
        )

    def exec(
        self, instance: str, command: tuple[str, ...], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> Executed:
        record = self._records.of(instance)
        asked = record.asked
        first = self._first(record)
        if first is None:
            raise InvalidRequest(f"the instance {instance} does not run: no command can be run in it")
        limits, told = arguments.limits_of(asked), told_of(self._gpus.of(record.directory))
        return execute(
            {
                "first": first,
                "user": asked["user"],
                "workdir": asked["workdir"] or "/",
                "command": list(command),
                "env": {**arguments.environment(asked["env"]), **told, **(env or {})},
                "seccomp": str(self._host.filter) if self._host.filter else None,
                "entrances": Cgroup(instance, layout=self._host.layout).entrances(),
                "rlimits": arguments.rlimits(limits, memory=not self._host.layout),
            },
            name=f"{command[0]} in {instance}",
            timeout_s=timeout_s,
        )

    def put_secrets(self, instance: str, secrets: Mapping[str, SecretBytes]) -> None:
        self._records.of(instance).asked  # noqa: B018 -- raises NotFound
        values = {name: value.get_secret_value() for name, value in secrets.items()}
        MemoryFiles(instance).replace(values, owner=self._uid)

    def close(self) -> None:
        """There is nothing to let go of."""
