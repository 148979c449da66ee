"""WebSockets to a deployment (RFC 6455), forwarded to a replica that is ready: message by message, both ways.

A socket stays with its replica. When that one is about to leave, its sockets are given half of its grace to end by
themselves; then they are closed with 1012, "service restart", and whoever connects again finds another replica. One
that has had no message either way for `IDLE_S` is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

if TYPE_CHECKING:
    from rios.services.deployments.routing import Endpoint, Route, Routes

IDLE_S = 300.0
"""A socket without a message either way for so long is closed."""
MESSAGE_BYTES = 1 << 20
"""No message is longer, in either direction."""
SOCKETS_MAX = 500
"""Of one deployment through one process."""
_OPEN_S = 10.0
_CLOSE_S = 2.0
_TRIES = 4
_LOOK_S = 0.25
_PING_S = 20.0
_NOT_ASKED = frozenset(
    (
        b"connection", b"content-length", b"forwarded", b"host", b"keep-alive", b"proxy-authenticate",
        b"proxy-authorization", b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-key",
        b"sec-websocket-protocol", b"sec-websocket-version", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"x-forwarded-for", b"x-forwarded-proto",
    )
)  # fmt: skip
"""Of one connection alone, or made anew."""
_GOING_AWAY, _TOO_BIG, _RESTART, _BROKEN = 1001, 1009, 1012, 1011
_UNSAYABLE = frozenset((1005, 1006, 1015))
"""What is only said to oneself (section 7.4.1)."""
Taken = Callable[["Route", set[str]], Awaitable["Endpoint | None"]]


class _Connect(connect):
    """Goes where it was told to: a replica that answers with another address is a stranger's program."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Refused(Exception):
    """No replica took the socket: status and reason for who asked."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def forward(
    routes: Routes, route: Route, scope: Any, receive: Any, send: Any, *, path: str, taken: Taken
) -> None:
    """Forward one WebSocket of ASGI until either end closes it. Raises Refused before it was accepted.

    send: raises OSError where whoever asked has gone. path: what the replica is asked for, with its leading slash.
    taken: finds a replica besides those that were tried.
    """
    if (await receive())["type"] != "websocket.connect":
        return
    if routes.sockets(route) >= SOCKETS_MAX:
        raise Refused(503, f"{route.app.name} has {SOCKETS_MAX} sockets here, which is all that it may have")
    routes.count(route, running=1, sockets=1)
    try:
        endpoint, there = await _opened(routes, route, scope, path, taken)
        try:
            with contextlib.suppress(OSError):  # whoever asked has gone, before the answer or in the middle
                await send({"type": "websocket.accept", "subprotocol": there.subprotocol, "headers": []})
                await _Bridge(routes, route, endpoint, there, receive, send).run()
        finally:
            routes.give_back(endpoint, good=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(there.close(_GOING_AWAY), _CLOSE_S)
    finally:
        routes.count(route, running=-1, requests=1, sockets=-1)


async def _opened(
    routes: Routes, route: Route, scope: Any, path: str, taken: Taken
) -> tuple[Endpoint, ClientConnection]:
    """A connection to a replica. Raises Refused."""
    query = scope.get("query_string", b"").decode("ascii")
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n.lower() not in _NOT_ASKED]
    headers.append(("X-Forwarded-Proto", scope.get("scheme", "ws")))
    if scope.get("client"):
        headers.append(("X-Forwarded-For", str(scope["client"][0])))
    tried: set[str] = set()
    why = "no replica is ready"
    for _ in range(_TRIES):
        endpoint = await taken(route, tried)
        if endpoint is None:
            break
        tried.add(endpoint.replica_id)
        uri = f"ws://{endpoint.host}:{endpoint.port}{path}{'?' + query if query else ''}"
        try:
            there = await _Connect(
                uri, additional_headers=headers, subprotocols=scope.get("subprotocols") or None, compression=None,
                user_agent_header=None, proxy=None, open_timeout=_OPEN_S, close_timeout=_CLOSE_S,
                ping_interval=_PING_S, max_size=MESSAGE_BYTES,
            )  # fmt: skip
        except InvalidStatus as error:  # the application has answered, and does not want it
            routes.give_back(endpoint, good=True)
            status = error.response.status_code
            raise Refused(status if 400 <= status < 600 else 502, f"{route.app.name} takes no socket there") from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidMessage) as error:
            routes.give_back(endpoint, good=False)
            why = f"replica {endpoint.replica_id} takes no socket: {str(error) or type(error).__name__}"
        except BaseException:
            routes.give_back(endpoint, good=True)
            raise
        else:
            return endpoint, there
    raise Refused(502 if tried else 503, why)


class _Bridge:
    """Two open sockets, from one of which all goes to the other."""

    def __init__(
        self, routes: Routes, route: Route, endpoint: Endpoint, there: ClientConnection, receive: Any, send: Any
    ) -> None:
        self._routes, self._route, self._endpoint = routes, route, endpoint
        self._there, self._receive, self._send = there, receive, send
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()

    async def run(self) -> None:
        """Until one of them closes, or both are closed."""
        tasks = [asyncio.create_task(one()) for one in (self._asked, self._answered, self._watched)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        code, why = next(iter(done)).result()
        if code:
            await self._send({"type": "websocket.close", "code": code, "reason": why})

    async def _asked(self) -> tuple[int, str]:
        while True:
            message = await self._receive()
            self._heard_at = self._clock()
            if message["type"] == "websocket.disconnect":
                code = message.get("code") or 1000
                await self._there.close(1000 if code in _UNSAYABLE else code, message.get("reason") or "")
                return 0, ""
            text = message.get("text")
            if len(text if text is not None else message["bytes"]) > MESSAGE_BYTES:
                await self._there.close(_GOING_AWAY)
                return _TOO_BIG, f"messages of at most {MESSAGE_BYTES} bytes are forwarded"
            try:
                await self._there.send(text if text is not None else message["bytes"])
            except ConnectionClosed:
                return await self._ended()

    async def _answered(self) -> tuple[int, str]:
        while True:
            try:
                message = await self._there.recv()
            except ConnectionClosed:
                return await self._ended()
            self._heard_at = self._clock()
            kind = "text" if isinstance(message, str) else "bytes"
            await self._send({"type": "websocket.send", kind: message})

    async def _ended(self) -> tuple[int, str]:
        await self._there.wait_closed()
        code, why = self._there.close_code, self._there.close_reason
        if code is None or code in _UNSAYABLE:
            return (_BROKEN, "the replica is gone") if code == 1006 else (1000, "")
        return code, why or ""

    async def _watched(self) -> tuple[int, str]:
        leaves_at = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            now = self._clock()
            if now - self._heard_at > IDLE_S:
                return _GOING_AWAY, f"no message for {IDLE_S:g} s"
            if self._routes.is_leaving(self._endpoint.replica_id):
                leaves_at = leaves_at or now + self._route.specification["grace"] / 2
                if now >= leaves_at:
                    return _RESTART, "this replica ends; connect again"


__all__ = ["IDLE_S", "MESSAGE_BYTES", "SOCKETS_MAX", "Refused", "forward"]
