"""Waiting for what another thread or process does, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(found: Callable[[], T], what: str = "what was waited for", *, deadline_s: float, pause_s: float = 0.01) -> T:
    """What `found` returns once it is true, or a failure that says `what` did not come."""
    deadline = time.monotonic() + deadline_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s"
        time.sleep(pause_s)
    return value
