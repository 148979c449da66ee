"""Frames on sockets: the data plane's language between clients, trunks and hosts.

A frame is a header of 32 bytes, then `meta`, then `body`, little-endian, no pickle:

    magic "RIOS" | version u8 | kind u8 | flags u16 | seq u64 | meta length u32 | body length u64 | CRC-32 u32

The CRC covers meta and body; over TLS, whose records are authenticated, the low bits of seq stand in its place. Lengths
are bounded before anything is allocated; a frame that is malformed, truncated, too long or of an unexpected kind raises
`ProtocolError`, and whoever reads closes that one connection.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import select
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rios.dmoe.tls import TlsSocket, refusal
from rios.words.errors import DeadlineExceeded, HostLost, ProtocolError, Unauthorized

MAGIC = b"RIOS"
VERSION = 2
HEADER = struct.Struct("<4sBBHQIQI")
MAX_META_BYTES = 1 << 26  # a manifest of 61 layers x 256 experts is 9 MiB of JSON
_ZEROED_BYTES = 1 << 16

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """What a frame says."""

    HELLO = 1  # who connects, and for what
    WELCOME = 2
    CALL = 3  # control: JSON in, JSON out
    ANSWER = 4
    EXEC = 5  # rows to experts
    RESULT = 6
    ERROR = 7
    RING = 8  # look into the shared memory
    SUBMIT = 9  # a request for a trunk
    CANCEL = 10
    TOKENS = 11
    ALIVE = 12
    ALLOW = 13  # a request may have more tokens
    CHALLENGE = 14
    PROOF = 15  # that its sender knows the key


_KINDS = {int(kind): kind for kind in Kind}


class Frame(NamedTuple):
    """One frame; `body` may be a view into shared memory, valid until the next frame of its connection."""

    kind: Kind
    seq: int
    meta: Buffer
    body: memoryview
    flags: int = 0

    def json(self) -> dict[str, Any]:
        """`meta` as a JSON object, or `ProtocolError`."""
        try:
            value = json.loads(bytes(self.meta)) if len(self.meta) else {}
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self.kind.name} frame {self.seq}: meta is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"{self.kind.name} frame {self.seq}: meta is not a JSON object")
        return value


def dump(value: dict[str, Any]) -> bytes:
    """A JSON object as `meta`."""
    return json.dumps(value, separators=(",", ":")).encode()


def encode_header(
    kind: Kind, seq: int, meta: Buffer, bodies: Sequence[Buffer], flags: int = 0, *, summed: bool = True
) -> bytes:
    """The header of a frame whose body is the concatenation of `bodies` (flat byte buffers).

    summed: with the checksum; over TLS it goes without.
    """
    length = sum(len(body) for body in bodies)
    if summed:
        crc = zlib.crc32(meta)
        for body in bodies:
            crc = zlib.crc32(body, crc)
    else:
        crc = seq & 0xFFFFFFFF
    return HEADER.pack(MAGIC, VERSION, kind, flags, seq, len(meta), length, crc)


class Header(NamedTuple):
    """A checked header."""

    kind: Kind
    flags: int
    seq: int
    meta_bytes: int
    body_bytes: int
    crc: int


def decode_header(data: Buffer, *, max_bytes: int) -> Header:
    """Check a header against the version, the known kinds and the bound on meta + body."""
    try:
        magic, version, kind, flags, seq, meta_bytes, body_bytes, crc = HEADER.unpack(data)
    except struct.error as error:
        raise ProtocolError(f"a header has {HEADER.size} bytes, got {len(data)}") from error
    if magic != MAGIC:
        raise ProtocolError(f"not a rios frame: it begins with {bytes(magic)!r}")
    if version != VERSION:
        raise ProtocolError(f"frame of version {version}, this side speaks {VERSION}: install the same rios on both")
    try:
        known = _KINDS[kind]
    except KeyError as error:
        raise ProtocolError(f"unknown frame kind {kind}") from error
    if meta_bytes > min(max_bytes, MAX_META_BYTES) or meta_bytes + body_bytes > max_bytes:
        raise ProtocolError(f"{known.name} frame of {meta_bytes} + {body_bytes} bytes, the bound is {max_bytes}")
    return Header(known, flags, seq, meta_bytes, body_bytes, crc)


def _room(count_bytes: int) -> memoryview:
    """Memory for a frame. A long one is not zeroed: it takes memory as its bytes arrive, not once it is announced."""
    if count_bytes <= _ZEROED_BYTES:
        return memoryview(bytearray(count_bytes))
    try:
        return np.empty(count_bytes, dtype=np.uint8).data
    except MemoryError as error:
        raise ProtocolError(f"a frame of {count_bytes} bytes, for which there is no memory") from error


class Connection:
    """A blocking, length-prefixed connection. One thread reads; any thread may send."""

    def __init__(self, sock: socket.socket | TlsSocket, *, max_bytes: int) -> None:
        self.sock = sock
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self.max_bytes = max_bytes
        self._send_lock = threading.Lock()
        self._header = bytearray(HEADER.size)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self.closed = False

    @property
    def binding(self) -> bytes:
        """The SHA-256 of both ends' certificates, the client's first; empty on a connection in clear."""
        return b"" if self._tls is None else self._tls.binding

    @property
    def peer_name(self) -> str | None:
        """Whom the peer's certificate names; None on a connection in clear."""
        return None if self._tls is None else self._tls.peer_name

    def send(
        self,
        kind: Kind,
        seq: int = 0,
        meta: Buffer = b"",
        bodies: Sequence[Buffer] = (),
        *,
        flags: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Send one frame. Raises `HostLost` when the peer has gone or does not read within `timeout_s`."""
        header = encode_header(kind, seq, meta, bodies, flags, summed=self._tls is None)
        with self._send_lock:
            try:
                sock = self.sock
                if sock.gettimeout() != timeout_s:
                    sock.settimeout(timeout_s)
                if isinstance(sock, TlsSocket):
                    sock.sendall(b"".join((header, meta, *bodies)))
                    return
                total = len(header) + len(meta) + sum(len(body) for body in bodies)
                sent = sock.sendmsg((header, meta, *bodies))
                if sent < total:
                    sock.sendall(memoryview(b"".join((header, meta, *bodies)))[sent:])
            except (OSError, ValueError) as error:
                self.close()
                raise HostLost(f"sending a {kind.name} frame failed: {error}") from error

    def pending(self) -> bool:
        """Whether bytes wait here that the socket does not tell of any more."""
        return self._tls is not None and self._tls.pending()

    def readable(self, timeout_s: float) -> bool:
        """Whether a frame, or the end of the connection, can be read within `timeout_s`."""
        if self._tls is not None and self._tls.pending():
            return True
        try:
            return bool(self._poller.poll(max(0, int(timeout_s * 1000 + 0.5))))
        except OSError as error:
            raise HostLost(f"the connection is closed ({error})") from error

    def expect(self, seconds: float) -> None:
        """Poll for the next frame until it comes, `seconds` at most: who blocks instead has to be woken first."""
        deadline = time.perf_counter() + seconds
        while not self.readable(0) and time.perf_counter() < deadline:
            os.sched_yield()

    def receive(self, timeout_s: float | None = None) -> Frame:
        """The next frame.

        Raises:
            HostLost: the peer closed the connection.
            DeadlineExceeded: `timeout_s` passed; the connection is closed then, since a frame may be half read.
            ProtocolError: the bytes are not a frame of ours; the connection is closed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._fill(memoryview(self._header), deadline)
            header = decode_header(self._header, max_bytes=self.max_bytes)
            data = _room(header.meta_bytes + header.body_bytes)
            self._fill(data, deadline)
            if header.crc != (zlib.crc32(data) if self._tls is None else header.seq & 0xFFFFFFFF):
                raise ProtocolError(f"{header.kind.name} frame {header.seq}: the checksum does not match")
        except (ProtocolError, HostLost, DeadlineExceeded):
            self.close()
            raise
        return Frame(header.kind, header.seq, data[: header.meta_bytes], data[header.meta_bytes :], header.flags)

    def _fill(self, view: memoryview, deadline: float | None) -> None:
        filled = 0
        while filled < len(view):
            try:
                # Waiting by poll, not by the socket's timeout: senders of other threads set that one.
                if deadline is not None and not self.readable(max(0.0, deadline - time.monotonic())):
                    raise DeadlineExceeded("no complete frame before the deadline")
                count = self.sock.recv_into(view[filled:])
            except TimeoutError as error:
                if isinstance(error, DeadlineExceeded):
                    raise
                continue
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            except ssl.SSLError as error:
                raise Unauthorized(refusal(error)) from error
            except (OSError, ValueError) as error:
                raise HostLost(f"the connection broke: {error}") from error
            if count == 0:
                raise HostLost("the peer closed the connection")
            filled += count

    def close(self) -> None:
        """Close; a thread that waits in `receive` wakes with `HostLost`."""
        self.closed = True
        with contextlib.suppress(OSError):  # already disconnected: the normal way to get here a second time
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
