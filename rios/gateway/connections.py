"""Connections of a gateway: so many at a time, and each has to ask within seconds, so that nobody takes them all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
from asyncio import Transport
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from rios.gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""TLS begins within this; asyncio's own bound is a minute."""
_RESERVED = 512
"""File descriptors that are left to everything else: workers, the database, what is sent on to HTTPS."""
_REFUSED_S = 2.0
"""Whoever is refused has this to read why: a connection that is closed with a question unread takes the answer away."""
_TOGETHER_MAX = 1 << 16
_REFUSED_MAX = 64
"""More who are refused are not waited for."""


class Loop(asyncio.SelectorEventLoop):
    """The event loop of a gateway."""

    async def create_server(self, *arguments: Any, **more: Any) -> asyncio.Server:
        """As ever, with a deadline for the beginning of TLS. That for its end would also cut off slow readers."""
        if more.get("ssl") is not None:
            more.setdefault("ssl_handshake_timeout", HANDSHAKE_S)
        return await super().create_server(*arguments, **more)


class Together:
    """A transport of which what is written in one turn of the event loop is sent at once.

    uvicorn writes the head of an answer, its body and its end one by one: each was a system call, and a packet.
    """

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = bytearray()
        self._soon = False
        """Whether the loop's next turn sends what is held."""

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what is written before the loop turns, or as soon as that is much."""
        if not data:
            return
        if len(self._held) + len(data) > _TOGETHER_MAX:  # much is not copied, and makes its writer wait
            self._send()
            self._transport.write(data)
            return
        self._held += data
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._turned)

    def get_write_buffer_size(self) -> int:
        """How many bytes are not sent yet."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def write_eof(self) -> None:
        """Nothing follows what was written."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """Close it when all is sent."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close it now; what was not sent is not."""
        self._held.clear()
        self._transport.abort()

    def below(self) -> Transport:
        """The transport itself, with all that was written sent: for who goes on without this."""
        self._send()
        return self._transport

    def _turned(self) -> None:
        self._soon = False
        self._send()

    def _send(self) -> None:
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            self._transport.write(held)


class Connection(H11Protocol):
    """One connection. What is asked for has no deadline here: bodies have theirs, answers may be streams."""

    settings: GatewaySettings
    count_max: int

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Refuse it where there are too many, of its address or in all."""
        super().connection_made(transport)
        self.transport: Any = Together(transport, self.loop)
        self._seen: RequestResponseCycle | None = None
        self._waited_s = 0.0
        self._unsent = 0
        self.refused = False
        settings = self.settings
        # Counted anew each time, WebSockets among them: what is kept beside could come to differ.
        if sum(1 for one in self.connections if not _is_refused(one)) > self.count_max:
            self._refuse(503, "QueueFull", f"this gateway has {self.count_max} connections, which is its limit")
        elif not settings.proxies and self.client is not None:  # a proxy bounds those of its clients
            host = self.client[0]
            if _of(host, self.connections) > settings.address_connections_max:
                limit = settings.address_connections_max
                self._refuse(429, "TooManyRequests", f"an address has at most {limit} connections; close one")

    def look(self, seconds: float) -> None:
        """Called every so many seconds: end it where nothing whole has been asked for since too long.

        Counted by these calls, so that an event loop that was held up ends nobody's. An answer is over for uvicorn
        before its last bytes are sent, so that one who still takes some of them waits for nothing.
        """
        unsent = _unsent(self.transport)
        if self.cycle is not self._seen or _is_answering(self.cycle) or unsent != self._unsent:
            self._seen, self._waited_s, self._unsent = self.cycle, 0.0, unsent
            return
        self._waited_s += seconds
        if self._waited_s >= (_REFUSED_S if self.refused else self.settings.header_timeout_s):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """What one who is refused asks for nobody reads."""
        if not self.refused:
            super().data_received(data)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Messages are sent as they are."""
        self.transport = self.transport.below()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """An answer that is whole waits for nothing more: neither for what its application does afterwards, nor for a
        client that says no more, whom asyncio disconnects."""
        self.transport.below()
        super().on_response_complete()

    def eof_received(self) -> None:
        """The same for a stream's last pieces."""
        self.transport.below()

    def timeout_keep_alive_handler(self) -> None:
        """Close it, but not while an answer is still sent: TLS ends half a minute later, whatever is left of that."""
        if not _unsent(self.transport):
            super().timeout_keep_alive_handler()

    def _refuse(self, status: int, kind: str, why: str) -> None:
        title = "too many connections"
        said = {"type": f"urn:rios:error:{kind}", "title": title, "status": status, "detail": why}
        body = json.dumps(said).encode()
        self.transport.write(
            f"HTTP/1.1 {status} Too Many Connections\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        waiting = sum(1 for one in self.connections if _is_refused(one))
        if waiting >= _REFUSED_MAX or not self.transport.can_write_eof():  # TLS has an end of its own
            self.transport.close()
            return
        self.refused = True
        with contextlib.suppress(OSError):  # its client has gone, and `look` ends it
            self.transport.write_eof()


def bounded(settings: GatewaySettings) -> type[Connection]:
    """Connections within the bounds of `settings`, and of the file descriptors that this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count_max = settings.connections_max
    if limit != resource.RLIM_INFINITY:
        count_max = min(count_max, max(limit - _RESERVED, limit // 2))
    if count_max < settings.connections_max:
        log.info("file descriptors bound the connections", extra={"connections": count_max, "descriptors": limit})
    return type("Bounded", (Connection,), {"settings": settings, "count_max": count_max})


def look(connections: Iterable[object], seconds: float) -> None:
    """Called every so many seconds: end those that wait for their clients for too long."""
    for one in list(connections):
        if isinstance(one, Connection):
            one.look(seconds)


def _is_answering(cycle: RequestResponseCycle | None) -> bool:
    return cycle is not None and not cycle.response_complete


def _unsent(transport: Transport) -> int:
    """How many bytes of answers the socket has not taken yet. TLS has some itself, and others in what is below it."""
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport.get_write_buffer_size() + (0 if below is None else below.get_write_buffer_size())


def _is_refused(one: object) -> bool:
    return isinstance(one, Connection) and one.refused


def _of(host: str, connections: Iterable[Any]) -> int:
    return sum(1 for one in connections if one.client is not None and one.client[0] == host and not _is_refused(one))
