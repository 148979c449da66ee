"""Token buckets: how many requests a key, a user and an address may make, in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from rios.words.errors import TooManyRequests

# A bucket that is full again is as good as a new one: those not used for longest are forgotten.
_BUCKETS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Room:
    """What is left after a request, in the bucket that has least."""

    limit: int
    remaining: int
    reset_s: float
    """Until the bucket is full again."""


class Limits:
    """Buckets of `burst` requests that fill again with `rate_per_s`. Safe for threads."""

    def __init__(self, burst: int, rate_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._rate = rate_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, names: Sequence[str]) -> Room:
        """Take one request from the bucket of each name, or from none and raise TooManyRequests."""
        with self._lock:
            now = self._clock()
            levels = [self._level(name, now) for name in names]
            least = min(levels)
            if least < 1:
                wait_s = (1 - least) / self._rate
                raise TooManyRequests(
                    f"there were more than {self._burst} requests at once, or {self._rate:g} a second; try again in "
                    f"{ceil(wait_s)} s",
                    retry_after_s=wait_s,
                )
            for name, level in zip(names, levels, strict=True):
                self._buckets[name] = level - 1, now
                self._buckets.move_to_end(name)
            while len(self._buckets) > _BUCKETS_MAX:
                self._buckets.popitem(last=False)
            return Room(self._burst, int(least - 1), (self._burst - least + 1) / self._rate)

    def _level(self, name: str, now: float) -> float:
        level, at = self._buckets.get(name, (float(self._burst), now))
        return min(float(self._burst), level + (now - at) * self._rate)
