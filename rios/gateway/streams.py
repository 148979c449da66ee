"""Streams that are open at a gateway: each user has so many of a kind, so that nobody has all."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator

from starlette.requests import Request

from rios.words.errors import TooManyRequests


def counted(
    request: Request, user_id: str, kind: str, limit: int, events: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """A stream that is counted while it runs. Raises TooManyRequests where its user has `limit` of this kind."""
    streams: Counter[tuple[str, str]] = request.app.state.streams
    key = kind, user_id
    if streams[key] >= limit:
        raise TooManyRequests(f"a user has at most {limit} streams of {kind}; close one", retry_after_s=1)

    async def run() -> AsyncGenerator[bytes]:
        streams[key] += 1
        try:
            async for one in events:
                yield one
        finally:
            await events.aclose()
            streams[key] -= 1
            if not streams[key]:
                del streams[key]

    return run()
