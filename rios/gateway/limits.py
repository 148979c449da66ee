"""Token buckets: how many requests a key, a user and an address may make; in memory, or in a Redis for all gateways."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from rios.storage.breaker import Breaker
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


class Limiter(Protocol):
    """What gives room to requests."""

    async def room(self, names: Sequence[str]) -> Room:
        """Take one request from the bucket of each name, or from none and raise TooManyRequests."""

    async def close(self) -> None:
        """Nothing is asked any more."""

    def parts(self) -> list[tuple[Breaker, str]]:
        """What it depends on, and how it does without."""


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
                raise none_left(self._burst, self._rate, least)
            for name, level in zip(names, levels, strict=True):
                self._buckets[name] = level - 1, now
                self._buckets.move_to_end(name)
            while len(self._buckets) > _BUCKETS_MAX:
                self._buckets.popitem(last=False)
            return room_of(self._burst, self._rate, least - 1)

    async def room(self, names: Sequence[str]) -> Room:
        """As `take`."""
        return self.take(names)

    async def close(self) -> None:
        """Nothing is to be done."""

    def parts(self) -> list[tuple[Breaker, str]]:
        """Nothing."""
        return []

    def _level(self, name: str, now: float) -> float:
        level, at = self._buckets.get(name, (float(self._burst), now))
        return min(float(self._burst), level + (now - at) * self._rate)


def limiter(burst: int, rate_per_s: float, *, redis: str | None) -> Limiter:
    """Buckets of this process, or those at the URL of a Redis. Raises InvalidRequest for what is no such URL."""
    own = Limits(burst, rate_per_s)
    if not redis:
        return own
    from rios.gateway.shared_limits import SharedLimits  # by a library that takes a quarter of a second to import

    return SharedLimits(redis, own, burst=burst, rate_per_s=rate_per_s)


def none_left(burst: int, rate_per_s: float, least: float) -> TooManyRequests:
    """What is raised where the bucket that has least has less than a request."""
    wait_s = (1 - least) / rate_per_s
    return TooManyRequests(
        f"there were more than {burst} requests at once, or {rate_per_s:g} a second; try again in {ceil(wait_s)} s",
        retry_after_s=wait_s,
        limit=burst,
        reset_s=(burst - least) / rate_per_s,
    )


def room_of(burst: int, rate_per_s: float, least: float) -> Room:
    """What is left of a bucket that has `least`."""
    return Room(burst, int(least), (burst - least) / rate_per_s)
