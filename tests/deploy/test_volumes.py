"""Volumes keep their data and their bounds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.runtimes.protocol import Mount
from rios.deploy.volumes import Volumes
from rios.words.errors import InvalidRequest
from tests.deploy.conftest import Bench
from tests.words.test_foreign import dig

MIB = 1 << 20


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


@pytest.fixture
def path(tmp_path: Path, volumes: Volumes) -> Iterator[Path]:
    place = tmp_path / "volumes" / "data"
    yield place
    volumes.remove(place)
    assert not list(place.parent.iterdir())


def _fill(path: Path, size: int) -> int:
    """The bytes that found room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(0, size, 64 << 10):
            file.write(bytes(64 << 10))
    return path.stat().st_size


@pytest.mark.needs("root")
def test_a_quota_is_held_by_the_kernel(volumes: Volumes, path: Path) -> None:
    assert volumes.enforced
    volumes.ensure(path, 8 * MIB)
    assert 5 * MIB < _fill(path / "big", 20 * MIB) <= 8 * MIB
    usage = volumes.usage(path)
    assert usage.size_bytes == 8 * MIB
    assert usage.used_bytes > 5 * MIB
    volumes.ensure(path, 16 * MIB)
    assert (path / "big").stat().st_size > 5 * MIB, "growing keeps what is there"
    assert _fill(path / "more", 20 * MIB) > 5 * MIB
    volumes.ensure(path, 8 * MIB)
    assert volumes.usage(path).size_bytes == 16 * MIB, "nothing shrinks"


@pytest.mark.needs("root")
def test_it_is_there_again_after_a_restart_of_the_host(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 4 * MIB)
    (path / "kept").write_text("kept")
    volumes.release(path)
    assert not (path / "kept").exists()
    Volumes().ensure(path, 4 * MIB)
    assert (path / "kept").read_text() == "kept"


def test_snapshots(volumes: Volumes, path: Path, tmp_path: Path) -> None:
    volumes.ensure(path, 4 * MIB)
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text("first")
    (path / "link").symlink_to("/etc/passwd")
    archive = volumes.snapshot(path, tmp_path / "snapshot.tar")
    (path / "inner" / "file").write_text("second")
    (path / "later").write_text("later")
    volumes.restore(archive, path)
    assert (path / "inner" / "file").read_text() == "first"
    assert not (path / "later").exists()
    assert (path / "link").is_symlink()
    (path / "writable").write_text("again")


def test_without_root_it_is_a_directory_that_is_watched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    volumes = Volumes()
    assert not volumes.enforced
    volumes.ensure(path, 4 * MIB)
    _fill(path / "big", 6 * MIB)
    assert volumes.usage(path).used_bytes >= 6 * MIB
    with pytest.raises(InvalidRequest, match="too small"):
        volumes.ensure(path, 1000)
    with pytest.raises(InvalidRequest, match="no volume"):
        volumes.usage(path / "nowhere")


@pytest.mark.parametrize("root", [True, False])
def test_what_lies_thousands_deep_is_counted_and_goes_away(
    volumes: Volumes, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    if not root:
        monkeypatch.setattr(os, "getuid", lambda: 1000)
    volumes.ensure(path, 64 * MIB)
    archive = volumes.snapshot(path, tmp_path / "empty.tar")
    before = volumes.usage(path).used_bytes
    dig(path)
    assert volumes.usage(path).used_bytes - before > 3 * MIB
    volumes.restore(archive, path)
    assert volumes.usage(path).used_bytes - before < MIB
    dig(path)
    volumes.remove(path)
    assert not path.exists()


def test_applications_fill_their_volume_and_no_more(bench: Bench, volumes: Volumes, sandbox_directory: Path) -> None:
    place = sandbox_directory / f"quota-{bench.name}"
    volumes.ensure(place, 4 * MIB)
    try:
        command = "dd if=/dev/zero of=/data/big bs=65536 count=400 2>/dev/null; wc -c < /data/big"
        status, said = bench.run("sh", "-c", command, mounts=(Mount(source=place, path="/data"),))
        assert status.exit_code == 0
        assert 1 * MIB < int(said) <= 4 * MIB
        bench.runtime.remove(status.instance)
    finally:
        volumes.remove(place)
