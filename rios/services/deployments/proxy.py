"""Requests to a deployment, forwarded to a replica that is ready: streamed both ways, retried where that is safe.

A request that no replica can take now waits for one, as where a deployment was scaled to zero. One that a replica did
not answer goes to another if it had not been sent yet, or may be sent twice (RFC 9110, section 9.2.2) and is at hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx2

from rios.services.deployments import sockets
from rios.services.deployments.routing import Endpoint, Route, Routes

HELD_S = 60.0
"""A request waits so long for a replica."""
ANSWER_S = 300.0
"""A replica's answer begins, and goes on, within this."""
_CONNECT_S = 2.0
_LOOK_S = 0.02
_TRIES = 4
_SAME_S = 1.0
BUFFER_BYTES = 1 << 20
"""A body of so many bytes is kept at hand, to be sent again."""
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"host", b"content-length",
    )
)  # fmt: skip
"""Of one connection alone (RFC 9110, section 7.6.1), or made anew."""
# Below what common servers keep an idle connection for, so that none is closed while a request is on its way.
_KEPT_S = 1.5


class Proxy:
    """Forwards requests. One for all event loops of a process."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        # It says each address that is asked for, with what is secret in it.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    async def forward(self, route: Route, scope: Any, receive: Any, send: Any, *, path: str) -> None:
        """Answer one HTTP request of ASGI. path: what the replica is asked for, with its leading slash."""
        body = _Body(receive)
        await body.read_ahead()
        self._routes.count(route, running=1)
        try:
            await self._tries(route, scope, body, send, path)
        finally:
            self._routes.count(route, running=-1, requests=1)

    async def forward_socket(self, route: Route, scope: Any, receive: Any, send: Any, *, path: str) -> None:
        """Forward one WebSocket of ASGI. Raises Refused before it was accepted."""
        deadline = asyncio.get_running_loop().time() + HELD_S

        def taken(wanted: Route, tried: set[str]) -> Awaitable[Endpoint | None]:
            return self._taken(wanted, tried, deadline)

        await sockets.forward(self._routes, route, scope, receive, send, path=path, taken=taken)

    async def _tries(self, route: Route, scope: Any, body: _Body, send: Any, path: str) -> None:
        tried: set[str] = set()
        why = "no replica is ready"
        deadline = asyncio.get_running_loop().time() + HELD_S
        # One that a replica ended by may be what it ended by: it is not shown to all of them.
        sent_before = False
        for _ in range(_TRIES):
            endpoint = await self._taken(route, tried, deadline)
            if endpoint is None:
                break
            tried.add(endpoint.replica_id)
            answer = _Answer(send)
            good = False
            try:
                await self._one(endpoint, scope, body, answer, path)
                good = True
                return
            except httpx2.TransportError as error:
                why = f"replica {endpoint.replica_id} does not answer: {str(error) or type(error).__name__}"
                sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if answer.begun:
                    raise ConnectionError(why) from error
                if body.spent or (sent and (scope["method"] not in _IDEMPOTENT or sent_before)):
                    break
                sent_before = sent_before or sent
            except asyncio.CancelledError:
                good = True  # the client went away, which says nothing of the replica
                raise
            finally:
                self._routes.give_back(endpoint, good=good)
        await _refuse(send, 503 if not tried else 502, why)

    async def _taken(self, route: Route, tried: set[str], deadline: float) -> Endpoint | None:
        """A replica for the request; None where none comes in time."""
        found = self._routes.take(route, avoid=tried)
        if found is not None:
            return found
        asked, begun = route, asyncio.get_running_loop().time()
        self._routes.count(asked, waiting=1)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._routes.wake, route)
            while loop.time() < deadline and route.may_come:
                await asyncio.sleep(_LOOK_S)
                # All that there are were tried: one of them may be back after a while, if no other comes.
                avoid = tried if loop.time() < begun + _SAME_S else ()
                if (found := self._routes.take(route, avoid=avoid)) is not None:
                    return found
                route = self._routes.of(route.app.id) or route
        finally:
            self._routes.count(asked, waiting=-1)
        return None

    async def _one(self, endpoint: Endpoint, scope: Any, body: _Body, answer: _Answer, path: str) -> None:
        client = self._client()
        query = scope.get("query_string", b"")
        url = httpx2.URL(endpoint.url).copy_with(raw_path=path.encode() + (b"?" + query if query else b""))
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _HOP]
        headers += [(b"x-forwarded-proto", scope.get("scheme", "http").encode())]
        if scope.get("client"):
            headers += [(b"x-forwarded-for", str(scope["client"][0]).encode())]
        length = dict(scope["headers"]).get(b"content-length")
        if length is not None:
            headers += [(b"content-length", length)]
        request = client.build_request(scope["method"], url, headers=headers, content=body.content())
        response = await client.send(request, stream=True)
        try:
            kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP - _LENGTH]
            short = _is_short(response.headers.get("content-length", ""))
            # Whole before any of it is passed on: one that breaks off in the midst can still be asked for again.
            whole = b"".join([chunk async for chunk in response.aiter_raw()]) if short else b""
            await answer.start(response.status_code, kept)
            if short:
                await answer.more(whole)
            else:
                async for chunk in response.aiter_raw():
                    await answer.more(chunk)
            await answer.end()
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections of this event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            found = self._clients[loop] = httpx2.AsyncClient(
                timeout=httpx2.Timeout(ANSWER_S, connect=_CONNECT_S, pool=ANSWER_S),
                limits=httpx2.Limits(max_connections=None, keepalive_expiry=_KEPT_S),
                follow_redirects=False,
                trust_env=False,
            )
            found.headers.clear()
        return found


_LENGTH = frozenset((b"content-length",))
_SHORT_BYTES = 1 << 16
"""An answer of so many bytes is at hand before it begins."""


def _is_short(length: str) -> bool:
    """Whether an answer says that it is no longer than that."""
    return length.isascii() and length.isdecimal() and len(length) < 10 and int(length) <= _SHORT_BYTES


class _Body:
    """A request's body: its beginning at hand, the rest as it comes."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._head = b""
        self._whole = False
        self.spent = False
        """Whether a part that is not at hand any more was given away."""

    async def read_ahead(self) -> None:
        """Read what is kept at hand."""
        parts, length = [], 0
        while not self._whole and length < BUFFER_BYTES:
            part = await self._next()
            parts.append(part)
            length += len(part)
        self._head = b"".join(parts)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        self._whole = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """The body, from its beginning."""
        return (self._head or None) if self._whole and not self.spent else self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        yield self._head
        while not self._whole:
            self.spent = True
            yield await self._next()


class _Answer:
    """An answer on its way to who asked."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.begun = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(send: Any, status: int, why: str) -> None:
    """Say in the shape of a problem (RFC 9457) that nobody answers."""
    said = json.dumps(
        {"type": "urn:rios:error:NotReady", "title": "no replica answers", "status": status, "detail": why}
    )
    headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": said.encode(), "more_body": False})
