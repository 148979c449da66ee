"""Shards over the network: in chunks, verified, resumed, from whoever has them, and kept under a quota."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rios.dmoe import fetch
from rios.dmoe.fetch import KeptOffer, PeerSource
from rios.dmoe.greeting import accept, connect
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.offer import CHUNK_BYTES_MAX, Offer, SourceOffer, serve_shards
from rios.dmoe.peer import Peer
from rios.dmoe.source import FileSource
from rios.dmoe.wire import Buffer, Connection, Kind, dump
from rios.words.config import Settings
from rios.words.errors import CheckpointCorrupt, HostLost, RiosError, ShardMismatch

KEY = "key"
SIZE = 10_000
CHUNK = 1000
CONTENT = random.Random(1).randbytes(SIZE)
PART = TensorRange("weights.bin", "a", 100, 5600, "F32", (1375,))
OTHER = random.Random(2).randbytes(SIZE)
REST = TensorRange("weights.bin", "b", 5600, 6600, "F32", (250,))
MANIFEST = Manifest("m", "C", {}, "float32", 4, 4, 4, (), (PART,), {"weights.bin": SIZE})
TWO = replace(MANIFEST, trunk=(PART, REST))

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

    offer: Offer
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
            serve_shards(connection, self.offer)
        except RiosError:
            connection.close()

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for connection in self.connections:
            connection.close()
        self.thread.join(10)


def files(root: Path, manifest: Manifest = MANIFEST) -> Offer:
    return SourceOffer(manifest, FileSource(root, {"weights.bin": SIZE}))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    servers: list[Server] = []

    def start(spoil: Spoil = lambda _, body: body, offer: Offer | None = None) -> Server:
        servers.append(Server(offer or files(tmp_path), spoil))
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

    def make(options: Settings, *servers: Server, manifest: Manifest = MANIFEST) -> PeerSource:
        made.append(PeerSource(manifest, "d", [server.peer for server in servers], options))
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
    again = source(options, server)
    assert again.read([PART]) == [WANTED]
    assert again.fetched_bytes == 0
    (path,) = cached(options)
    assert path.read_bytes() == WANTED
    assert path.name == hashlib.sha256(WANTED).hexdigest()


def test_a_broken_fetch_goes_on_where_it_stopped(serve: Serve, source: Source, options: Settings) -> None:
    broken = serve(lambda number, body: body if number <= 3 else None)
    # Every connection gives three chunks, so the second goes on from the third.
    first = source(options, broken)
    assert first.read([PART]) == [WANTED]
    assert first.fetched_bytes == len(WANTED)
    assert broken.asked == 2


def test_another_process_goes_on_too(
    serve: Serve, source: Source, options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = [0]

    def three(_: int, body: bytes) -> bytes | None:
        total[0] += 1
        return body if total[0] <= 3 else None

    broken = serve(three)
    with monkeypatch.context() as patched:
        # No time passes before it breaks off, and more than enough then.
        patched.setattr(fetch, "time", SimpleNamespace(monotonic=lambda: 1e6 if total[0] > 3 else 0.0))
        with pytest.raises(CheckpointCorrupt, match=r"weights.bin bytes 3100..4100 .*RIOS_CONTROL_TIMEOUT_S"):
            source(options, broken).read([PART])
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
        short = options.model_copy(update={"control_timeout_s": 8.0})
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
    for damage in (b"", WANTED[:-1], WANTED[:-1] + b"x", WANTED + b"x", b"x" * 9999):
        path.write_bytes(damage)
        assert source(options, server).read([PART]) == [WANTED]
        assert path.read_bytes() == WANTED


@pytest.mark.parametrize("left", [bytes(6000), bytes(3000), bytes(5500)])
def test_a_partial_file_of_other_bytes(serve: Serve, source: Source, options: Settings, left: bytes) -> None:
    server = serve()
    source(options, server).read([PART])
    (path,) = cached(options)
    path.unlink()
    path.with_suffix(".part").write_bytes(left)
    assert source(options, server).read([PART]) == [WANTED]
    assert [found.read_bytes() for found in cached(options)] == [WANTED]


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
    parts = [TensorRange("weights.bin", "a", start, start + 1000, "F32", (250,)) for start in range(0, 6000, 1000)]
    manifest = replace(MANIFEST, trunk=tuple(parts))
    root = options.home.parent if options.home else Path()
    server = serve(offer=files(root, manifest))
    for number, part in enumerate(parts):
        assert source(small, server).read([part]) == [CONTENT[part.start : part.stop]]
        for path in cached(small):
            if path.stat().st_mtime > len(parts):  # as old as its turn: what was fetched first goes first
                os.utime(path, (number, number))
        assert sum(path.stat().st_size for path in cached(small)) <= 3500
    kept = source(small, server)
    assert kept.read(parts[-2:]) == [CONTENT[4000:5000], CONTENT[5000:6000]]
    assert kept.fetched_bytes == 0
    assert kept.read(parts[:1]) == [CONTENT[:1000]]
    assert kept.fetched_bytes == 1000


def greet(server: Server) -> Connection:
    connection, _ = connect(
        server.peer.address, {"role": "shards", "key": KEY}, timeout_s=10, max_bytes=CHUNK_BYTES_MAX
    )
    return connection


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "chunk", "file": "../weights.bin", "start": 200, "stop": 210},
        {"op": "chunk", "file": "/etc/passwd", "start": 200, "stop": 210},
        {"op": "chunk", "file": "", "start": 200, "stop": 210},
        {"op": "chunk", "file": "weights.bin", "start": -5, "stop": 5},
        {"op": "chunk", "file": "weights.bin", "start": 0, "stop": 10},
        {"op": "chunk", "file": "weights.bin", "start": 95, "stop": 105},
        {"op": "chunk", "file": "weights.bin", "start": 5590, "stop": 5610},
        {"op": "chunk", "file": "weights.bin", "start": SIZE - 5, "stop": SIZE + 5},
        {"op": "digest", "file": "weights.bin", "start": 0, "stop": SIZE},
        {"op": "digest", "file": "weights.bin", "start": 100, "stop": 200},
    ],
)
def test_nothing_but_the_checkpoint_is_served(serve: Serve, request_: dict[str, object]) -> None:
    connection = greet(serve())
    connection.send(Kind.CALL, 1, dump(request_))
    answer = connection.receive(10)
    assert answer.json()["error"] == "CheckpointCorrupt"
    assert not len(answer.body)
    connection.send(Kind.CALL, 2, dump({"op": "chunk", "file": "weights.bin", "start": 100, "stop": 110}))
    assert bytes(connection.receive(10).body) == CONTENT[100:110]
    connection.close()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"file": "weights.bin", "start": 100, "stop": 110},
        {"op": "write", "file": "weights.bin", "start": 100, "stop": 110},
        {"op": ["chunk"], "file": "weights.bin", "start": 100, "stop": 110},
        {"op": "chunk", "file": "weights.bin", "start": "x", "stop": 110},
        {"op": "chunk", "file": "weights.bin", "start": 100, "stop": float("inf")},
        {"op": "chunk", "file": "weights.bin", "start": 100, "stop": 100},
        {"op": "chunk", "file": "weights.bin", "start": 110, "stop": 100},
        {"op": "chunk", "file": "weights.bin", "start": 0, "stop": CHUNK_BYTES_MAX + 1},
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


def test_another_checkpoint_of_the_same_layout(serve: Serve, source: Source, options: Settings, tmp_path: Path) -> None:
    """Two states of one training have equal manifests: what is kept of one is not taken for the other."""
    later = tmp_path / "later"
    later.mkdir()
    (later / "weights.bin").write_bytes(OTHER)
    assert source(options, serve()).read([PART]) == [WANTED]
    second = source(options, serve(offer=files(later)))
    assert second.read([PART]) == [OTHER[PART.start : PART.stop]]
    assert second.fetched_bytes == len(WANTED)
    assert sorted(path.read_bytes() for path in cached(options)) == sorted([WANTED, OTHER[PART.start : PART.stop]])


def test_a_peer_with_other_bytes_is_not_believed(
    serve: Serve, source: Source, options: Settings, tmp_path: Path
) -> None:
    """Each of its chunks is what it says, but together they are not the range that was asked for."""
    later = tmp_path / "later"
    later.mkdir()
    (later / "weights.bin").write_bytes(OTHER)
    found = source(options, serve(offer=files(later)), serve())
    assert found.read([PART]) == [WANTED]
    assert found.fetched_bytes == 2 * len(WANTED)
    assert [path.read_bytes() for path in cached(options)] == [WANTED]


def test_the_first_read_is_what_it_is_from_then_on(
    serve: Serve, source: Source, options: Settings, tmp_path: Path
) -> None:
    bare = options.model_copy(update={"home": None})
    server = serve()
    assert source(bare, server).read([PART]) == [WANTED]
    (tmp_path / "weights.bin").write_bytes(OTHER)
    with pytest.raises(ShardMismatch, match=rf"weights.bin: a .* {hashlib.sha256(WANTED).hexdigest()} .*changed"):
        source(bare, server).read([PART])


def test_hosts_give_each_other_what_they_have(serve: Serve, source: Source, options: Settings) -> None:
    given = [0, 0]

    def count(place: int) -> Spoil:
        def spoil(_: int, body: bytes) -> bytes:
            given[place] += len(body)
            return body

        return spoil

    client = serve(count(0), offer=files(options.home.parent if options.home else Path(), TWO))
    first = source(options, client, manifest=TWO)
    assert first.read([PART]) == [WANTED]
    host = serve(count(1), offer=KeptOffer(first))
    elsewhere = options.model_copy(update={"home": options.home / "elsewhere" if options.home else None})
    second = source(elsewhere, host, client, manifest=TWO)
    assert second.read([PART, REST]) == [WANTED, CONTENT[REST.start : REST.stop]]
    assert given == [len(WANTED) + REST.nbytes, len(WANTED)]
    client.close()
    # The host alone: what it has it also knows the SHA-256 of, and says at once what it has not.
    third = source(options.model_copy(update={"home": options.home / "third" if options.home else None}), host)
    assert third.read([PART]) == [WANTED]
    with pytest.raises(CheckpointCorrupt, match="b is not here"):
        third.read([REST])


def test_a_digest_is_never_a_path(
    serve: Serve, source: Source, options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar(SourceOffer):
        def digest(self, part: TensorRange) -> str:
            return "../../" + "0" * 58

    # Each look at the clock is half of the deadline later.
    monkeypatch.setattr(fetch, "time", SimpleNamespace(monotonic=itertools.count(0.0, 10.0).__next__))
    with pytest.raises(CheckpointCorrupt, match="is not a SHA-256"):
        source(options, serve(offer=Liar(MANIFEST, FileSource(Path(), {})))).read([PART])
    assert not (options.home or Path()).exists()


def test_close_ends_a_fetch(serve: Serve, source: Source, options: Settings) -> None:
    asked, release = threading.Event(), threading.Event()

    def silent(_: int, body: bytes) -> bytes:
        asked.set()
        release.wait(60)
        return body

    found = source(options, serve(silent))
    errors: list[BaseException] = []

    def read() -> None:
        try:
            found.read([PART])
        except HostLost as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert asked.wait(10)
        found.close()
        reader.join(10)
        assert not reader.is_alive()
        assert "was closed" in str(errors[0])
    finally:
        release.set()
