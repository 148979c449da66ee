"""A control group per instance: limits, freezing, killing, and what the kernel counted.

Both layouts are served: one tree with all controllers (version 2), and a tree per controller (version 1). Each instance
has a group of its own under `rios`; an engine makes its own group inside it, so what is counted outlives the engine's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rios.words.errors import DeadlineExceeded, SandboxFailed

MOUNT = Path("/sys/fs/cgroup")
PARENT = "rios"
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer")
"""Of version 1. In version 2, cpuacct is part of cpu, and freezing needs no controller."""
PERIOD_US = 100_000
_GONE_WITHIN_S = 10.0


def version(mount: Path = MOUNT) -> int:
    """2 or 1, or 0 where no group can be made here: not root, not mounted, or controllers missing."""
    try:
        if (mount / "cgroup.controllers").exists():
            there = set((mount / "cgroup.controllers").read_text().split())
            usable = {"cpu", "memory", "pids"} <= there and os.access(mount / "cgroup.subtree_control", os.W_OK)
            return 2 if usable else 0
        return 1 if all(os.access(mount / name, os.W_OK) for name in CONTROLLERS) else 0
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Counted:
    """What the kernel counted for a group."""

    cpu_seconds: float
    memory_bytes: int
    memory_peak_bytes: int
    pids: int
    out_of_memory: int
    """How many processes the kernel killed for want of memory."""


class Cgroup:
    """The group of one instance. `make` before the first process, `remove` after the last."""

    def __init__(self, instance: str, *, mount: Path = MOUNT, layout: int | None = None) -> None:
        self.layout = version(mount) if layout is None else layout
        self._mount = mount
        self.name = f"/{PARENT}/{instance}"
        """As an engine's cgroup parent, and as /proc/PID/cgroup shows it."""

    def _directories(self) -> list[Path]:
        if self.layout == 2:
            return [self._mount / self.name[1:]]
        return [self._mount / controller / self.name[1:] for controller in CONTROLLERS]

    def _at(self, controller: str) -> Path:
        return self._mount / self.name[1:] if self.layout == 2 else self._mount / controller / self.name[1:]

    def make(self, *, cpu: float, memory_bytes: int, pids: int) -> None:
        """With limits: cores, bytes (swap included), processes and threads. Making it again sets them anew."""
        try:
            for directory in self._directories():
                directory.mkdir(parents=True, exist_ok=True)
            if self.layout == 2:
                self._delegate()
                self._write("cpu", "cpu.max", f"{max(1000, int(cpu * PERIOD_US))} {PERIOD_US}")
                self._write("memory", "memory.max", str(memory_bytes))
                self._try("memory", "memory.swap.max", "0")
                self._write("memory", "memory.oom.group", "1")
            else:
                self._write("cpu", "cpu.cfs_period_us", str(PERIOD_US))
                self._write("cpu", "cpu.cfs_quota_us", str(max(1000, int(cpu * PERIOD_US))))
                self._try("memory", "memory.use_hierarchy", "1")
                # Memory with swap may not be below memory alone: lower one first, or raise the other.
                for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):
                    self._try("memory", name, str(memory_bytes))
                if self._number("memory", "memory.limit_in_bytes") > memory_bytes:
                    raise OSError(f"the kernel did not take {memory_bytes} bytes as limit of memory")
            self._write("pids", "pids.max", str(pids))
        except OSError as error:
            raise SandboxFailed(
                f"no control group {self.name} with cpu={cpu}, memory_bytes={memory_bytes}, pids={pids}: {error}"
            ) from error

    def _delegate(self) -> None:
        """Version 2: a controller works in a group where its parents pass it on."""
        for directory in (self._mount, self._mount / PARENT):
            (directory / "cgroup.subtree_control").write_text("+cpu +memory +pids")

    def _write(self, controller: str, name: str, value: str) -> None:
        (self._at(controller) / name).write_text(value)

    def _try(self, controller: str, name: str, value: str) -> None:
        """Write what some kernels do not have."""
        with contextlib.suppress(OSError):
            self._write(controller, name, value)

    def _number(self, controller: str, name: str) -> int:
        text = (self._at(controller) / name).read_text().strip()
        return int(text) if text.isdecimal() else 0

    def _pairs(self, controller: str, name: str) -> dict[str, int]:
        lines = (self._at(controller) / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    @property
    def exists(self) -> bool:
        """Whether it is there, in each hierarchy that it needs."""
        return self.layout != 0 and all(directory.is_dir() for directory in self._directories())

    def entrances(self) -> list[str]:
        """Files into which a process writes "0" to join."""
        return [str(directory / "cgroup.procs") for directory in self._directories()] if self.layout else []

    def counted(self) -> Counted:
        """What the kernel has counted so far; also after the last process has ended. SandboxFailed without a group."""
        try:
            return self._counted2() if self.layout == 2 else self._counted1()
        except OSError as error:
            raise SandboxFailed(f"the control group {self.name} cannot be read: {error}") from error

    def counted_if_there(self) -> Counted | None:
        """The same; None without a group, also where it goes meanwhile."""
        try:
            return self.counted() if self.exists else None
        except SandboxFailed:
            if self.exists:
                raise
            return None

    @property
    def ran_out(self) -> bool:
        """Whether the kernel ended a process of it for memory; not so where the group is gone."""
        try:
            return self._pairs("memory", self._memory_events).get("oom_kill", 0) > 0
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):  # the second while it goes
                return False
            raise SandboxFailed(f"the control group {self.name} cannot be read: {error}") from error

    @property
    def _memory_events(self) -> str:
        return "memory.events" if self.layout == 2 else "memory.oom_control"

    def _counted2(self) -> Counted:
        peak = self._at("memory") / "memory.peak"  # Linux 5.19
        current = self._number("memory", "memory.current")
        return Counted(
            cpu_seconds=self._pairs("cpu", "cpu.stat")["usage_usec"] / 1e6,
            memory_bytes=current,
            memory_peak_bytes=self._number("memory", "memory.peak") if peak.exists() else current,
            pids=self._number("pids", "pids.current"),
            out_of_memory=self._pairs("memory", self._memory_events).get("oom_kill", 0),
        )

    def _counted1(self) -> Counted:
        return Counted(
            cpu_seconds=self._number("cpuacct", "cpuacct.usage") / 1e9,
            memory_bytes=self._number("memory", "memory.usage_in_bytes"),
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes"),
            pids=self._number("pids", "pids.current"),
            out_of_memory=self._pairs("memory", self._memory_events).get("oom_kill", 0),
        )

    def freeze(self, frozen: bool, *, timeout_s: float = 10.0) -> None:
        """Stop all processes where they are, or let them go on; returns when the kernel has done it."""
        name, on, off = ("cgroup.freeze", "1", "0") if self.layout == 2 else ("freezer.state", "FROZEN", "THAWED")
        try:
            self._write("freezer", name, on if frozen else off)
            deadline = time.monotonic() + timeout_s
            while self.frozen is not frozen:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"{self.name} was not {'frozen' if frozen else 'thawed'} in {timeout_s} s")
                time.sleep(0.005)
        except OSError as error:
            raise SandboxFailed(f"the control group {self.name} cannot be frozen or thawed: {error}") from error

    @property
    def frozen(self) -> bool:
        """Whether its processes stand still."""
        try:
            if self.layout == 2:
                return self._pairs("freezer", "cgroup.events").get("frozen") == 1
            return self.layout == 1 and (self._at("freezer") / "freezer.state").read_text().strip() == "FROZEN"
        except OSError:
            return False

    def _groups(self, controller: str) -> Iterator[Path]:
        """The group and those an engine made inside, the innermost first."""
        for directory, _, _ in os.walk(self._at(controller), topdown=False):
            yield Path(directory)

    def processes(self) -> list[int]:
        """Ids of all its processes."""
        found = []
        for group in self._groups("pids") if self.layout else ():
            with contextlib.suppress(OSError):
                found += [int(line) for line in (group / "cgroup.procs").read_text().split()]
        return found

    def kill(self) -> None:
        """SIGKILL to each process, until there is none. DeadlineExceeded where the kernel does not end them."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        while processes := self.processes():
            if self.layout == 2:
                self._try("freezer", "cgroup.kill", "1")  # Linux 5.14
            # Frozen, nothing forks faster than it is killed; what is frozen under version 1 dies when it is thawed.
            self._try(
                "freezer",
                "freezer.state" if self.layout == 1 else "cgroup.freeze",
                "FROZEN" if self.layout == 1 else "1",
            )
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.freeze(False)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"processes of {self.name} did not end in {_GONE_WITHIN_S} s: {processes[:8]}")
            time.sleep(0.002)

    def remove(self) -> None:
        """Kill what is left and take the group away."""
        if not self.layout:
            return
        self.kill()
        deadline = time.monotonic() + _GONE_WITHIN_S
        # Engines make groups under other controllers too; those of this name are all ours.
        roots = [self._mount] if self.layout == 2 else [path for path in self._mount.iterdir() if path.is_dir()]
        for root in roots:
            for directory, _, _ in os.walk(root / self.name[1:], topdown=False):
                self._remove_directory(Path(directory), deadline)

    def _remove_directory(self, group: Path, deadline: float) -> None:
        while True:
            try:
                group.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError as error:  # the kernel lets go of the last process a moment after it is gone
                if time.monotonic() > deadline:
                    raise SandboxFailed(f"the control group {group} cannot be removed: {error}") from error
                time.sleep(0.01)


def list_instances(mount: Path = MOUNT) -> list[str]:
    """Ids of all instances that have a group here."""
    layout = version(mount)
    at = mount / PARENT if layout == 2 else mount / "pids" / PARENT
    return sorted(path.name for path in at.iterdir() if path.is_dir()) if layout and at.is_dir() else []
