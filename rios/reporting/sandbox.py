"""Notebooks and browsers of reports run apart: no network, no secrets, nothing to write to but a folder of their own.

Where bubblewrap can make namespaces, they see the system's programs, this Python and that folder, and nothing else.
Where it cannot, they run as processes with an empty environment, and the history of reports says so.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rios.deploy import confined

PACKAGE = Path(__file__).resolve().parents[1]
BWRAP, PROCESS = "bubblewrap", "process"
_TRY_S = 20
_SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/sbin",
    "/opt",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/chromium.d",
    "/etc/chromium",
)


@functools.cache
def kind() -> str:
    """How commands are kept apart on this machine: "bubblewrap" or "process"."""
    return PROCESS if _namespaces() is None else BWRAP


@functools.cache
def _namespaces() -> list[str] | None:
    """What bubblewrap is told of namespaces here; None where it keeps nothing apart."""
    if shutil.which("bwrap") is None:
        return None
    wanted = confined.apart()
    # Where the kernel makes no user namespaces, root needs none for the others.
    choices = [wanted, [one for one in wanted if one != "--unshare-user"]] if os.geteuid() == 0 else [wanted]
    return next((one for one in choices if _works(one)), None)


def _works(namespaces: Sequence[str]) -> bool:
    command = [*_bwrap(namespaces, Path("/tmp")), "--", "true"]  # noqa: S108  nothing is written there
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRY_S, check=False)
    return done.returncode == 0


def apart(command: list[str], folder: Path) -> list[str]:
    """`command`, kept apart, with `folder` as all that it may write to. It ends when its parent does."""
    namespaces = _namespaces()
    return command if namespaces is None else [*_bwrap(namespaces, folder), "--", *command]


def environment(folder: Path) -> dict[str, str]:
    """All that such a command finds in its environment."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def _bwrap(namespaces: Sequence[str], folder: Path) -> list[str]:
    # Of this environment, its packages; of the checkout that rios may be run from, rios alone.
    prefixes = {Path(one).resolve() for one in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    places = [*map(Path, _SYSTEM), *sorted(prefixes)]
    binds = [part for place in places if place.exists() for part in ("--ro-bind", str(place), str(place))]
    given = str(folder.resolve())
    # Where this process is root, so is what runs apart: without a capability, and yet the owner of what the kernel lets
    # its owner write, such as which program takes dumps of crashed processes.
    return [
        "bwrap", *namespaces, *confined.kernel_files(lambda name: Path("/proc", name).exists()),
        "--remount-ro", "/proc", "--tmpfs", "/tmp",  # noqa: S108
        *binds, "--ro-bind", str(PACKAGE), str(PACKAGE), "--bind", given, given,
        "--remount-ro", "/", "--chdir", given,
    ]  # fmt: skip


def die_with(parent: int) -> None:
    """For a child that is not kept apart: end when the process `parent`, which started it, does (Linux)."""
    import ctypes
    import signal

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was gone before that call
        os._exit(1)
