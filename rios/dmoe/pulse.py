"""Whether a process that was forked still turns to its work: it counts its turns where its parent reads them.

In memory that both share, so neither a beat nor a look is a system call, and nothing fills up while nobody reads.
"""

from __future__ import annotations

import mmap
import struct
import time

_COUNT = struct.Struct("<Q")
_AWAKE_S = 2.0  # looks are a second apart: between two that are further, the parent did not run either


class Pulse:
    """Made before the fork: the child calls `beat`, the parent `silent_s`."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNT.size)
        self._seen = 0
        self._looked_at = time.monotonic()
        self._silent_s = 0.0

    def __repr__(self) -> str:
        return f"<Pulse {self.beats} beats, silent for {self._silent_s:.1f} s>"

    @property
    def beats(self) -> int:
        """How many there were."""
        return int(_COUNT.unpack_from(self._memory)[0])

    def beat(self) -> None:
        """One more turn. Called by one thread."""
        _COUNT.pack_into(self._memory, 0, self.beats + 1)

    def silent_s(self, now: float | None = None) -> float:
        """Seconds without a beat, as seen at this look and those before.

        Time in which nobody looked counts two seconds at most: a machine that slept, or a user who stopped parent and
        child, has not shown that the child stays silent.
        """
        now = time.monotonic() if now is None else now
        beats = self.beats
        self._silent_s = 0.0 if beats != self._seen else self._silent_s + min(now - self._looked_at, _AWAKE_S)
        self._seen, self._looked_at = beats, now
        return self._silent_s
