"""The buckets of all gateways of a network, in a Redis."""

from __future__ import annotations

from collections.abc import Sequence

from rios.gateway.limits import Limits, Room, none_left, room_of
from rios.storage.breaker import Breaker
from rios.storage.redis import LOST, SharedBuckets


class SharedLimits:
    """The buckets of all gateways of a network; those of this process while Redis does not answer."""

    def __init__(self, redis: str, own: Limits, *, burst: int, rate_per_s: float) -> None:
        """redis: its URL. Raises InvalidRequest for what is none."""
        self.shared = SharedBuckets(redis, burst=burst, rate_per_s=rate_per_s)
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
            raise none_left(self._burst, self._rate, least)
        return room_of(self._burst, self._rate, least)

    def parts(self) -> list[tuple[Breaker, str]]:
        """Redis."""
        return [(self.shared.breaker, "limits are this gateway's own")]

    async def close(self) -> None:
        """Close the connections."""
        await self.shared.close()
