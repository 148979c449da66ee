"""Where the programs of one user meet a template that outlives the program that started it.

A socket in a folder that is this user's alone. Its name tells editions apart: another interpreter, other libraries,
another state of rios' own files, or other variables that libraries read when they are imported, make another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import struct
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_LOCK_S = 10.0
_BACKLOG = 64
_READ_AT_IMPORT = ("CUDA", "DASK", "HF_", "LD_", "NVIDIA", "OMP_", "PYTHON", "PYTORCH", "TORCH", "TRANSFORMERS", "XDG")
_SET_LATER = {"OMP_NUM_THREADS"}  # by whoever serves


def join(environment: Mapping[str, str], start: Callable[[socket.socket], object], libraries: str) -> socket.socket:
    """A connection to this user's template that has imported `libraries`.

    start: is given a listening socket where there is none, and starts one that has it. Raises OSError where none can be
    met: the folder is another's, or whoever starts one does not come to an end.
    """
    folder = own_folder()
    path = folder / f"{edition(environment)}-{libraries}.sock"
    with _locked(folder / "lock"):
        with contextlib.suppress(OSError):
            return _connected(path)
        for other in folder.glob("*.sock"):
            _forget_dead(other)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(_BACKLOG)
            start(listener)
        return _connected(path)


def accepted(listener: socket.socket) -> socket.socket | None:
    """Who wants to be served, if it is this user."""
    channel, _ = listener.accept()
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[1] == os.geteuid():
        return channel
    channel.close()
    return None


def edition(environment: Mapping[str, str]) -> str:
    """What a process that has imported rios and its libraries is good for, as 16 hexadecimal digits."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for place in (sys.executable, str(root), *(sysconfig.get_path(name) for name in ("purelib", "platlib"))):
        digest.update(f"{place} {Path(place).stat().st_mtime_ns}\n".encode())
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                found = (Path(folder) / name).stat()
                digest.update(f"{folder}/{name} {found.st_mtime_ns} {found.st_size}\n".encode())
    for name, value in sorted(environment.items()):
        if name.startswith(_READ_AT_IMPORT) and name not in _SET_LATER:
            digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()[:16]


def own_folder() -> Path:
    """A folder of this user on this machine, made if need be. Raises PermissionError where it is not theirs alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "rios" if runtime else Path(tempfile.gettempdir()) / f"rios-warm-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def _connected(path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.connect(str(path))
    except OSError:
        channel.close()
        raise
    return channel


def _forget_dead(path: Path) -> None:
    """Take the name of a template away that has ended."""
    try:
        _connected(path).close()
    except OSError:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_S
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield
