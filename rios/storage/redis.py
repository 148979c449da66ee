"""Redis as gateways share it: token buckets in one atomic script, and what was revoked, told to all at once.

Nothing is kept in Redis alone that anybody would miss: without it each gateway limits by its own buckets and learns of
revocations from the database within seconds.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

import redis
import redis.asyncio

from rios.storage.breaker import Breaker
from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)

TIMEOUT_S = 0.5
"""Of a connection and of a command. A bucket that takes longer is not worth the wait."""
_CONNECTIONS_MAX = 64
_CHANNEL = "rios:forget"
_PAUSE_S = 1.0
# All or nothing, by the server's own clock; what is returned is [1, least left after it] or [0, least there is].
# KEYS: buckets. ARGV: burst, tokens a second. A bucket that would be full again is forgotten.
_TAKE = """
local burst, rate = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local levels, least = {}, burst
for place, key in ipairs(KEYS) do
  local found = redis.call('HMGET', key, 'level', 'at')
  local level = burst
  if found[1] then level = math.min(burst, tonumber(found[1]) + math.max(0, now - tonumber(found[2])) * rate) end
  levels[place] = level
  least = math.min(least, level)
end
if least < 1 then return {0, string.format('%.9f', least)} end
for place, key in ipairs(KEYS) do
  redis.call('HSET', key, 'level', string.format('%.9f', levels[place] - 1), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', key, math.min(math.ceil((burst - levels[place] + 1) / rate * 1000) + 1000, 8640000000))
end
return {1, string.format('%.9f', least - 1)}
"""
LOST = (redis.RedisError, OSError, TimeoutError)
"""What the driver raises when Redis does not answer."""


class SharedBuckets:
    """The buckets of all gateways. Belongs to one event loop."""

    def __init__(self, url: str, *, burst: int, rate_per_s: float) -> None:
        """url: such as redis://host:6379/0, or rediss:// with TLS. Raises InvalidRequest."""
        self.breaker = Breaker("redis")
        self._burst, self._rate = burst, rate_per_s
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, max_connections=_CONNECTIONS_MAX,
                timeout=TIMEOUT_S,
            )  # fmt: skip
        except ValueError as error:
            raise InvalidRequest(f"the URL of Redis is none: {error}; write redis://host:6379/0") from error
        self._client = redis.asyncio.Redis(connection_pool=pool)
        self._take = self._client.register_script(_TAKE)

    async def take(self, names: Sequence[str]) -> tuple[bool, float]:
        """Take a token of each bucket or of none: whether there was one, and the least that is in one of them now.

        Raises what is in LOST, and without asking while it is known that nobody answers.
        """
        if not self.breaker.allows():
            raise redis.ConnectionError("redis did not answer a moment ago")
        try:
            keys = [f"rios:bucket:{name}" for name in names]
            taken, least = await self._take(keys=keys, args=[self._burst, self._rate])
        except LOST as error:
            self.breaker.failed(error)
            # Those that wait for their turn are of the same server: each would be found broken one by one, much later.
            with contextlib.suppress(*LOST):
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise
        self.breaker.succeeded()
        return bool(taken), float(least)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


class Forgetting:
    """Tells other gateways that something was revoked, and hears it from them. Close it."""

    def __init__(self, url: str, heard: Callable[[], None]) -> None:
        """heard: called in a thread of its own, and after every connection, for what was said meanwhile is lost."""
        self._client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="rios-forgetting", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """Something was revoked here."""
        try:
            self._client.publish(_CHANNEL, b"")
        except LOST as error:  # they learn of it from the database, in seconds
            log.warning("a revocation was not told", extra={"reason": str(error)})

    def close(self) -> None:
        """End the thread and the connections."""
        self._stop.set()
        self._thread.join(3 * TIMEOUT_S + _PAUSE_S)
        self._client.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with self._client.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(_CHANNEL)
                    while not self._stop.is_set():
                        message = channel.get_message(timeout=TIMEOUT_S / 2)
                        if message is not None:
                            self._heard()
            except LOST as error:
                log.info("revocations are not heard", extra={"reason": str(error)})
                self._stop.wait(_PAUSE_S)
