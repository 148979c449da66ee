"""Server-sent events, and what is to be done when their reader goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rios.words.errors import Cancelled

T = TypeVar("T")
# `json.dumps` with separators makes a new one each time.
_written = json.JSONEncoder(separators=(",", ":")).encode


class EventStream(Response):
    """Sends events as they come. The generator is closed when it ends, and at once when its reader goes away."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        headers: Mapping[str, str] | None = None,
        *,
        alive_s: float | None = None,
    ) -> None:
        """alive_s: after so many seconds without an event the reader is told that there will be more."""
        # Proxies that collect an answer before they pass it on are asked not to.
        super().__init__(headers={"X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._events = events
        self._alive_s = alive_s
        self._said = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer."""
        try:
            await unless_gone(receive, self._send(send))
        except Cancelled:
            return

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # Beside the events, not around each: that would cost every piece of every answer.
            alive = asyncio.ensure_future(self._stay(send))
            try:
                async for one in events:
                    self._said = True
                    await send({"type": "http.response.body", "body": one, "more_body": True})
            finally:
                alive.cancel()
                await asyncio.gather(alive, return_exceptions=True)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stay(self, send: Send) -> None:
        while self._alive_s is not None:
            self._said = False
            await asyncio.sleep(self._alive_s)
            if not self._said:
                await send({"type": "http.response.body", "body": b": alive\n\n", "more_body": True})


def event(data: Any, *, id: str | None = None, name: str | None = None) -> bytes:  # noqa: A002
    """One event. Data that is no text is written as JSON."""
    text = data if isinstance(data, str) else _written(data)
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {name}\n" if name is not None else "")
    return f"{head}data: {text}\n\n".encode()


async def unless_gone(receive: Receive | Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Raises Cancelled, and ends `work`, when the client goes away before."""
    heard = receive.receive if isinstance(receive, Request) else receive
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(heard))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the client went away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
