"""One GET of a replica, with a deadline for all of it: strangers' servers may answer byte by byte for ever."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any


class _Until(io.RawIOBase):
    """What a connection receives, up to a moment: its own timeout begins anew with each byte."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As a socket gives it to `http.client`."""
        return io.BufferedReader(self)


def get(address: str, path: str, *, timeout_s: float, most_bytes: int = 0) -> tuple[int, bytes]:
    """The status, and so much of the body, of what HOST:PORT answers. Raises OSError, HTTPException, ValueError."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode("ascii"))
        reader: Any = _Until(connection, deadline)
        response = http.client.HTTPResponse(reader, method="GET")
        try:
            response.begin()
            return response.status, response.read(most_bytes) if most_bytes else b""
        finally:
            response.close()
