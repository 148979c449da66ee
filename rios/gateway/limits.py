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
from rios.storage.redis import LOST, SharedBuckets
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
                raise _none(self._burst, self._rate, least)
            for name, level in zip(names, levels, strict=True):
                self._buckets[name] = level - 1, now
                self._buckets.move_to_end(name)
            while len(self._buckets) > _BUCKETS_MAX:
                self._buckets.popitem(last=False)
            return _room(self._burst, self._rate, least - 1)

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


class SharedLimits:
    """The buckets of all gateways of a network; those of this process while Redis does not answer."""

    def __init__(self, shared: SharedBuckets, own: Limits, *, burst: int, rate_per_s: float) -> None:
        self.shared = shared
        self._own = own
        self._burst = burst
        self._rate = rate_per_s

    async def room(self, names: Sequence[str]) -> Room:
        """Take one request from the bucket of each name, or from none and raise TooManyRequests."""
        try:
            taken, least = await self.shared.take(names)
        except LOST:  # said by the breaker; limits of its own are better than none, and than no gateway
            return self._own.take(names)
        if not taken:
            raise _none(self._burst, self._rate, least)
        return _room(self._burst, self._rate, least)

    def parts(self) -> list[tuple[Breaker, str]]:
        """Redis."""
        return [(self.shared.breaker, "limits are this gateway's own")]

    async def close(self) -> None:
        """Close the connections."""
        await self.shared.close()


def limiter(burst: int, rate_per_s: float, *, redis: str | None) -> Limits | SharedLimits:
    """Buckets of this process, or those at the URL of a Redis. Raises InvalidRequest for what is no such URL."""
    own = Limits(burst, rate_per_s)
    if not redis:
        return own
    shared = SharedBuckets(redis, burst=burst, rate_per_s=rate_per_s)
    return SharedLimits(shared, own, burst=burst, rate_per_s=rate_per_s)


def _none(burst: int, rate_per_s: float, least: float) -> TooManyRequests:
    wait_s = (1 - least) / rate_per_s
    return TooManyRequests(
        f"there were more than {burst} requests at once, or {rate_per_s:g} a second; try again in {ceil(wait_s)} s",
        retry_after_s=wait_s,
    )


def _room(burst: int, rate_per_s: float, least: float) -> Room:
    return Room(burst, int(least), (burst - least) / rate_per_s)
