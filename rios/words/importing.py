"""Libraries of many modules, imported at once."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles within: for imports by the thousand, which make half a million objects that stay.

    The collector would walk through them again and again while they grow: a sixth of the 3 s of processor time in which
    a gateway is imported, and 0.6 s where torch and transformers are. It is off in all threads: for a process' start.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
