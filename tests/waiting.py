"""Waiting for what another thread or process does, with a deadline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
