"""Greetings: both ends prove the key, nobody says it, and a proof is worth nothing anywhere else."""

from __future__ import annotations

import hashlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.dmoe import greeting
from rios.dmoe.authority import Authority
from rios.dmoe.greeting import accept, accepted, connect
from rios.dmoe.trust import Trust
from rios.dmoe.wire import HEADER, Connection, Kind, dump, encode_header
from rios.words.errors import DeadlineExceeded, HostLost, ProtocolError, Unauthorized
from tests.recording import recorded

MAX_BYTES = 1 << 20
KEY = "correct horse battery staple"
TIMEOUT_S = 30.0


def frame_bytes(kind: Kind, seq: int = 0, meta: bytes = b"") -> bytes:
    return encode_header(kind, seq, meta, []) + meta


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        yield server


def serve(listener: socket.socket, outcome: list[object]) -> threading.Thread:
    """Accept one connection in a thread and note what came of it."""

    def run() -> None:
        connection = Connection(listener.accept()[0], max_bytes=1000)
        try:
            outcome.append(accept(connection, KEY, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES))
            outcome.append(connection.max_bytes)
            connection.send(Kind.WELCOME, 0, dump({"said": "hello"}))
            connection.receive(TIMEOUT_S)
        except (HostLost, ProtocolError) as error:
            outcome.append(error)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_right_key_is_let_in(listener: socket.socket) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    hello = {"key": KEY, "role": "data"}
    connection, welcome = connect(listener.getsockname(), hello, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    assert welcome == {"said": "hello"}
    connection.close()
    thread.join(TIMEOUT_S)
    assert outcome[1] == MAX_BYTES
    assert isinstance(outcome[0], dict)
    assert set(outcome[0]) == {"role", "nonce"}
    assert outcome[0]["role"] == "data"


@pytest.mark.parametrize("key", ["", "wrong", KEY[:-1], KEY + " ", None, 17, [KEY], "\u00e9\u4e2d", "\ud800"])
def test_a_wrong_key_is_refused_and_not_logged(
    listener: socket.socket, key: object, caplog: pytest.LogCaptureFixture
) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthorized, match="wrong key") as refused:
        connect(listener.getsockname(), {"key": key, "role": "data"}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    thread.join(TIMEOUT_S)
    (error,) = outcome
    assert isinstance(error, Unauthorized)
    for text in (str(error), str(refused.value), caplog.text):
        assert KEY not in text
        assert not (isinstance(key, str) and len(key) > 5 and key in text)


def test_nothing_but_a_greeting_comes_first(listener: socket.socket) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    with socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as sock:
        sock.sendall(frame_bytes(Kind.EXEC, 1))
        assert sock.recv(1) == b""
    thread.join(TIMEOUT_S)
    assert "the first frame is EXEC, not HELLO" in str(outcome[0])


def test_the_greeting_has_a_smaller_bound(listener: socket.socket) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    with pytest.raises(HostLost):
        connect(listener.getsockname(), {"key": KEY, "role": "x" * 2000}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    thread.join(TIMEOUT_S)
    assert "the bound is 1000" in str(outcome[0])


def test_a_silent_listener_is_given_up(listener: socket.socket) -> None:
    with pytest.raises(DeadlineExceeded):
        connect(listener.getsockname(), {}, timeout_s=0.1, max_bytes=MAX_BYTES)


def test_nobody_there() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # held, so that it is nobody else's meanwhile
        address = silent.getsockname()
        with pytest.raises(HostLost, match=f"cannot connect to {address[0]}:{address[1]}"):
            connect(address, {}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)


@pytest.mark.parametrize("nonce", [None, "", "0" * 31, "0" * 33, "G" * 32, 5, [], "\ud800"])
def test_a_greeting_needs_a_nonce(listener: socket.socket, nonce: object) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    with socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as sock:
        sock.sendall(frame_bytes(Kind.HELLO, 0, dump({"role": "data", "nonce": nonce})))
        assert sock.recv(1) == b""
    thread.join(TIMEOUT_S)
    assert "without a nonce" in str(outcome[0])


def test_the_key_never_crosses(listener: socket.socket) -> None:
    for key in (KEY, KEY[:-1]):
        thread = serve(listener, [])
        with recorded(listener.getsockname()) as recorder:
            hello = {"key": key, "role": "data"}
            try:
                connect(recorder.address, hello, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)[0].close()
            except Unauthorized:
                assert key != KEY
            thread.join(TIMEOUT_S)
            assert b'"role":"data"' in recorder.seen  # what crosses is seen
            assert key.encode() not in recorder.seen


def test_what_was_heard_opens_nothing(listener: socket.socket) -> None:
    """Whoever recorded a greeting sends the same bytes again."""
    outcome: list[object] = []
    thread = serve(listener, outcome)
    sent = bytearray()
    original = Connection.send

    def send(self: Connection, kind: Kind, seq: int = 0, meta: Any = b"", bodies: Any = (), **more: Any) -> None:
        if kind in (Kind.HELLO, Kind.PROOF) and (kind is Kind.HELLO or not sent.count(b"proof")):
            sent.extend(encode_header(kind, seq, meta, bodies) + bytes(meta))
        original(self, kind, seq, meta, bodies, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Connection, "send", send)
        connect(listener.getsockname(), {"key": KEY, "role": "data"}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)[
            0
        ].close()
        thread.join(TIMEOUT_S)
    assert isinstance(outcome[0], dict)
    outcome.clear()
    thread = serve(listener, outcome)
    with socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as sock:
        sock.sendall(bytes(sent))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
    thread.join(TIMEOUT_S)
    assert isinstance(outcome[0], Unauthorized)


def impostor(listener: socket.socket, answer: Callable[[dict[str, Any], bytes], dict[str, Any]]) -> threading.Thread:
    """A process that took the port of a host and does not know its key; `answer` makes its proof."""

    def run() -> None:
        connection = Connection(listener.accept()[0], max_bytes=1000)
        hello = connection.receive(TIMEOUT_S)
        connection.send(Kind.CHALLENGE, 0, dump({"nonce": "0" * 32}))
        theirs = connection.receive(TIMEOUT_S).json()
        connection.send(Kind.PROOF, 0, dump(answer(theirs, bytes(hello.meta))))
        connection.send(Kind.WELCOME, 0, dump({"said": "hello"}))
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        lambda theirs, hello: {},
        lambda theirs, hello: theirs,  # reflected
        lambda theirs, hello: {"proof": "0" * 64},
        lambda theirs, hello: {"proof": hmac.new(b"guess", b"rios 2 host" + hello, hashlib.sha256).hexdigest()},
    ],
)
def test_a_host_that_does_not_know_its_key_is_found_out(
    listener: socket.socket, answer: Callable[[dict[str, Any], bytes], dict[str, Any]]
) -> None:
    thread = impostor(listener, answer)
    with pytest.raises(Unauthorized, match="not the host that was meant"):
        connect(listener.getsockname(), {"key": KEY, "role": "data"}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    thread.join(TIMEOUT_S)


def test_a_greeting_of_the_first_version_is_refused_before_its_key_is_read(listener: socket.socket) -> None:
    outcome: list[object] = []
    thread = serve(listener, outcome)
    old = bytearray(frame_bytes(Kind.HELLO, 0, dump({"role": "data", "key": KEY})))
    old[4] = 1
    with socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as sock:
        sock.sendall(old)
        assert sock.recv(1) == b""
    thread.join(TIMEOUT_S)
    assert "frame of version 1, this side speaks 2" in str(outcome[0])
    assert len(old) > HEADER.size


def test_proofs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(greeting.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert not greeting._same("x", "x")
    assert compared == [(b"x", b"x")]


def test_a_member_in_between_is_found_out(listener: socket.socket, tmp_path: Path) -> None:
    """It holds a certificate of the network, decrypts, and hands every frame on: the proofs do not fit its own ends."""
    authority = Authority.made(tmp_path)
    host, middle, client = (Trust(authority.host(name)) for name in ("host", "middle", "client"))
    between = socket.create_server(("127.0.0.1", 0))
    outcome: list[object] = []

    def serve_host() -> None:
        connection = accepted(listener.accept()[0], host, timeout_s=TIMEOUT_S, max_bytes=1000)
        try:
            outcome.append(accept(connection, KEY, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES))
        except (HostLost, ProtocolError) as error:
            outcome.append(error)
        connection.close()

    def relay() -> None:
        near = accepted(between.accept()[0], middle, timeout_s=TIMEOUT_S, max_bytes=1000)
        sock = socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S)
        far = Connection(greeting.wrap(sock, middle, server=False, timeout_s=TIMEOUT_S), max_bytes=1000)
        for source, sink in ((near, far), (far, near), (near, far), (far, near)):
            frame = source.receive(TIMEOUT_S)
            sink.send(frame.kind, frame.seq, bytes(frame.meta))
        near.close()
        far.close()

    threads = [threading.Thread(target=target) for target in (serve_host, relay)]
    for thread in threads:
        thread.start()
    hello = {"key": KEY, "role": "data"}
    with pytest.raises(Unauthorized):
        connect(between.getsockname(), hello, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES, trust=client)
    for thread in threads:
        thread.join(TIMEOUT_S)
    between.close()
    assert isinstance(outcome[0], Unauthorized)
