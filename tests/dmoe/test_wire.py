"""Frames: what goes in comes out, and what is not a frame closes one connection and nothing else."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe import wire
from rios.dmoe.wire import HEADER, MAGIC, Connection, Frame, Kind, decode_header, encode_header
from rios.words.errors import DeadlineExceeded, HostLost, ProtocolError

MAX_BYTES = 1 << 20
TIMEOUT_S = 10.0


def frame_bytes(kind: Kind, seq: int = 0, meta: bytes = b"", body: bytes = b"", flags: int = 0) -> bytes:
    return encode_header(kind, seq, meta, [body], flags) + meta + body


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, max_bytes=MAX_BYTES)
    yield connection, theirs
    connection.close()
    theirs.close()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(Kind),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=200),
    st.lists(st.binary(max_size=2000), max_size=4),
)
def test_round_trip(kind: Kind, seq: int, flags: int, meta: bytes, bodies: list[bytes]) -> None:
    left, right = socket.socketpair()
    sender, receiver = Connection(left, max_bytes=MAX_BYTES), Connection(right, max_bytes=MAX_BYTES)
    try:
        sender.send(kind, seq, meta, bodies, flags=flags, timeout_s=TIMEOUT_S)
        frame = receiver.receive(TIMEOUT_S)
        assert (frame.kind, frame.seq, frame.flags) == (kind, seq, flags)
        assert (bytes(frame.meta), bytes(frame.body)) == (meta, b"".join(bodies))
        assert not receiver.readable(0)
    finally:
        sender.close()
        receiver.close()


def test_frames_longer_than_the_sockets_buffer(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    other = Connection(theirs, max_bytes=1 << 25)
    body = bytes(range(256)) * (1 << 15)
    sender = threading.Thread(target=connection.send, args=(Kind.EXEC, 7, b"{}", [body[:100], body[100:]]))
    sender.start()
    frame = other.receive(TIMEOUT_S)
    sender.join(TIMEOUT_S)
    assert bytes(frame.body) == body
    assert not frame.body.readonly


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (HEADER.pack(b"HTTP", wire.VERSION, Kind.EXEC, 0, 0, 0, 0, 0), "not a rios frame"),
        (HEADER.pack(MAGIC, wire.VERSION + 1, Kind.EXEC, 0, 0, 0, 0, 0), "version"),
        (HEADER.pack(MAGIC, wire.VERSION, 0, 0, 0, 0, 0, 0), "unknown frame kind 0"),
        (HEADER.pack(MAGIC, wire.VERSION, 255, 0, 0, 0, 0, 0), "unknown frame kind 255"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, MAX_BYTES + 1, 0, 0), "the bound is"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 0, MAX_BYTES + 1, 0), "the bound is"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 1, MAX_BYTES, 0), "the bound is"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 0, 2**64 - 1, 0), "the bound is"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 0, 0, 1), "checksum"),
        (HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 1, 1, zlib.crc32(b"ab")) + b"ax", "checksum"),
    ],
)
def test_what_is_not_a_frame_closes_its_connection(
    pair: tuple[Connection, socket.socket], header: bytes, says: str
) -> None:
    connection, theirs = pair
    theirs.sendall(header)
    with pytest.raises(ProtocolError, match=says):
        connection.receive(TIMEOUT_S)
    assert connection.closed
    theirs.settimeout(TIMEOUT_S)
    assert theirs.recv(1) == b""


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_changed_frame_is_refused_or_has_other_numbers(data: st.DataObject) -> None:
    """No change of meta or body goes unnoticed; a changed seq or flag is the caller's to judge."""
    meta, body = b'{"a":1}', b"0123456789"
    whole = bytearray(frame_bytes(Kind.EXEC, 5, meta, body))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    left, right = socket.socketpair()
    connection = Connection(right, max_bytes=MAX_BYTES)
    try:
        left.sendall(whole)
        left.close()
        frame = connection.receive(TIMEOUT_S)
    except (ProtocolError, HostLost):
        assert connection.closed
    else:
        assert (bytes(frame.meta), bytes(frame.body)) == (meta, body)
        assert (frame.kind, frame.flags, frame.seq) != (Kind.EXEC, 0, 5)
    finally:
        connection.close()


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_a_protocol_error(data: bytes) -> None:
    try:
        header = decode_header(data, max_bytes=100)
    except ProtocolError:
        return
    assert header.meta_bytes + header.body_bytes <= 100


def test_a_truncated_frame_is_a_lost_peer(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(frame_bytes(Kind.EXEC, 0, b"meta", b"body")[:-1])
    theirs.close()
    with pytest.raises(HostLost, match="closed the connection"):
        connection.receive(TIMEOUT_S)
    assert connection.closed


@pytest.mark.parametrize("sent", [b"", b"RIOS", frame_bytes(Kind.EXEC, 0, b"", b"12345678")[:-1]])
def test_a_deadline_holds_at_every_place_of_a_frame(pair: tuple[Connection, socket.socket], sent: bytes) -> None:
    connection, theirs = pair
    theirs.sendall(sent)
    with pytest.raises(DeadlineExceeded):
        connection.receive(0.05)
    assert connection.closed


def test_a_deadline_is_for_the_whole_frame(pair: tuple[Connection, socket.socket]) -> None:
    """A byte now and then does not prolong it."""
    connection, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        for byte in frame_bytes(Kind.EXEC, 0, b"", bytes(10_000)):
            if stop.wait(0.02):
                return
            theirs.sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(DeadlineExceeded):
            connection.receive(0.3)
    finally:
        stop.set()
        thread.join(TIMEOUT_S)


def test_a_frame_is_polled_for_until_it_comes_and_not_for_ever(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    began = time.perf_counter()
    connection.expect(0.05)
    assert time.perf_counter() - began >= 0.05
    assert not connection.readable(0)
    later = threading.Timer(0.05, theirs.sendall, [frame_bytes(Kind.CALL, 3)])
    later.start()
    began = time.perf_counter()
    connection.expect(TIMEOUT_S)
    assert time.perf_counter() - began < TIMEOUT_S
    assert connection.readable(0)
    later.join()
    assert connection.receive(TIMEOUT_S).seq == 3
    theirs.close()
    connection.expect(TIMEOUT_S)
    assert time.perf_counter() - began < TIMEOUT_S, "its end is expected, too"
    with pytest.raises(HostLost):
        connection.receive(TIMEOUT_S)


def test_a_peer_that_does_not_read_is_lost(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    with pytest.raises(HostLost, match="sending a RESULT frame failed"):
        connection.send(Kind.RESULT, 0, b"", [bytes(1 << 24)], timeout_s=0.05)
    assert connection.closed


def test_an_announced_length_takes_no_memory() -> None:
    """Gibibytes are announced by thirty-two bytes each; what has not arrived is not there."""
    ends = [socket.socketpair() for _ in range(4)]
    connections = [Connection(right, max_bytes=1 << 30) for _, right in ends]

    def read(connection: Connection) -> None:
        with pytest.raises(HostLost):
            connection.receive()

    threads = [threading.Thread(target=read, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for left, _ in ends:
        left.sendall(HEADER.pack(MAGIC, wire.VERSION, Kind.EXEC, 0, 0, 0, 1 << 30, 0) + bytes(1000))
    time.sleep(0.2)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for left, _ in ends:
        left.close()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert resident < 3 << 30


@pytest.mark.parametrize(
    "meta", [b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe\xff", b"[" * 50_000, b'{"a":' * 50_000, b"1" * 5000]
)
def test_meta_that_is_no_object(meta: bytes) -> None:
    with pytest.raises(ProtocolError, match="CALL frame 3: meta is not"):
        Frame(Kind.CALL, 3, meta, memoryview(b"")).json()


def test_no_meta_is_an_empty_object() -> None:
    assert Frame(Kind.CALL, 3, b"", memoryview(b"")).json() == {}


# --- greetings ---------------------------------------------------------------------------------------------------


def test_a_header_has_thirty_two_bytes() -> None:
    assert HEADER.size == 32
    with pytest.raises(struct.error):
        HEADER.pack(MAGIC, 1, 1, 0, 2**64, 0, 0, 0)
