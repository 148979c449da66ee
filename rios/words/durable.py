"""What a directory holds stays there when the machine loses power."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def sync_names(directory: Path) -> None:
    """Return when the names of the files in a directory are on the disk; contents are for who writes them."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_kept(path: Path, data: bytes) -> bytes:
    """What a file holds that is made once, for its owner alone: `data`, or what another process was quicker with.

    It is there whole or not at all, and on the disk before anybody uses it.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_names(path.parent)
    return path.read_bytes()
