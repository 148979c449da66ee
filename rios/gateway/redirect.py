"""Plain HTTP beside a gateway of TLS: every request is sent on to the same place by HTTPS, and nothing else is said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection

import h11

_HEADER_BYTES = 1 << 14
_TIMEOUT_S = 5.0
_CONNECTIONS_MAX = 256


class Redirect:
    """Listens where it is told and answers 308, which keeps method and body, or 400.

    names: for which the gateway is certified: a `Host` that is none of them is not repeated, so that nobody is sent
    elsewhere; the first one stands in its place.
    """

    def __init__(self, place: socket.socket, *, names: Collection[str], port: int) -> None:
        self._place = place
        self._names = tuple(names)
        self._port = port
        self._open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._answer, sock=self._place, limit=_HEADER_BYTES)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):  # who went away, or says nothing
                if self._open <= _CONNECTIONS_MAX:
                    async with asyncio.timeout(_TIMEOUT_S):
                        writer.write(await self._reply(reader))
                        await writer.drain()
        finally:
            self._open -= 1
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        headers = [("content-length", "0"), ("connection", "close")]
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
            if not isinstance(event, h11.Request):
                return b""  # it has gone without a question
            headers.append(("location", self._target(event)))
            status = 308
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint or 400
        return connection.send(h11.Response(status_code=status, headers=headers, reason=b"")) or b""

    def _target(self, request: h11.Request) -> str:
        host = next((value.decode("ascii", "replace") for name, value in request.headers if name == b"host"), "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and host[-1] != "]" else host
        name = name.strip("[]").lower()
        known = name if name in self._names else self._names[0]
        place = f"[{known}]" if ":" in known else known
        port = "" if self._port == 443 else f":{self._port}"
        path = request.target.decode("ascii")
        return f"https://{place}{port}{path if path.startswith('/') else '/'}"
