"""Directories that a program of somebody else writes to, handled so that what lies in them leads nowhere else.

Whoever runs such a program apart sees more than it does: a link that is nothing to the program is a file of the host to
who follows it, a pipe never ends, a file can have any size, and directories can lie thousands deep in each other, which
neither Python's stack nor its open files suffice for.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rios.words.errors import InvalidRequest

_REMOVE_TIMEOUT_S = 300.0
_READ_BYTES = 1 << 20


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A descriptor for `read_plain`: what is read by it is read from this folder, whatever gets its name meanwhile."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def read_plain(folder: int, name: str, *, bytes_max: int) -> bytes:
    """The content of a file in the directory `folder` (its descriptor).

    Raises FileNotFoundError, and InvalidRequest for whatever is no plain file of that one name or has more than
    `bytes_max` bytes. It cannot be held up: nothing but a plain file is waited for.
    """
    # What it is is asked of what was opened, and not of the name, which may be another's a moment later. Opening a pipe
    # would wait for its writer; opening a device can do something.
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be opened as a plain file: {error.strerror}") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise InvalidRequest(f"{name} is no plain file of one name")
        content = bytearray()
        while len(content) <= bytes_max and (part := os.read(file, min(_READ_BYTES, bytes_max + 1 - len(content)))):
            content += part
    finally:
        os.close(file)
    if len(content) > bytes_max:
        raise InvalidRequest(f"{name} has more than {bytes_max} bytes")
    return bytes(content)


def remove_tree(path: Path) -> None:
    """Take a directory away with all that is in it, however deep; what is not there is removed already.

    Raises OSError where anything stays.
    """
    if not path.is_symlink() and not path.exists():
        return
    # By a program that walks without recursion: shutil.rmtree calls itself and holds a descriptor for each level.
    said = _run("rm", "-rf", "--", str(path))
    if said and not path.is_symlink():  # which alone would be followed, and not those within
        # A directory that its owner took the rights from.
        _run("chmod", "-R", "u+rwX", "--", str(path))
        said = _run("rm", "-rf", "--", str(path))
    if said:
        raise OSError(f"{path} cannot be removed: {said}")


def _run(*command: str) -> str:
    """Why it failed, in its own words; empty where it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_REMOVE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{command[0]} was not done within {_REMOVE_TIMEOUT_S:g} s"
    return "" if done.returncode == 0 else done.stderr.strip()[-300:] or f"{command[0]} ended with {done.returncode}"
