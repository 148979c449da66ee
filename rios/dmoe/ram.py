"""Main memory that can still be taken."""

from __future__ import annotations

from pathlib import Path

import psutil

VARIABLE = "RIOS_RAM_BYTES"
"""Of workers on one machine that know of each other: what the host of each may take."""
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def free_bytes() -> int:
    """Bytes, within the control group's limit where there is one."""
    free = int(psutil.virtual_memory().available)
    if _LIMIT.exists() and _USED.exists() and (text := _LIMIT.read_text().strip()) != "max":
        free = min(free, int(text) - int(_USED.read_text()))
    return max(free, 0)
