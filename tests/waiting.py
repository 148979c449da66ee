"""Waiting for what another thread or process does, with a deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 4.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
"""Beside other tests, on a machine of unknown speed, things take longer than the figures that a test shows alone."""


def until(found: Callable[[], T], what: str = "what was waited for", *, deadline_s: float, pause_s: float = 0.01) -> T:
    """What `found` returns once it is true, or a failure that says `what` did not come. deadline_s: of a test alone."""
    deadline = time.monotonic() + deadline_s * PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s * PATIENCE:g} s"
        time.sleep(pause_s)
    return value


def stop(pid: int) -> None:
    """Send a process SIGSTOP, and return when its threads stand still: one may go on for a moment."""

    def stands() -> bool:
        try:
            states = [one.read_text().rpartition(") ")[2][:1] for one in Path(f"/proc/{pid}/task").glob("*/stat")]
        except (FileNotFoundError, ProcessLookupError):  # a thread has ended meanwhile
            return False
        return bool(states) and set(states) <= {*"TZ"}

    os.kill(pid, signal.SIGSTOP)
    until(stands, f"process {pid} stands still", deadline_s=60)
