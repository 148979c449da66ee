"""What a directory holds stays there when the machine loses power."""

from __future__ import annotations

import os
from pathlib import Path


def sync_names(directory: Path) -> None:
    """Return when the names of the files in a directory are on the disk; contents are for who writes them."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
