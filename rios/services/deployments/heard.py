"""What a process knows of a host by asking it again and again: how far it is, and how much of the time it was there."""

from __future__ import annotations

import math
from collections import deque

_LOOKS = 32
"""The quickest of so many answers is the way alone: the others waited for a busy machine."""
_STEP_MS = 5.0
"""Hosts whose ways differ by less are equally near: what is measured varies by that, and better reasons decide then."""
_MEMORY_S = 3600.0
"""An outage counts for half after 42 minutes, and for a twentieth after three hours."""


class Heard:
    """The record of one host, from its first answer on. Belongs to one thread."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_LOOKS)
        self._share = 1.0
        self._at: float | None = None

    def __repr__(self) -> str:
        return f"<Heard {self.latency_ms:g} ms, {self.reliability:.0%}>"

    def answered(self, took_s: float, *, now: float) -> None:
        """It answered within so many seconds, at a moment of a steady clock."""
        self._took.append(took_s)
        self._pass(now, there=True)

    def missed(self, *, now: float) -> None:
        """It did not answer; before its first answer that says nothing of it."""
        if self._at is not None:
            self._pass(now, there=False)

    def _pass(self, now: float, *, there: bool) -> None:
        if self._at is not None:
            self._share += (there - self._share) * -math.expm1(-(now - self._at) / _MEMORY_S)
        self._at = now

    @property
    def latency_ms(self) -> float:
        """There and back, in steps."""
        return _STEP_MS * round(min(self._took, default=0.0) * 1000 / _STEP_MS)

    @property
    def reliability(self) -> float:
        """The share of the last hours that it answered, in hundredths."""
        return round(self._share, 2)
