"""Frames through shared memory, between two processes and with everything that may be wrong about a segment."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.dmoe.shm import Segment, supported
from rios.dmoe.wire import HEADER, MAGIC, VERSION, Connection, Kind
from rios.words.errors import HostLost, ProtocolError
from tests.waiting import until

AREA_BYTES = 1 << 16
TIMEOUT_S = 20.0

Ends = tuple[Segment, Segment, Connection, Connection]

ECHO = """
import socket, sys
from rios.dmoe.shm import Segment
from rios.dmoe.wire import Connection, Kind

pid, fd, area, nonce, sock, spin = sys.argv[1:]
connection = Connection(socket.socket(fileno=int(sock)), max_bytes=1 << 20)
segment = Segment.open(int(pid), int(fd), int(area), nonce)
connection.send(Kind.ANSWER, int(segment is not None))
while True:
    frame = segment.receive(connection, float(spin))
    if frame.kind is Kind.CANCEL:
        break
    segment.write(connection, Kind.RESULT, frame.seq, frame.meta, [bytes(frame.body)[::-1]])
"""


def descriptors() -> set[tuple[str, str]]:
    """Numbers and what they are of; without the one of this listing."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add((one.name, str(one.readlink())))
    return found


def unchanged(before: set[tuple[str, str]]) -> bool:
    """Whether there is none that was not; those of threads of other tests may still go."""
    return not descriptors() - before


def test_it_is_used_here() -> None:
    assert supported == (platform.machine() == "x86_64" and sys.platform == "linux")


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A trunk's and a host's side in this process, each with its socket."""
    left, right = socket.socketpair()
    trunk, nonce = Segment.create(AREA_BYTES)
    host = Segment.open(os.getpid(), trunk.fd, AREA_BYTES, nonce)
    assert host is not None
    connections = Connection(left, max_bytes=1 << 20), Connection(right, max_bytes=1 << 20)
    yield trunk, host, *connections
    for end in (trunk, host, *connections):
        end.close()


@pytest.mark.parametrize("spin_s", ["0", "0.005"])
def test_two_processes(spin_s: str) -> None:
    """Answers come back through memory, with the other side polling or asleep."""
    left, right = socket.socketpair()
    segment, nonce = Segment.create(AREA_BYTES)
    arguments = [os.getpid(), segment.fd, AREA_BYTES, nonce, right.fileno(), spin_s]
    command = [sys.executable, "-c", ECHO, *map(str, arguments)]
    connection = Connection(left, max_bytes=1 << 20)
    with subprocess.Popen(command, pass_fds=[right.fileno()]) as process:
        right.close()
        try:
            assert connection.receive(TIMEOUT_S).seq == 1
            for seq in range(1, 200):
                body = os.urandom(seq * 50)
                segment.write(connection, Kind.EXEC, seq, b"%d" % seq, [body[:seq], body[seq:]])
                frame = segment.receive(connection, 0.0 if seq % 2 else 0.001)
                assert (frame.kind, frame.seq, frame.meta) == (Kind.RESULT, seq, b"%d" % seq)
                assert bytes(frame.body) == body[::-1]
            segment.write(connection, Kind.CANCEL, 0, b"", ())
            assert process.wait(TIMEOUT_S) == 0
            # The peer's end shows on the socket, also to one who waits for memory.
            with pytest.raises(HostLost):
                segment.receive(connection, 0.0)
        finally:
            process.kill()
            connection.close()
            segment.close()


def test_who_sleeps_is_rung(ends: Ends) -> None:
    trunk, host, to_host, to_trunk = ends
    trunk.write(to_host, Kind.EXEC, 1, b"", [b"one"])
    assert not to_trunk.readable(0)  # a host that polls is not rung
    assert bytes(host.receive(to_trunk, 1.0).body) == b"one"
    host.sleeps(True)
    trunk.write(to_host, Kind.EXEC, 2, b"", [b"two"])
    assert to_trunk.receive(TIMEOUT_S).kind is Kind.RING
    assert host.arrived()
    frame = host.poll()
    assert frame is not None
    assert bytes(frame.body) == b"two"
    assert host.poll() is None


def test_a_sleeper_wakes(ends: Ends) -> None:
    trunk, host, to_host, to_trunk = ends
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(bytes(host.receive(to_trunk, 0.0).body)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    trunk.write(to_host, Kind.EXEC, 1, b"", [b"awake"])
    thread.join(TIMEOUT_S)
    assert found == [b"awake"]


def test_frames_of_the_socket_come_through_too(ends: Ends) -> None:
    _, host, to_host, to_trunk = ends
    to_host.send(Kind.EXEC, 9, b"meta", [b"too long for the area"])
    frame = host.receive(to_trunk, 0.001)
    assert (frame.seq, bytes(frame.body)) == (9, b"too long for the area")


def test_what_fits(ends: Ends) -> None:
    trunk, _, _, _ = ends
    assert trunk.fits(AREA_BYTES - HEADER.size)
    assert not trunk.fits(AREA_BYTES - HEADER.size + 1)


def test_who_does_not_know_the_nonce_gets_nothing() -> None:
    segment, nonce = Segment.create(AREA_BYTES)
    pid, fd = os.getpid(), segment.fd
    before = descriptors()
    wrong = ("0" if nonce[0] != "0" else "1") + nonce[1:]
    assert Segment.open(pid, fd, AREA_BYTES, wrong) is None
    assert Segment.open(pid, fd, AREA_BYTES, "") is None
    for area_bytes in (AREA_BYTES + 4096, AREA_BYTES - 1, 1, 0, -24, -(1 << 60), 1 << 60):
        assert Segment.open(pid, fd, area_bytes, nonce) is None
    assert Segment.open(pid, 10_000_000, AREA_BYTES, nonce) is None
    assert Segment.open(-1, fd, AREA_BYTES, nonce) is None
    until(lambda: unchanged(before), "that nothing is left", deadline_s=10)
    segment.close()


def test_no_other_file_is_taken_for_a_segment(tmp_path: Path) -> None:
    """Not a pipe, a socket or a file, however it begins: what can shrink would kill whoever looks."""
    nonce = bytes(16)
    path = tmp_path / "segment"
    path.write_bytes(nonce + bytes(48 + 2 * AREA_BYTES))
    read, write = os.pipe()
    left, right = socket.socketpair()
    unsealed = os.memfd_create("unsealed")
    os.ftruncate(unsealed, 64 + 2 * AREA_BYTES)
    before = descriptors()
    with path.open("rb+") as file:
        for fd in (file.fileno(), read, write, left.fileno(), unsealed):
            assert Segment.open(os.getpid(), fd, AREA_BYTES, nonce.hex()) is None
    until(lambda: unchanged(before), "that nothing is left", deadline_s=10)
    for fd in (read, write, unsealed):
        os.close(fd)
    left.close()
    right.close()


def test_a_segment_cannot_shrink(ends: Ends) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ends[0].fd, 64)


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(b"NOPE", VERSION, Kind.EXEC, 0, 1, 0, 0, 1),
        HEADER.pack(MAGIC, VERSION, 99, 0, 1, 0, 0, 1),
        HEADER.pack(MAGIC, VERSION, Kind.EXEC, 0, 1, 0, AREA_BYTES, 1),
        HEADER.pack(MAGIC, VERSION, Kind.EXEC, 0, 1, AREA_BYTES, 0, 1),
        HEADER.pack(MAGIC, VERSION, Kind.EXEC, 0, 1, 0, 2**64 - 1, 1),
        HEADER.pack(MAGIC, VERSION, Kind.EXEC, 0, 1, 0, 0, 2),
    ],
)
def test_a_torn_or_lying_header_is_refused(ends: Ends, header: bytes) -> None:
    trunk, host, _, to_trunk = ends
    with mmap.mmap(trunk.fd, 64 + 2 * AREA_BYTES) as memory:
        memory[64 : 64 + HEADER.size] = header
        memory[16:24] = (1).to_bytes(8, "little")
    with pytest.raises(ProtocolError):
        host.receive(to_trunk, 0.01)


def test_nothing_is_left_behind() -> None:
    before = descriptors()
    for _ in range(50):
        segment, nonce = Segment.create(AREA_BYTES)
        host = Segment.open(os.getpid(), segment.fd, AREA_BYTES, nonce)
        assert host is not None
        segment.close()
        segment.close()
        host.close()
        del segment, host  # the mapping goes with the last view of it
    until(lambda: unchanged(before), "that nothing is left", deadline_s=10)
