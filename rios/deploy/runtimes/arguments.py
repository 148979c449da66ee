"""What a sandbox is made of: files of its /etc, limits, environment, and bubblewrap's arguments."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rios.deploy import confined
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import HostBase, Launch, Limits
from rios.deploy.runtimes.relay import hosts_file
from rios.words.errors import InvalidRequest

HOST_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Beside /usr; links into it on most hosts."""
HOST_ETC = (
    "alternatives",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
)
"""Of the host's /etc, what programs of the host need and what says nothing of the host."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUN_BYTES = 1 << 20


def check_passable(directory: Path) -> None:
    """Raises InvalidRequest where other users cannot pass through a directory: sandboxes run as another user."""
    for place in (directory, *directory.parents):
        if not place.stat().st_mode & stat.S_IXOTH:
            raise InvalidRequest(
                f"{directory} cannot hold sandboxes, for other users may not pass through {place}: "
                f"choose another directory, or `chmod o+x {place}`"
            )


def host_links() -> list[str]:
    """The host's /bin, /lib and so on: a link where it is one there, and else a read-only view."""
    arguments = []
    for name in HOST_DIRECTORIES:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    return arguments


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """All that a sandbox's processes find in their environment; nothing of the host's."""
    return {"PATH": PATH, "HOME": "/home", "TMPDIR": "/tmp", "LANG": "C.UTF-8", **given}  # noqa: S108 -- inside


def rlimits(limits: Limits, *, memory: bool) -> dict[str, int]:
    """Limits of each process. memory: whether they must stand in for a control group."""
    found = {"RLIMIT_NOFILE": limits.files, "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 1 << 16, "RLIMIT_MSGQUEUE": 1 << 16}
    return {**found, "RLIMIT_AS": limits.memory_bytes} if memory else found


def limits_of(asked: Mapping[str, Any]) -> Limits:
    """The limits that a record wrote down."""
    kept = dict(asked["limits"])
    cpu = float(kept.pop("cpu"))
    return Limits(cpu=cpu, **{key: int(value) for key, value in kept.items()})


def places(launch: Launch) -> list[str]:
    """Where something is mounted that a root file system may have no directory for."""
    return [mount.path for mount in launch.mounts] + list(launch.scratch)


def write_etc(directory: Path, launch: Launch) -> None:
    """The files of /etc that are the sandbox's own: who it is, and whom it may call by name. No name server."""
    etc = directory / "etc"
    etc.mkdir(mode=0o755, exist_ok=True)
    user = f"app:x:{launch.user}:{launch.user}::/home:/bin/sh\n"
    contents = {
        "hosts": hosts_file([(allowed.host, allowed.port) for allowed in launch.egress], launch.instance),
        "resolv.conf": "",
        "hostname": f"{launch.instance}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
        "passwd": f"root:x:0:0::/nonexistent:/usr/sbin/nologin\n{user}",
        "group": f"root:x:0:\napp:x:{launch.user}:\n",
    }
    for name, text in contents.items():
        path = etc / name
        path.write_text(text)
        path.chmod(0o644)
    etc.chmod(0o755)


def bubblewrap(
    launch: Launch,
    directory: Path,
    memory: MemoryFiles,
    root: Path | None,
    *,
    devices: Mapping[str, Path] = MappingProxyType({}),
    told: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Arguments of bubblewrap but its descriptors and the command.

    root: the unpacked root file system, if any. devices: path inside -> node of the host. told: what the environment
    says over all that the launch does.
    """
    arguments = [
        *confined.apart(),
        *("--uid", str(launch.user), "--gid", str(launch.user), "--hostname", launch.instance, "--clearenv"),
    ]
    for name, value in sorted({**environment(launch.env), **told}.items()):
        arguments += ["--setenv", name, value]
    arguments += _root(root, directory) if root is not None else _host(launch, directory)
    arguments += confined.kernel_files(lambda name: Path("/proc", name).exists())
    for path, node in devices.items():
        arguments += ["--dev-bind", str(node), path]
    limit = str(launch.limits.tmp_bytes)
    for place in ("/tmp", "/home", "/dev/shm", *launch.scratch):  # noqa: S108 -- inside
        arguments += ["--perms", "1777", "--size", limit, "--tmpfs", place]
    arguments += ["--perms", "1777", "--size", str(_RUN_BYTES), "--tmpfs", "/run"]
    arguments += ["--ro-bind", str(memory.secrets), "/run/secrets", "--ro-bind", str(memory.files), "/run/rios"]
    for mount in launch.mounts:
        arguments += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.path]
    if root is None:
        arguments += ["--remount-ro", "/"]
    arguments += ["--remount-ro", "/dev", "--chdir", launch.workdir or "/"]
    return arguments


def _host(launch: Launch, directory: Path) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr", *host_links(), "--perms", "0755", "--dir", "/etc"]
    for name in HOST_ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("hosts", "resolv.conf", "hostname", "nsswitch.conf", "passwd", "group"):
        arguments += ["--ro-bind", str(directory / "etc" / name), f"/etc/{name}"]
    if isinstance(launch.base, HostBase):
        for inside, outside in sorted(launch.base.also.items()):
            arguments += ["--ro-bind", outside, inside]
    return arguments


def _root(root: Path, directory: Path) -> list[str]:
    arguments = ["--ro-bind", str(root), "/"]
    for name in ("hosts", "resolv.conf"):
        arguments += ["--ro-bind", str(directory / "etc" / name), f"/etc/{name}"]
    return arguments
