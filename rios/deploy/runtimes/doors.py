"""Sockets in a directory of this machine, by which relays lead sandboxes to one service outside, and to no port.

Whoever answers puts a socket there, under a name of its own, before anybody finds it; several may, and the newest one
that takes a connection has it. What those who died left is taken away by the next. No address of the machine's network
is opened for it: nobody else can come to listen at a file in a closed directory, as one might at a port.

Standard library alone, as `relay`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_ENDS, _BACKLOG = ".sock", 128


def bind(directory: Path) -> tuple[socket.socket, Path]:
    """A listening socket that `connect` finds from now on, and the file that is to be removed at its end."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    name = f"{os.getpid()}-{os.urandom(4).hex()}"
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _places(directory) as place:
            _sweep(directory, place)
            found.bind(f"{place}/{name}")
            found.listen(_BACKLOG)
            Path(place, name).rename(Path(place, f"{name}{_ENDS}"))
    except BaseException:
        found.close()
        raise
    return found, directory / f"{name}{_ENDS}"


def connect(directory: Path, timeout_s: float) -> socket.socket:
    """A connection to who answers. Raises OSError where nobody does."""
    with _places(directory) as place:
        for name in _newest_first(directory):
            with contextlib.suppress(OSError):
                return _connected(f"{place}/{name}", timeout_s)
    raise OSError(f"nobody answers at {directory}")


@contextlib.contextmanager
def _places(directory: Path) -> Iterator[str]:
    """The directory by a short name: addresses of sockets have at most 107 characters."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _newest_first(directory: Path) -> list[str]:
    found = []
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):  # its process ends just now
            if entry.name.endswith(_ENDS):
                found.append((entry.stat().st_mtime_ns, entry.name))
    return [name for _, name in sorted(found, reverse=True)]


def _connected(address: str, timeout_s: float) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.settimeout(timeout_s)
        found.connect(address)
    except BaseException:
        found.close()
        raise
    return found


def _sweep(directory: Path, place: str) -> None:
    for name in _newest_first(directory):
        try:
            _connected(f"{place}/{name}", 1.0).close()
        except ConnectionRefusedError:
            (directory / name).unlink(missing_ok=True)
        except OSError:  # it is busy, and lives
            continue
