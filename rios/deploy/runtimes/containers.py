"""A launch as a request of Docker's API, and what the engine's answers mean."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rios.deploy.runtimes import arguments, gpus
from rios.deploy.runtimes.engine_logs import read_lines, seconds
from rios.deploy.runtimes.gpus import Gpu
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import Launch, State

_RUN_BYTES = 1 << 20
_CPU_PERIOD_US = 100_000
_KILLED = 137
_COMMAND_NOT_FOUND = 127
_NEARLY_BYTES = 1 << 20


def container_request(
    launch: Launch,
    *,
    image: str,
    runtime: str,
    network: str,
    parent: str,
    pids: int,
    memory_bytes: int,
    etc: Path,
    memory: MemoryFiles,
    profile: Path | None,
    nproc: int,
    given: Sequence[Gpu] = (),
    devices: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The body of POST /containers/create. pids, memory_bytes: with what the runtime needs for itself.

    nproc: processes of the user on the whole host; the container's own bound is `pids`. given, devices: its GPUs, and
    how this engine is asked for them.
    """
    limits = launch.limits
    scratch = f"rw,nosuid,nodev,size={limits.tmp_bytes},mode=1777"
    tmpfs = dict.fromkeys(("/tmp", "/home", *launch.scratch), scratch)  # noqa: S108 -- inside
    tmpfs["/run"] = f"rw,nosuid,nodev,size={_RUN_BYTES},mode=1777"
    binds = [
        _bind(memory.secrets, "/run/secrets", read_only=True),
        _bind(memory.files, "/run/rios", read_only=True),
        *(_bind(etc / name, f"/etc/{name}", read_only=True) for name in ("hosts", "resolv.conf")),
        *(_bind(mount.source, mount.path, read_only=mount.read_only) for mount in launch.mounts),
    ]
    security = ["no-new-privileges"]
    if profile is not None:
        security.append(f"seccomp={profile}")
    env = {**arguments.environment(launch.env), **gpus.NO_GPU, **gpus.told_of(given)}
    request: dict[str, Any] = {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in sorted(env.items())],
        "User": f"{launch.user}:{launch.user}",
        "Labels": {**launch.labels, "rios.instance": launch.instance, "rios.runtime": runtime},
        "AttachStdin": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": {
            "NetworkMode": network,
            "CgroupParent": parent,
            "CgroupnsMode": "private",
            "IpcMode": "private",
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "CapAdd": [],
            "SecurityOpt": security,
            "Init": True,
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "CpuPeriod": _CPU_PERIOD_US,
            "CpuQuota": max(1000, int(limits.cpu * _CPU_PERIOD_US)),
            "PidsLimit": pids,
            "ShmSize": max(limits.tmp_bytes, 1 << 16),
            "Tmpfs": tmpfs,
            "Binds": binds,
            "Ulimits": [
                {"Name": "nofile", "Soft": limits.files, "Hard": limits.files},
                {"Name": "nproc", "Soft": nproc, "Hard": nproc},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "LogConfig": {"Type": "k8s-file", "Config": {"max-size": str(limits.log_bytes)}},
            "RestartPolicy": {"Name": "no"},
        },
    }
    if launch.command:
        request["Entrypoint"] = list(launch.command[:1])
        request["Cmd"] = list(launch.command[1:])
    if launch.workdir:
        request["WorkingDir"] = launch.workdir
    if devices:
        request["HostConfig"]["DeviceRequests"] = list(devices)
    return request


def _bind(source: Path, path: str, *, read_only: bool) -> str:
    return f"{source}:{path}:{'ro' if read_only else 'rw'},nosuid,nodev"


def state_of(details: dict[str, Any]) -> State:
    """The state that the engine's description of a container says."""
    said = str(details["State"]["Status"])
    if said in ("created", "configured", "initialized"):
        return "created"
    return "exited" if said in ("exited", "stopped", "dead", "removing") else "running"


def ending_of(details: dict[str, Any] | None, *, memory_peak_bytes: int, memory_bytes: int) -> dict[str, Any]:
    """How a container ended: its code, when, and whether for want of memory. details: None where the engine lost it.

    What the kernel killed in the container's own group is forgotten with that group; that it had used all its memory is
    seen from outside.
    """
    if details is None:
        return {"code": None, "at": None, "out_of_memory": False}
    code = int(details["State"]["ExitCode"])
    if code == 1 and _found_nothing(details):
        code = _COMMAND_NOT_FOUND
    return {
        "code": code,
        "at": seconds(details["State"]["FinishedAt"]) or time.time(),
        "out_of_memory": code == _KILLED and memory_peak_bytes >= memory_bytes - _NEARLY_BYTES,
    }


def _found_nothing(details: dict[str, Any]) -> bool:
    """Whether the container's first process, which passes signals on, found no command to run."""
    lines = read_lines(Path(details.get("LogPath") or "/nonexistent"), 0.0, ended=True)
    return any(line.stream == "stderr" and "failed to exec pid1" in line.text for line in itertools.islice(lines, 3))
