"""Hosts that do not see the checkpoint's path read it from the client, and the client serves nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.control import HostControl
from rios.dmoe.deployment import Deployment
from rios.dmoe.greeting import connect
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.offer import SourceOffer
from rios.dmoe.peer import Peer
from rios.dmoe.shard_server import ShardServer
from rios.dmoe.source import FileSource
from rios.dmoe.template import Libraries, Template
from rios.dmoe.wire import HEADER, Connection, Kind, dump, encode_header
from rios.words.config import Settings, settings
from rios.words.errors import HostLost, ShardMismatch, Unauthorized
from tests import blind, checkpoints
from tests.waiting import PATIENCE

DEADLINE_S = 60.0
PROMPTS = [[5, 6, 7, 8], [9] * 9]
PARAMS: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("olmoe", tmp_path_factory.mktemp("hidden") / "olmoe", max_shard_size="60KB")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[tuple[int, ...]]:
    with rios.local(workers=1, threads=1) as net, net.dmoe.deploy(checkpoint, progress=False) as model:
        assert ports(model) == []  # nobody needs it
        return [found.token_ids for found in model.generate(PROMPTS, **PARAMS)]


@pytest.fixture
def hidden(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers started from now on do not see the checkpoint."""
    executable, extra = blind.environment(checkpoint, tmp_path)
    monkeypatch.setattr(sys, "executable", executable)
    for name, value in extra.items():
        monkeypatch.setenv(name, value)
    made: dict[Libraries, Template] = {}

    def shared(environment: Mapping[str, str], *, libraries: Libraries = "torch", warm_s: float) -> Template:
        """One that does not see it either."""
        if libraries not in made:
            made[libraries] = Template(environment, libraries=libraries)
        return made[libraries]

    monkeypatch.setattr(Template, "shared", shared)
    yield
    for template in made.values():
        template._channel.close()
        assert template._process is not None
        template._process.kill()
        template._process.wait(60)


def ports(model: Any) -> list[Peer]:
    return list(model._deployment._shard_server._peers.values())


def tokens(model: Any) -> list[tuple[int, ...]]:
    return [found.token_ids for found in model.generate(PROMPTS, **PARAMS)]


def fetched_bytes(net: rios.Network) -> dict[str, int]:
    """By host, of all deployments there."""
    found = {}
    for name, (peer, _) in net._membership.hosts.items():
        with HostControl(peer, settings(), session="test") as control:
            found[name] = sum(stats["fetched_bytes"] for stats in control.welcome["deployments"].values())
    return found


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_hosts_fetch_what_they_do_not_see(
    checkpoint: Path, expected: list[tuple[int, ...]], hidden: None, tmp_path: Path
) -> None:
    manifest = read_manifest(checkpoint)
    with rios.local(workers=2, threads=1, home=tmp_path / "home") as net:
        with net.dmoe.deploy(checkpoint, replicas=1, progress=False) as model:
            assert tokens(model) == expected
            (peer,) = ports(model)
            assert peer.address[0] == "127.0.0.1"
            assert sum(fetched_bytes(net).values()) == manifest.total_bytes
            # The hash of a fetched shard is recorded as that of one from a file is.
            source = FileSource(checkpoint, manifest.files)
            for layer in manifest.layers:
                for expert, ranges in enumerate(layer.experts):
                    digest = hashlib.sha256(b"".join(source.read(ranges))).hexdigest()
                    assert model._deployment.pinned[layer.index, expert] == digest
        with pytest.raises(HostLost):
            connect(peer.address, {"role": "shards", "key": peer.key}, timeout_s=5, max_bytes=1 << 16)
        with net.dmoe.deploy(checkpoint, replicas=1, progress=False) as model:
            assert tokens(model) == expected
            assert sum(fetched_bytes(net).values()) == 0  # all of it is in the cache


def test_some_see_it_and_some_do_not(
    checkpoint: Path, expected: list[tuple[int, ...]], hidden: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rios.local(workers=1, threads=1) as net:
        monkeypatch.undo()
        assert net.cluster is not None
        net.cluster.add_worker("seeing")
        net.wait_for_workers(2)
        with net.dmoe.deploy(checkpoint, replicas=2, progress=False) as model:
            assert tokens(model) == expected
            found = fetched_bytes(net)
            assert found["seeing"] == 0
            manifest = model._deployment.manifest
            assert found["worker-0"] == manifest.total_bytes  # two copies and a stand-by trunk: all of it


def test_a_host_that_joins_asks_the_others_first(
    checkpoint: Path,
    expected: list[tuple[int, ...]],
    hidden: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What a host has on disk it gives to the next: the client's line is spared."""
    monkeypatch.setenv("RIOS_HOME", str(tmp_path / "first"))  # else both would share one cache
    with (
        rios.local(workers=1, threads=1) as net,
        net.dmoe.deploy(checkpoint, replicas=1, progress=False) as model,
    ):
        offer = model._deployment._shard_server._offer
        served: list[TensorRange] = []
        read = offer.read

        def count(part: TensorRange, start: int, stop: int) -> bytearray:
            served.append(part)
            found: bytearray = read(part, start, stop)
            return found

        monkeypatch.setattr(offer, "read", count)
        monkeypatch.setenv("RIOS_HOME", str(tmp_path / "second"))
        assert net.cluster is not None
        net.cluster.add_worker("later")
        net.wait_for_workers(2)
        kept = model._deployment  # whose members are replaced whole
        wait(lambda: "later" in kept.members and any(kept.members["later"].held.values()), "no use")
        wait(lambda: kept.members["later"].settled and not kept.members["worker-0"].surplus, "not settled")
        assert tokens(model) == expected
        assert fetched_bytes(net)["later"] > 0
        assert served == []


def test_the_client_is_lost_in_the_middle(
    checkpoint: Path, expected: list[tuple[int, ...]], hidden: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts give up what the lost client wanted, and serve the next one."""
    monkeypatch.setenv("RIOS_CONTROL_TIMEOUT_S", "2")
    monkeypatch.setenv("RIOS_LEASE_S", "0.5")
    with rios.local(workers=2, threads=1) as net:
        monkeypatch.undo()  # the client sees the checkpoint
        code = (
            "import rios, threading\n"
            "from rios.dmoe.offer import SourceOffer\n"
            "read, count = SourceOffer.read, [0]\n"
            "def stop_at_seven(*args):\n"
            "    count[0] += 1\n"
            "    if count[0] == 7:\n"
            "        print('reading', flush=True)\n"
            "    if count[0] >= 7:\n"
            "        threading.Event().wait(60)\n"
            "    return read(*args)\n"
            "SourceOffer.read = stop_at_seven\n"
            f"net = rios.connect({net.address!r})\n"
            f"net.dmoe.deploy({str(checkpoint)!r}, name='lost', progress=False)\n"
        )
        client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        with client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"reading\n"
            pids = {worker.name: worker.pid for worker in net.workers}
            client.kill()
        with net.dmoe.deploy(checkpoint, replicas=1, progress=False) as model:
            assert tokens(model) == expected
        wait(lambda: net.deployed() == [], "what the lost client deployed is still there")
        assert {worker.name: worker.pid for worker in net.workers} == pids
        assert {worker.reserved_bytes for worker in net.workers} == {0}


def test_closing_in_the_middle_frees_the_hosts(checkpoint: Path, hidden: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that is given up while its hosts fetch does not keep them busy until some deadline."""
    reading, release = threading.Event(), threading.Event()

    def blocked(self: SourceOffer, part: TensorRange, start: int, stop: int) -> bytearray:
        reading.set()
        release.wait(DEADLINE_S)
        raise HostLost("a test says so")

    with rios.local(workers=2, threads=1) as net, monkeypatch.context() as patched:
        patched.setattr(SourceOffer, "read", blocked)
        try:
            for timeout in (1, 5, 20):  # on a busy machine it may take long until they fetch anything
                with pytest.raises(TimeoutError, match="not deployed in time"):
                    net.dmoe.deploy(checkpoint, progress=False, timeout=timeout)
                if reading.is_set():
                    break
            assert reading.is_set()
            wait(lambda: net.deployed() == [] and not any(w.reserved_bytes for w in net.workers), "still busy")
        finally:
            release.set()


class Unsent(dict[tuple[int, int], str]):
    """Hashes that are recorded and compared, but that no host has been told: as if all read at the same moment."""

    def __contains__(self, key: object) -> bool:
        return False


@pytest.mark.parametrize("told", [True, False])
def test_two_hosts_that_read_different_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """What was read first is pinned, also for who reads at the same time and knows of no hash yet."""
    other = checkpoints.make("olmoe", tmp_path / "other", max_shard_size="60KB", seed=1)
    honest = Deployment._add

    def another(self: Deployment, peer: Peer) -> Any:
        if not told and not isinstance(self.pinned, Unsent):
            self.pinned = Unsent()
        member = honest(self, peer)
        if peer.name == "worker-1":
            member._opening = {**member._opening, "path": str(other)}
        return member

    monkeypatch.setattr(Deployment, "_add", another)
    with (
        rios.local(workers=2, threads=1) as net,
        pytest.raises(ShardMismatch, match=r"expert \d+ .*SHA-256 .*first read"),
    ):
        net.dmoe.deploy(checkpoint, replicas=2, progress=False)


# --- the server alone ---------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(checkpoint: Path) -> Manifest:
    return read_manifest(checkpoint)


@pytest.fixture
def server(checkpoint: Path, manifest: Manifest) -> Iterator[ShardServer]:
    made = ShardServer(SourceOffer(manifest, FileSource(checkpoint, manifest.files)), Settings(connect_timeout_s=5))
    yield made
    made.close()


def greet(peer: Peer, **said: Any) -> Connection:
    hello = {"role": "shards", "key": peer.key, "deployment": "d"} | said
    connection, _ = connect(peer.address, hello, timeout_s=5, max_bytes=1 << 20)
    return connection


def ask(connection: Connection, **said: Any) -> dict[str, Any]:
    connection.send(Kind.CALL, 1, dump(said), timeout_s=5)
    return connection.receive(5).json()


def check(peer: Peer, manifest: Manifest, checkpoint: Path) -> None:
    """It still serves those who may ask."""
    part = manifest.layers[1].experts[2][0]
    (content,) = FileSource(checkpoint, manifest.files).read([part])
    connection = greet(peer)
    said = ask(connection, op="digest", file=part.file, start=part.start, stop=part.stop)
    assert said == {"sha256": hashlib.sha256(content).hexdigest()}
    connection.close()


def test_only_with_the_key(server: ShardServer, manifest: Manifest, checkpoint: Path) -> None:
    peer = server.peer("127.0.0.1")
    for key in ("", peer.key[:-1], peer.key + "0", "\ud800"):
        with pytest.raises(Unauthorized):
            greet(peer, key=key)
    for role in ("control", "data", "client", None, ["shards"]):
        with pytest.raises(HostLost):
            greet(peer, role=role)
    assert peer.key not in repr(server) + repr(peer)
    check(peer, manifest, checkpoint)


def test_only_the_checkpoints_tensors(server: ShardServer, manifest: Manifest, checkpoint: Path) -> None:
    """Not the other files of the directory, not the headers, not what spans two tensors."""
    peer = server.peer("127.0.0.1")
    part = manifest.trunk[0]
    size = manifest.files[part.file]
    secret = checkpoint.parent / "secret"
    secret.write_text("x" * size)
    for file in ("config.json", "../secret", str(secret), "", ".", "model.safetensors.index.json", part.file + "\0"):
        for op in ("chunk", "digest"):
            connection = greet(peer)
            assert ask(connection, op=op, file=file, start=part.start, stop=part.stop)["error"] == "CheckpointCorrupt"
            connection.close()
    for start, stop in ((0, 8), (-8, 8), (part.start - 1, part.stop), (part.start, part.stop + 1), (size, size + 1)):
        connection = greet(peer)
        assert ask(connection, op="chunk", file=part.file, start=start, stop=stop)["error"] == "CheckpointCorrupt"
        connection.close()
    check(peer, manifest, checkpoint)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        bytes(HEADER.size),
        encode_header(Kind.HELLO, 0, b"", [bytes(1 << 17)]),
        encode_header(Kind.EXEC, 0, b"", []),
    ],
    ids=("http", "zeros", "long", "kind"),
)
def test_bytes_that_are_no_greeting(server: ShardServer, manifest: Manifest, checkpoint: Path, sent: bytes) -> None:
    peer = server.peer("127.0.0.1")
    with socket.create_connection(peer.address, timeout=10) as sock:
        sock.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    check(peer, manifest, checkpoint)


def test_frames_after_the_greeting(server: ShardServer, manifest: Manifest, checkpoint: Path) -> None:
    peer = server.peer("127.0.0.1")
    for kind, meta, body in (
        (Kind.EXEC, b"", b""),
        (Kind.CALL, b"not JSON", b""),
        (Kind.CALL, b"[" * 60_000, b""),
        (Kind.CALL, b"{}", bytes(1 << 17)),
    ):
        connection = greet(peer)
        with contextlib.suppress(HostLost):  # it may hang up before all has been sent
            connection.send(kind, 1, meta, [body], timeout_s=5)
        with pytest.raises(HostLost):
            connection.receive(10)
    check(peer, manifest, checkpoint)


def test_it_listens_where_it_is_told_and_closes(server: ShardServer) -> None:
    first, again, second = (server.peer(address) for address in ("127.0.0.1", "127.0.0.1", "127.0.0.2"))
    assert first == again
    assert second.address[0] == "127.0.0.2"
    with pytest.raises(HostLost, match=r"cannot offer shards at 203\.0\.113\.1"):
        server.peer("203.0.113.1")
    connection = greet(first)
    threads = list(server._threads)
    server.close()
    with pytest.raises(HostLost):
        connection.receive(10)
    for peer in (first, second):
        with pytest.raises(HostLost):
            greet(peer)
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(HostLost, match="closed"):
        server.peer("127.0.0.1")
