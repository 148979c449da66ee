"""What a machine has that rios needs, in words."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    said: str


def examine() -> Iterator[Finding]:
    """Look at the interpreter, the libraries, devices, memory, shared memory and ports of this machine."""
    from importlib.metadata import version

    import torch
    import transformers

    from rios.dmoe import device
    from rios.dmoe.host import machine_id
    from rios.dmoe.shm import Segment, supported
    from rios.services.views import size

    yield Finding("Python", sys.version_info >= (3, 11), platform.python_version())
    yield Finding(
        "libraries",
        True,
        f"torch {torch.__version__}, transformers {transformers.__version__}, distributed {version('distributed')}",
    )
    picked = device.pick()
    yield Finding("device", True, f"{picked}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    free = device.free_bytes(picked)
    yield Finding("memory", free > 1 << 29, f"{size(free)} free for shards and trunks")
    yield Finding("machine", True, machine_id())
    if not supported:
        yield Finding("shared memory", False, "hosts of one machine talk by sockets: this needs Linux on x86-64")
        return
    segment, nonce = Segment.create(1 << 16)
    seen = Segment.open(os.getpid(), segment.fd, 1 << 16, nonce) is not None
    segment.close()
    yield Finding("shared memory", seen, "works" if seen else "/proc/PID/fd cannot be opened: sockets are used instead")
