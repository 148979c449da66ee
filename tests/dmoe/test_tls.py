"""Encrypted connections: frames of any size from several threads at once, and nothing of them on the wire in clear."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rios
from rios.dmoe.authority import Authority
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.control import HostControl
from rios.dmoe.fetch import PeerSource
from rios.dmoe.greeting import accepted
from rios.dmoe.offer import SourceOffer
from rios.dmoe.peer import Peer
from rios.dmoe.shard_server import ShardServer
from rios.dmoe.source import FileSource
from rios.dmoe.tls import wrap
from rios.dmoe.trust import Trust
from rios.dmoe.wire import Connection, Kind
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, HostLost, ProtocolError
from tests.hosting import DEADLINE_S, KEY, Client, Hosting
from tests.recording import Recorder, recorded

TIMEOUT_S = 20.0
MAX_BYTES = 1 << 26
DEMO = Path(rios.__file__).parent / "demo" / "model"
PROMPT = list(range(300, 364))


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority.made(tmp_path_factory.mktemp("tls")).host("member").ca.parent


@pytest.fixture
def ends(member: Path) -> Iterator[tuple[Connection, Connection, socket.socket]]:
    """Both ends of an encrypted connection, and the bare socket of the first."""
    trust = Trust(Authority(member.parents[1]).host("both"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        made: list[Connection] = []
        thread = threading.Thread(
            target=lambda: made.append(accepted(listener.accept()[0], trust, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES))
        )
        thread.start()
        client = Connection(wrap(near, trust, server=False, timeout_s=TIMEOUT_S), max_bytes=MAX_BYTES)
        thread.join(TIMEOUT_S)
    yield client, made[0], near
    client.close()
    made[0].close()


@pytest.mark.parametrize("size", [0, 1, (1 << 14) - 32, (1 << 14) - 31, 100_000, 5 << 20])
def test_frames_of_every_size(ends: tuple[Connection, Connection, socket.socket], size: int) -> None:
    left, right, _ = ends
    body = random.Random(size).randbytes(size)
    thread = threading.Thread(target=lambda: left.send(Kind.EXEC, 1 << 40, b"meta", [body, body], timeout_s=TIMEOUT_S))
    thread.start()
    frame = right.receive(TIMEOUT_S)
    thread.join(TIMEOUT_S)
    assert (frame.seq, bytes(frame.meta), bytes(frame.body)) == (1 << 40, b"meta", body + body)
    assert not right.readable(0)
    assert not right.pending()


def test_many_threads_write_while_others_read(ends: tuple[Connection, Connection, socket.socket]) -> None:
    """In both directions at once, as heartbeats, tokens and requests of one connection do."""
    each, writers = 60, 3
    bodies = {seq: random.Random(seq).randbytes(seq * 997 % 60_000) for seq in range(writers * each)}
    errors: list[BaseException] = []

    def write(connection: Connection, first: int) -> None:
        for seq in range(first, first + each):
            connection.send(Kind.RESULT, seq, b"", [bodies[seq]], timeout_s=TIMEOUT_S)

    def read(connection: Connection) -> None:
        try:
            seen = {}
            for _ in range(writers * each):
                frame = connection.receive(TIMEOUT_S)
                seen[frame.seq] = bytes(frame.body)
            assert seen == bodies
        except (AssertionError, HostLost, ProtocolError, DeadlineExceeded) as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(end,)) for end in ends[:2]]
    threads += [threading.Thread(target=write, args=(end, k * each)) for end in ends[:2] for k in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not errors, errors


def test_half_a_record_is_waited_for_until_the_deadline(ends: tuple[Connection, Connection, socket.socket]) -> None:
    _, right, bare = ends
    bare.sendall(b"\x17\x03\x03\x40\x00" + bytes(100))
    with pytest.raises(DeadlineExceeded):
        right.receive(0.3)


def test_changed_bytes_end_the_connection(ends: tuple[Connection, Connection, socket.socket]) -> None:
    _, right, bare = ends
    bare.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))  # a record that nobody authenticated
    with pytest.raises((ProtocolError, HostLost)):
        right.receive(TIMEOUT_S)
    assert right.closed


def through(recorder: Recorder, settings: Settings) -> Hosting:
    """A host with a trunk and no experts, which asks for them by the recorder."""
    other = Hosting(settings, name="trunk")
    manifest = read_manifest(DEMO)
    other.control.call(
        "open", deployment="model", dtype=manifest.dtype, path=str(DEMO), body=manifest.to_json().encode()
    )
    other.control.call("trunk", deployment="model", options={"kv_bytes": 1 << 26})
    held = {str(layer.index): list(range(layer.num_experts)) for layer in manifest.layers}
    peer = Peer("host", recorder.address, KEY, "elsewhere")
    other.control.call("route", deployment="model", peers=[peer.to_dict()], held={"host": held})
    return other


@pytest.mark.parametrize("secured", [True, False])
def test_nothing_that_passes_is_in_clear(member: Path, secured: bool) -> None:
    """Prompt, rows between trunk and host, shards and keys; without TLS the same are seen, but for the keys."""
    settings = Settings(
        tls=member if secured else None, shared_memory=False, connect_timeout_s=20, call_timeout_s=20, hedge_floor_s=10
    )
    manifest = read_manifest(DEMO)
    made = Hosting(settings)
    try:
        made.deploy(DEMO, trunk=False)
        with recorded(made.peer.address) as rows:
            other = through(rows, settings)
            with recorded(other.peer.address) as prompts:
                near = other.peer
                other.peer = Peer(near.name, prompts.address, KEY, near.machine)
                with Client(other) as client:
                    answer = client.submit(PROMPT, tokens=4).result(DEADLINE_S)
                assert len(answer.token_ids) == 4
                with HostControl(other.peer, settings, session="seen") as control:
                    assert control.call("info")["name"] == "trunk"
            other.close()
        server = ShardServer(SourceOffer(manifest, FileSource(DEMO, manifest.files)), settings)
        owner = server.peer("127.0.0.1")
        part = manifest.layers[0].experts[0][0]
        with recorded(owner.address) as shards:
            source = PeerSource(manifest, "model", [Peer("owner", shards.address, owner.key, "")], settings)
            (weights,) = source.read([part])
            source.close()
        server.close()
    finally:
        made.close()
    prompt = np.array(PROMPT, dtype="<i4").tobytes()
    assert (prompt in prompts.seen) is not secured
    assert (bytes(weights[:4096]) in shards.seen) is not secured
    assert len(shards.seen) > part.nbytes  # they did pass here
    assert (b"RIOS\x02" in rows.seen) is not secured
    assert len(rows.seen) > 64 * manifest.hidden_size * 4  # and so did the rows of the prompt
    assert (b'"deployment"' in prompts.seen + rows.seen + shards.seen) is not secured
    for key in (f'"{KEY}"'.encode(), owner.key.encode()):
        assert key not in prompts.seen + rows.seen + shards.seen
