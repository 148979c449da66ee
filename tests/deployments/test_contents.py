"""A host's store of chunks: each once, verified, bounded, and gone with the last snapshot that consists of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from rios.deploy.runtimes.protocol import Isolation, Status
from rios.deploy.volumes import Volumes
from rios.services.deployments import agent_verbs
from rios.services.deployments.contents import Content, Contents
from rios.services.deployments.host_snapshots import HostSnapshots
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.remote_snapshots import RemoteSnapshots
from rios.words.errors import InvalidRequest, NetworkClosed, NotFound, SandboxFailed
from tests.deployments.test_adopting import Engine
from tests.deployments.test_agents import order
from tests.waiting import until

MIB = 1 << 20
FIRST = random.Random(1).randbytes(6 * MIB)
LIKE = FIRST[: 5 * MIB] + random.Random(2).randbytes(MIB)
OTHER = random.Random(3).randbytes(2 * MIB)


def _anybody(_app_id: str) -> contextlib.AbstractContextManager[None]:
    """Nobody deletes the deployment."""
    return contextlib.nullcontext()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return Contents(tmp_path / "content", 64 * MIB, name="here", network_id="net")


def _add(contents: Contents, data: bytes, app: str, name: str) -> str:
    digest = contents.add(io.BytesIO(data))
    assert contents.keep(app, name, digest) == []
    return digest


def _stored(contents: Contents) -> int:
    return sum(path.stat().st_size for path in contents._chunks.iterdir())


def test_each_chunk_lies_there_once_and_goes_with_the_last_that_needs_it(contents: Contents) -> None:
    assert contents.kept("a", "one") is None
    contents.forget("a")
    first = _add(contents, FIRST, "a", "one")
    assert b"".join(contents.read(first)) == FIRST
    alone = _stored(contents)
    assert len(FIRST) < alone < len(FIRST) + 10_000
    like = _add(contents, LIKE, "a", "two")
    both = _stored(contents)
    assert both < alone + 4 * MIB, "what they share is there once"
    assert _add(contents, FIRST, "b", "three") == first
    assert _stored(contents) == both
    contents.drop("a", "one")
    assert b"".join(contents.read(first)) == FIRST
    contents.forget("b")
    with pytest.raises(SandboxFailed, match="no object"):
        list(contents.read(first))
    assert b"".join(contents.read(like)) == LIKE
    contents.drop("a", "two")
    contents.drop("a", "two")
    assert _stored(contents) == 0


def test_another_host_is_given_what_it_lacks_and_trusts_nobody(contents: Contents, tmp_path: Path) -> None:
    digest = _add(contents, FIRST, "a", "one")
    other = Contents(tmp_path / "other", 64 * MIB, name="there", network_id="net")
    rounds = 0
    while missing := other.keep("a", "one", digest):
        rounds += 1
        assert (other.kept("a", "one"), rounds <= 5) == (None, True)
        for name in missing:
            with pytest.raises(InvalidRequest, match="not what has"):
                other.put(name, contents.get(name) + b"x")
            other.put(name, contents.get(name))
        if rounds == 2:  # nothing is kept yet: all of it is swept, and asked for again
            other.sweep()
    assert rounds == 4
    other.sweep()
    assert b"".join(other.read(digest)) == FIRST
    for wrong in ("../lock", "x", "0" * 63 + "/"):
        with pytest.raises(NotFound):
            other.get(wrong)
        with pytest.raises(InvalidRequest, match="is no SHA-256: that has 64 hexadecimal digits"):
            other.keep("a", "one", wrong)


def test_what_is_swept_is_not_what_is_being_written(contents: Contents, tmp_path: Path) -> None:
    class Swept(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            Contents(tmp_path / "content", MIB, name="another process", network_id="net").sweep()
            return super().read(size)

    digest = contents.add(Swept(FIRST))
    assert contents.missing(digest) == []
    contents.sweep()
    assert contents.missing(digest) == [digest]


def test_a_damaged_chunk_counts_as_none_and_is_written_anew(contents: Contents) -> None:
    digest = _add(contents, FIRST, "a", "one")
    chunk = Content.of(contents.get(digest)).chunks[1][0]
    path = contents._chunks / chunk
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    assert not contents.is_whole(digest)
    assert contents.missing(digest) == [chunk]
    assert contents.add(io.BytesIO(FIRST)) == digest
    assert contents.is_whole(digest)


def test_nothing_is_removed_while_nobody_knows_what_a_snapshot_consists_of(contents: Contents) -> None:
    digest = _add(contents, FIRST, "a", "one")
    other = [contents._chunks / name for name, _ in Content.of(contents.get(_add(contents, OTHER, "b", "two"))).chunks]
    chunks = [contents._chunks / name for name, _ in Content.of(contents.get(digest)).chunks]
    content = (contents._chunks / digest).read_bytes()
    (contents._chunks / digest).write_bytes(b"damaged")
    contents.drop("b", "two")
    assert all(chunk.exists() for chunk in chunks)
    contents.put(digest, content)
    assert contents.is_whole(digest), "another host gave it back"
    assert all(chunk.exists() for chunk in other)
    assert contents.keep("a", "one", digest) == []
    assert not any(chunk.exists() for chunk in other), "what was to go before goes now"
    (contents._directory / "kept" / "a" / ".one.0123").touch()  # who wrote it was killed
    contents.drop("a", "one")
    assert _stored(contents) == 0


def test_there_is_no_more_than_the_host_gives(tmp_path: Path) -> None:
    contents = Contents(tmp_path, 7 * MIB, name="small", network_id="net")
    digest = _add(contents, FIRST, "a", "one")
    with pytest.raises(SandboxFailed, match=r"host small keeps up to 7340032 bytes .*RIOS_APPS_SNAPSHOT_BYTES"):
        contents.add(io.BytesIO(OTHER))
    contents.sweep()
    assert contents.add(io.BytesIO(FIRST)) == digest, "what is there takes no more room"
    contents.drop("a", "one")
    _add(contents, OTHER, "a", "two")


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"[]", b"{}", b'{"size":1,"chunks":[["x",1]]}', b'{"size":-1,"chunks":[]}', b"\xff",
        Content(2, ((sha256(b""), 1),)).to_bytes(), Content(0, ((sha256(b""), 0),)).to_bytes(),
        Content(1 << 23, ((sha256(b""), 1 << 23),)).to_bytes(), b'{"size":1,"chunks":7}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: bytes, contents: Contents) -> None:
    with pytest.raises(InvalidRequest):
        Content.of(wrong)
    contents.put(sha256(wrong), wrong)
    with pytest.raises(InvalidRequest):
        contents.keep("a", "one", sha256(wrong))


def test_without_root_a_deployment_is_paused_for_a_snapshot(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    running: list[Any] = ["replica"]
    host = HostSnapshots("h", contents, Volumes(), tmp_path.joinpath, runs=lambda _: bool(running), making=_anybody)
    with pytest.raises(NotFound, match="no volume at x"):
        host.take("o", "a", "x", "one")
    place = tmp_path / "o" / "a" / "x"
    place.mkdir(parents=True)
    (place / "file").write_text("kept")
    with pytest.raises(InvalidRequest, match="pause the deployment"):
        host.take("o", "a", "x", "one")
    running.clear()
    taken = host.take("o", "a", "x", "one")
    (place / "file").write_text("later")
    assert host.take("o", "a", "x", "one") == taken, "it is taken once"
    real = contents.add

    def add(stream: Any) -> str:
        with host.starting("a"):  # a replica that has ended again when all is read
            return real(stream)

    monkeypatch.setattr(contents, "add", add)
    with pytest.raises(SandboxFailed, match="was resumed on host h while x was read"):
        host.take("o", "a", "x", "two")
    monkeypatch.setattr(contents, "add", real)
    assert host.take("o", "a", "x", "two").digest != taken.digest
    assert host.restore("o", "b", "y", size_bytes=MIB, digest=taken.digest) == []
    (tmp_path / "o" / "b" / "y" / "file").write_text("its own")
    assert host.restore("o", "b", "y", size_bytes=MIB, digest="0" * 64) == [], "what is there stays"
    assert host.restore("o", "c", "y", size_bytes=MIB, digest="0" * 64) == ["0" * 64]
    assert not host.is_made("o", "c", "y")
    running.append("replica")
    with pytest.raises(InvalidRequest, match="a replica of b runs on host h"):
        host.unmake("o", "b", "y")
    running.clear()
    host.unmake("o", "b", "y")
    host.unmake("o", "b", "y")
    assert not host.is_made("o", "b", "y")


def test_a_start_is_told_to_who_reads_what_is_not_frozen(tmp_path: Path) -> None:
    class Starts(Engine):
        name = "bubblewrap"

        def start(self, launch: Any) -> Status:
            begun.append(dict(snapshots._begun))
            raise SandboxFailed("it does not start")

    begun: list[dict[str, int]] = []
    made: Any = {Starts(): Isolation.PROCESS}
    host = LocalHost("h", tmp_path, lambda _: made, {"bubblewrap": Isolation.PROCESS}, network_id="net")
    assert host.snapshots is not None
    snapshots = host.snapshots
    with pytest.raises(SandboxFailed, match="does not start"):
        host.start(order("r-1", "true"))
    assert snapshots._begun.keys() == begun[0].keys() == {"app-1"}
    assert snapshots._begun != begun[0], "its end, too"
    snapshots.forget("app-1")
    assert not snapshots._begun


def test_what_nobody_waits_for_any_more_is_broken_off(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    reading = [0]

    @contextlib.contextmanager
    def never(*_: Any, **__: Any) -> Iterator[BinaryIO]:
        out, into = os.pipe()
        reading[0] += 1
        try:
            with os.fdopen(out, "rb") as stream:
                yield stream
        finally:
            os.close(into)
            reading[0] -= 1

    (tmp_path / "o" / "a" / "x").mkdir(parents=True)
    host = HostSnapshots("h", contents, Volumes(), tmp_path.joinpath, runs=lambda _: False, making=_anybody)
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads:
        patch.setattr(Volumes, "archived", never)
        takes = [threads.submit(host.take, "o", "a", "x", name) for name in ("one", "two")]
        until(lambda: reading == [1], "one is read, the other waits for its turn", deadline_s=60)

        def all_ended() -> bool:
            host.give_up()
            return all(one.done() for one in takes)

        until(all_ended, deadline_s=60)
        for one in takes:
            with pytest.raises(NetworkClosed, match="host h was told that nobody waits for this: ask again"):
                one.result()
        assert reading == [0]
    taken = host.take("o", "a", "x", "one")

    def unpacked(_: Any, __: Path, ___: int, archive: Iterator[bytes]) -> None:
        for _ in archive:
            host.give_up()

    monkeypatch.setattr(Volumes, "restored", unpacked)
    digest = _add(contents, FIRST, "a", "large")
    with pytest.raises(NetworkClosed):
        host.restore("o", "b", "y", size_bytes=MIB, digest=digest)
    host.leave()
    with pytest.raises(NetworkClosed):
        host.take("o", "a", "x", "one")
    assert contents.kept("a", "one") == taken.digest


def test_networks_that_share_a_directory_see_each_its_own(tmp_path: Path) -> None:
    hosts = [LocalHost("h", tmp_path, lambda _: {}, {}, network_id=name) for name in ("net-a", "net-b")]
    first, second = (host.snapshots for host in hosts)
    assert first is not None
    assert second is not None
    data = Content(len(OTHER), ((sha256(OTHER), len(OTHER)),)).to_bytes()
    for one in (OTHER, data):
        first.put(sha256(one), one)
    assert first.keep("app-1", "snap-1", sha256(data)) == []
    assert (first.kept(), second.kept()) == ([("app-1", "snap-1")], []), "it is no stray of the other one"
    assert second.keep("app-2", "snap-2", sha256(data)) == [], "what is there already is there for all"
    assert second.kept() == [("app-2", "snap-2")]
    second.drop("app-2", "snap-2")
    assert first.damaged([sha256(data), sha256(OTHER)]) == [], "what it consists of stays"
    (kept,) = tmp_path.glob("content/kept/*/*")
    kept.write_text(sha256(data))  # as it was written before networks were told apart: who knows it drops it
    assert first.kept() == second.kept() == []
    assert first.damaged([sha256(data), sha256(OTHER)]) == []
    first.drop("app-1", "snap-1")
    assert first.damaged([sha256(data)]) == [sha256(data)]


def test_what_is_read_first_is_damaged_no_longer(contents: Contents, tmp_path: Path) -> None:
    digest = _add(contents, FIRST, "a", "one")
    damaged = Content.of(contents.get(digest)).chunks[1:3]
    for name, size in damaged:
        (contents._chunks / name).write_bytes(bytes(size))
    host = HostSnapshots("h", contents, Volumes(), tmp_path.joinpath, runs=lambda _: False, making=_anybody)
    assert host.keep("a", "one", digest) == []
    names = [name for name, _ in Content.of(contents.get(digest)).chunks]
    assert host.damaged([digest, *names, "0" * 64]) == [*[name for name, _ in damaged], "0" * 64]
    assert host.keep("a", "one", digest) == [name for name, _ in damaged]
    with pytest.raises(InvalidRequest, match="is no SHA-256"):
        host.damaged(["../lock"])
    with pytest.raises(InvalidRequest, match="65 objects are too many to be read at once: 64 are the most"):
        host.damaged([digest] * 65)
    (contents._chunks / damaged[0][0]).mkdir()  # as what a disk does not give just now: nobody says that it is gone
    with pytest.raises(SandboxFailed, match=f"host here cannot read its object {damaged[0][0]}"):
        host.damaged([damaged[0][0]])


@pytest.mark.parametrize("asked", [["0" * 64] * 257, ["0" * 63], ["0" * 63 + "G"], ["0" * 64, 7], "0" * 64])
def test_an_agent_asks_for_chunks_and_not_for_too_many(asked: Any) -> None:
    remote = RemoteSnapshots(lambda *_: ({"missing": asked}, memoryview(b"")))
    with pytest.raises(SandboxFailed, match="its agent asks for"):
        remote.keep("a", "one", "0" * 64)
    with pytest.raises(SandboxFailed, match="its agent asks for"):
        remote.restore("o", "a", "x", size_bytes=MIB, digest="0" * 64)
    with pytest.raises(SandboxFailed, match="its agent asks for"):
        remote.damaged(["0" * 64])


@pytest.mark.parametrize("path", ["", "/", "//", "..", "/..", "data", "/data/", "/a/../b", "/a\0"])
def test_an_agent_takes_no_path_that_leads_elsewhere(path: str) -> None:
    with pytest.raises(InvalidRequest, match="is no place of a volume"):
        agent_verbs._volume({"organisation": "org-1", "app": "app-1", "path": path})
    assert agent_verbs._volume({"organisation": "org-1", "app": "app-1", "path": "/a/b"}) == ("org-1", "app-1", "/a/b")
