"""Shards over the network: in chunks, verified, resumed, from whoever has them, and kept under a quota."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rios.dmoe import fetch
from rios.dmoe.checkpoint import FileSource
from rios.dmoe.fetch import PeerSource, serve_shards
from rios.dmoe.link import Peer
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.wire import Buffer, Connection, Kind, accept, connect, dump
from rios.words.config import Settings
from rios.words.errors import CheckpointCorrupt, HostLost, RiosError

KEY = "key"
SIZE = 10_000
CHUNK = 1000
CONTENT = random.Random(1).randbytes(SIZE)
PART = TensorRange("weights.bin", "a", 100, 5600, "F32", (1375,))
MANIFEST = Manifest("m", "C", {}, "float32", 4, 4, 4, (), (PART,), {"weights.bin": SIZE})

Spoil = Callable[[int, bytes], bytes | None]


class Spoiled(Connection):
    """A connection whose answers a test may change: `spoil(number, body)`, None hangs up."""

    spoil: Spoil
    answers = 0

    def send(
        self,
        kind: Kind,
        seq: int = 0,
        meta: Buffer = b"",
        bodies: object = (),
        *,
        flags: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        parts: list[bytes] = [bytes(body) for body in bodies]  # type: ignore[attr-defined]
        if kind is Kind.ANSWER and parts:
            self.answers += 1
            changed = self.spoil(self.answers, parts[0])
            if changed is None:
                self.close()
                raise HostLost("a test hangs up")
            parts = [changed]
        super().send(kind, seq, meta, parts, flags=flags, timeout_s=timeout_s)


@dataclass
class Server:
    """A peer that serves shards from a directory."""

    root: Path
    spoil: Spoil = lambda _, body: body
    asked: int = 0
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def peer(self) -> Peer:
        port = self.port
        return Peer(f"peer-{port}", ("127.0.0.1", port), KEY, "elsewhere")

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.asked += 1
            connection = Spoiled(sock, max_bytes=1 << 16)
            connection.spoil = self.spoil
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            accept(connection, KEY, timeout_s=10, max_bytes=1 << 16)
            serve_shards(connection, FileSource(self.root, {"weights.bin": SIZE}))
        except RiosError:
            connection.close()

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for connection in self.connections:
            connection.close()
        self.thread.join(10)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    servers: list[Server] = []

    def start(spoil: Spoil = lambda _, body: body) -> Server:
        servers.append(Server(tmp_path, spoil))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def options(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home", chunk_bytes=CHUNK, reconnect_s=0.01, control_timeout_s=20, connect_timeout_s=5
    )


@pytest.fixture
def source() -> Iterator[Callable[..., PeerSource]]:
    made: list[PeerSource] = []

    def make(options: Settings, *servers: Server) -> PeerSource:
        made.append(PeerSource(MANIFEST, "d", [server.peer for server in servers], options))
        return made[-1]

    yield make
    for each in made:
        each.close()


Serve = Callable[..., Server]
Source = Callable[..., PeerSource]


def cached(options: Settings) -> list[Path]:
    assert options.home is not None
    return sorted((options.home / "shards").iterdir())


WANTED = CONTENT[PART.start : PART.stop]


def test_in_chunks_and_from_the_cache(serve: Serve, source: Source, options: Settings) -> None:
    sizes: list[int] = []

    def note(_: int, body: bytes) -> bytes:
        sizes.append(len(body))
        return body

    server = serve(note)
    first = source(options, server)
    assert first.read([PART, PART]) == [WANTED, WANTED]
    assert sizes == [1000, 1000, 1000, 1000, 1000, 500]
    assert first.fetched_bytes == len(WANTED)
    again = source(options)  # nobody to ask
    assert again.read([PART]) == [WANTED]
    assert again.fetched_bytes == 0
    (path,) = cached(options)
    assert path.read_bytes() == hashlib.sha256(WANTED).digest() + WANTED


def test_a_broken_fetch_goes_on_where_it_stopped(serve: Serve, source: Source, options: Settings) -> None:
    broken = serve(lambda number, body: body if number <= 3 else None)
    short = options.model_copy(update={"control_timeout_s": 0.2})
    # Every connection gives three chunks, so the second goes on from the third.
    first = source(short, broken)
    assert first.read([PART]) == [WANTED]
    assert first.fetched_bytes == len(WANTED)
    assert broken.asked == 2


def test_another_process_goes_on_too(serve: Serve, source: Source, options: Settings) -> None:
    total = [0]

    def three(_: int, body: bytes) -> bytes | None:
        total[0] += 1
        return body if total[0] <= 3 else None

    broken = serve(three)
    with pytest.raises(CheckpointCorrupt, match=r"weights.bin bytes 3100..4100 .*RIOS_CONTROL_TIMEOUT_S"):
        source(options.model_copy(update={"control_timeout_s": 0.3}), broken).read([PART])
    assert [path.suffix for path in cached(options)] == [".part"]
    second = source(options, serve())
    assert second.read([PART]) == [WANTED]
    assert second.fetched_bytes == len(WANTED) - 3000
    assert [path.suffix for path in cached(options)] == [""]


def test_a_corrupted_chunk_is_refused_and_the_next_peer_tried(serve: Serve, source: Source, options: Settings) -> None:
    liar = serve(lambda number, body: body if number != 3 else body[:-1] + bytes([body[-1] ^ 1]))
    honest = serve()
    found = source(options, liar, honest)
    assert found.read([PART]) == [WANTED]
    assert (liar.asked, honest.asked) == (1, 1)
    assert found.fetched_bytes == len(WANTED)


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"x", lambda body: b""])
def test_a_chunk_of_another_length(
    serve: Serve, source: Source, options: Settings, change: Callable[[bytes], bytes]
) -> None:
    liar = serve(lambda _, body: change(body))
    assert source(options, liar, serve()).read([PART]) == [WANTED]


def test_a_dead_and_a_silent_peer_leave_time_for_the_next(serve: Serve, source: Source, options: Settings) -> None:
    dead = serve()
    dead.close()
    release = threading.Event()

    def silent(_: int, body: bytes) -> bytes:
        release.wait(60)
        return body

    quiet = serve(silent)
    try:
        short = options.model_copy(update={"control_timeout_s": 2.0})
        assert source(short, dead, quiet, serve()).read([PART]) == [WANTED]
    finally:
        release.set()


def test_nobody_to_ask(source: Source, options: Settings) -> None:
    with pytest.raises(CheckpointCorrupt, match="no peer serves its shards"):
        source(options).read([PART])


def test_a_damaged_cache_is_fetched_again(serve: Serve, source: Source, options: Settings) -> None:
    server = serve()
    source(options, server).read([PART])
    (path,) = cached(options)
    for damage in (b"", path.read_bytes()[:-1], bytes(32) + WANTED, b"x" * 9999):
        path.write_bytes(damage)
        assert source(options, server).read([PART]) == [WANTED]
        assert path.read_bytes()[32:] == WANTED


def test_a_partial_file_that_is_too_long(serve: Serve, source: Source, options: Settings) -> None:
    server = serve()
    source(options, server).read([PART])
    (path,) = cached(options)
    path.unlink()
    path.with_suffix(".part").write_bytes(bytes(6000))
    assert source(options, server).read([PART]) == [WANTED]


def test_who_fetches_at_the_same_time_does_without_the_cache(serve: Serve, source: Source, options: Settings) -> None:
    server = serve()
    source(options, server).read([PART])
    (path,) = cached(options)
    path.unlink()
    with path.with_suffix(".part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half a chunk of another process")
        other.flush()
        assert source(options, server).read([PART]) == [WANTED]
    assert not path.exists()


def test_no_room_for_a_cache(serve: Serve, source: Source, options: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    blocked = options.model_copy(update={"home": tmp_path / "file"})
    found = source(blocked, serve())
    assert found.read([PART]) == [WANTED]
    assert found.fetched_bytes == len(WANTED)


def test_the_cache_keeps_its_quota(serve: Serve, source: Source, options: Settings) -> None:
    small = options.model_copy(update={"cache_bytes": 3500})
    server = serve()
    parts = [TensorRange("weights.bin", "a", start, start + 1000, "F32", (250,)) for start in range(0, 6000, 1000)]
    for number, part in enumerate(parts):
        assert source(small, server).read([part]) == [CONTENT[part.start : part.stop]]
        for path in cached(small):
            if path.stat().st_mtime > len(parts):  # as old as its turn: what was fetched first goes first
                os.utime(path, (number, number))
        assert sum(path.stat().st_size for path in cached(small)) <= 3500
    kept = source(small)
    assert kept.read(parts[-2:]) == [CONTENT[4000:5000], CONTENT[5000:6000]]
    with pytest.raises(CheckpointCorrupt):
        source(small).read(parts[:1])


def greet(server: Server) -> Connection:
    connection, _ = connect(
        server.peer.address, {"role": "shards", "key": KEY}, timeout_s=10, max_bytes=fetch._MAX_CHUNK_BYTES
    )
    return connection


@pytest.mark.parametrize(
    "request_",
    [
        {"file": "../weights.bin", "key": "a", "start": 0, "stop": 10},
        {"file": "/etc/passwd", "key": "a", "start": 0, "stop": 10},
        {"file": "", "key": "a", "start": 0, "stop": 10},
        {"file": "weights.bin", "key": "a", "start": -5, "stop": 5},
        {"file": "weights.bin", "key": "a", "start": SIZE - 5, "stop": SIZE + 5},
    ],
)
def test_nothing_but_the_checkpoint_is_served(serve: Serve, request_: dict[str, object]) -> None:
    connection = greet(serve())
    connection.send(Kind.CALL, 1, dump(request_))
    answer = connection.receive(10)
    assert answer.json()["error"] == "CheckpointCorrupt"
    assert not len(answer.body)
    connection.send(Kind.CALL, 2, dump({"file": "weights.bin", "key": "a", "start": 0, "stop": 10}))
    assert bytes(connection.receive(10).body) == CONTENT[:10]
    connection.close()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"file": "weights.bin", "key": "a", "start": "x", "stop": 10},
        {"file": "weights.bin", "key": "a", "start": 0, "stop": float("inf")},
        {"file": "weights.bin", "key": "a", "start": 0, "stop": 0},
        {"file": "weights.bin", "key": "a", "start": 10, "stop": 0},
        {"file": "weights.bin", "key": "a", "start": 0, "stop": (1 << 24) + 1},
    ],
)
def test_a_request_that_makes_no_sense_ends_its_connection(serve: Serve, request_: dict[str, object]) -> None:
    server = serve()
    connection = greet(server)
    connection.send(Kind.CALL, 1, dump(request_))
    with pytest.raises(HostLost):
        connection.receive(10)
    other = greet(server)
    other.send(Kind.EXEC, 1)
    with pytest.raises(HostLost):
        other.receive(10)
