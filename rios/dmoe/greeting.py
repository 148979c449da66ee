"""How a connection begins: both ends prove that they know the host's key, which never crosses.

    client   HELLO      meta {role, nonce, ...}
    host     CHALLENGE  meta {nonce}
    client   PROOF      meta {proof: HMAC-SHA256(key, "rios 2 client" + binding + both nonces + HELLO's meta)}
    host     PROOF      meta {proof: the same with "rios 2 host"}, then the WELCOME of the role

Over TLS, `binding` is the SHA-256 of both ends' certificates, client's first; else it is empty. So what one process is
told proves nothing to another, and a member in between is found out.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import time
from typing import Any

from rios.dmoe.tls import wrap
from rios.dmoe.trust import Trust
from rios.dmoe.wire import Connection, Kind, dump
from rios.words.errors import HostLost, ProtocolError, Unauthorized

_NONCE_BYTES = 16
_NONCE = re.compile(rf"[0-9a-f]{{{2 * _NONCE_BYTES}}}")


def connect(
    address: tuple[str, int],
    hello: dict[str, Any],
    *,
    timeout_s: float,
    max_bytes: int,
    trust: Trust | None = None,
) -> tuple[Connection, dict[str, Any]]:
    """Open a connection, greet, and return it with the peer's welcome.

    `hello` carries `role` and the host's `key`, which is not sent. trust: that of a secured network, whose connections
    are TLS 1.3; None for a network in clear. Raises `HostLost`, `Unauthorized` or `DeadlineExceeded`.
    """
    deadline = time.monotonic() + timeout_s
    place = f"{address[0]}:{address[1]}"
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise HostLost(f"cannot connect to {place}: {error}") from error
    try:
        wrapped = sock if trust is None else wrap(sock, trust, server=False, timeout_s=timeout_s)
    except Unauthorized as error:
        raise Unauthorized(f"{place} is not of this network: {error}") from error
    connection = Connection(wrapped, max_bytes=max_bytes)
    try:
        welcome = _greet(connection, hello, place, deadline)
    except BaseException:
        connection.close()
        raise
    wrapped.settimeout(None)
    return connection, welcome


def _greet(connection: Connection, hello: dict[str, Any], place: str, deadline: float) -> dict[str, Any]:
    """The client's side of the greeting; returns the welcome."""

    def left_s() -> float:
        return max(0.01, deadline - time.monotonic())

    def said(wanted: Kind) -> dict[str, Any]:
        try:
            frame = connection.receive(left_s())
        except Unauthorized as error:
            raise Unauthorized(f"{place} refused the connection: {error}") from error
        if frame.kind is Kind.ERROR:
            raise Unauthorized(f"{place} refused the connection: {frame.json().get('message')}")
        if frame.kind is not wanted:
            raise ProtocolError(f"{place} answered a greeting with {frame.kind.name}, not {wanted.name}")
        return frame.json()

    key = _key(hello.get("key", ""))
    nonce = secrets.token_hex(_NONCE_BYTES)
    meta = dump({name: value for name, value in hello.items() if name != "key"} | {"nonce": nonce})
    connection.send(Kind.HELLO, 0, meta, timeout_s=left_s())
    nonces = nonce + _nonce(said(Kind.CHALLENGE), place)
    proof = _proof(key, b"client", connection, nonces, meta)
    connection.send(Kind.PROOF, 0, dump({"proof": proof}), timeout_s=left_s())
    expected = _proof(key, b"host", connection, nonces, meta)
    if not _same(said(Kind.PROOF).get("proof"), expected):
        raise Unauthorized(f"{place} does not prove that it knows its key: it is not the host that was meant")
    return said(Kind.WELCOME)


def accepted(sock: socket.socket, trust: Trust | None, *, timeout_s: float, max_bytes: int) -> Connection:
    """The connection on a socket that was accepted, encrypted in a secured network. Raises as `wrap`, or OSError."""
    wrapped = sock if trust is None else wrap(sock, trust, server=True, timeout_s=timeout_s)
    return Connection(wrapped, max_bytes=max_bytes)


def accept(connection: Connection, key: str, *, timeout_s: float, max_bytes: int) -> dict[str, Any]:
    """Read the greeting of a new connection, have it proved, and prove in return that this side knows the key too.

    Raises `Unauthorized` or `ProtocolError`.
    """
    deadline = time.monotonic() + timeout_s
    frame = connection.receive(timeout_s)
    if frame.kind is not Kind.HELLO:
        raise ProtocolError(f"the first frame is {frame.kind.name}, not HELLO")
    meta, hello = bytes(frame.meta), frame.json()
    nonce = secrets.token_hex(_NONCE_BYTES)
    nonces = _nonce(hello, "a greeting") + nonce
    connection.send(Kind.CHALLENGE, 0, dump({"nonce": nonce}), timeout_s=timeout_s)
    frame = connection.receive(max(0.01, deadline - time.monotonic()))
    if frame.kind is not Kind.PROOF:
        raise ProtocolError(f"a challenge is answered by PROOF, not {frame.kind.name}")
    known = _key(key)
    if not _same(frame.json().get("proof"), _proof(known, b"client", connection, nonces, meta)):
        connection.send(Kind.ERROR, 0, dump({"error": "Unauthorized", "message": "wrong key"}), timeout_s=timeout_s)
        raise Unauthorized("a connection without this host's key")
    proof = _proof(known, b"host", connection, nonces, meta)
    connection.send(Kind.PROOF, 0, dump({"proof": proof}), timeout_s=timeout_s)
    connection.max_bytes = max_bytes
    return hello


def _proof(key: bytes, side: bytes, connection: Connection, nonces: str, meta: bytes) -> str:
    said = b"".join((b"rios 2 ", side, connection.binding, nonces.encode(), meta))
    return hmac.digest(key, said, "sha256").hex()


def _nonce(said: dict[str, Any], who: str) -> str:
    nonce = said.get("nonce")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise ProtocolError(f"{who} without a nonce of {_NONCE_BYTES} bytes")
    return nonce


def _key(key: object) -> bytes:
    return str(key).encode(errors="surrogatepass")  # a key from JSON may hold half a character


def _same(offered: object, expected: str) -> bool:
    """In a time that does not tell where they differ."""
    return hmac.compare_digest(str(offered).encode(errors="surrogatepass"), expected.encode())
