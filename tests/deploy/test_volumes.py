"""Volumes keep their data and their bounds."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.runtimes.protocol import Mount
from rios.deploy.volumes import Volumes
from rios.words.errors import InvalidRequest, SandboxFailed
from tests.deploy.conftest import Bench
from tests.waiting import until
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


def _archive(volumes: Volumes, path: Path) -> bytes:
    with volumes.archived(path) as stream:
        return stream.read()


def test_what_is_archived_is_restored_whole_or_not_at_all(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 4 * MIB)
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text("first")
    (path / "link").symlink_to("/etc/passwd")
    archive = _archive(volumes, path)
    assert _archive(volumes, path) == archive, "of the same files it is the same"
    (path / "inner" / "file").write_text("second")
    (path / "later").write_text("later")
    new = path.with_name("new")
    assert not volumes.exists(new)
    volumes.restored(new, 4 * MIB, [archive])
    assert volumes.exists(new)
    volumes.ensure(new, 4 * MIB)
    assert (new / "inner" / "file").read_text() == "first"
    assert not (new / "later").exists()
    assert (new / "link").is_symlink()
    (new / "writable").write_text("again")
    volumes.remove(new)
    with pytest.raises(SandboxFailed, match="archive"):
        volumes.restored(new, 4 * MIB, [b"no archive at all" * 100])
    assert not volumes.exists(new)


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
    volumes: Volumes, path: Path, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    if not root:
        monkeypatch.setattr(os, "getuid", lambda: 1000)
    volumes.ensure(path, 64 * MIB)
    before = volumes.usage(path).used_bytes
    dig(path)
    assert volumes.usage(path).used_bytes - before > 3 * MIB
    volumes.remove(path)
    assert not path.exists()


def test_an_archive_of_a_stranger_stays_inside(volumes: Volumes, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "outside"
    out.mkdir()

    def archive(*members: tuple[str, str]) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = (tarfile.SYMTYPE if link else tarfile.REGTYPE), link
                tar.addfile(info)
        return data.getvalue()

    for members in ([("../evil", "")], [("link", str(out)), ("link/evil", "")], [("x/../../../outside/evil", "")]):
        with pytest.raises(SandboxFailed):
            volumes.restored(path, 4 * MIB, [archive(*members)])
        assert not volumes.exists(path)
    volumes.restored(path, 4 * MIB, [archive((str(out / "evil"), ""))])
    assert not list(out.iterdir())
    assert not (path.parent / "evil").exists()


@pytest.mark.needs("root")
def test_an_archive_is_of_one_moment_and_nobody_stays_frozen(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 16 * MIB)
    (path / "before").write_text("before")
    late = threading.Thread(target=(path / "late").write_text, args=("late",), daemon=True)
    with volumes.archived(path) as stream:
        late.start()
        late.join(0.3)
        assert late.is_alive(), "who writes waits"
        assert b"late" not in stream.read()
    late.join(30)
    assert (path / "late").read_text() == "late"

    script = "import sys; from rios.deploy.volumes import *; v = Volumes(); a = v.archived(Path(sys.argv[1]))"
    script += "; a.__enter__(); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    late = threading.Thread(target=(path / "later").write_text, args=("later",), daemon=True)
    late.start()
    late.join(30)
    assert not late.is_alive(), "who is killed is followed by one who thaws it"
    assert (path / "later").read_text() == "later"
    Volumes().thaw(path)
    with pytest.raises(SandboxFailed, match="thawed"), volumes.archived(path) as stream:
        assert (Volumes().thaw(path), len(stream.read()) > 1000) == (None, True)
    _fill(path / "big", 4 * MIB)
    with pytest.raises(SandboxFailed, match="within"), volumes.archived(path, within_s=0.01):
        time.sleep(0.3)
    assert (path / "before").read_text() == "before"


@pytest.mark.needs("root")
def test_who_is_stopped_keeps_nothing_frozen(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 4 * MIB)
    script = "import os, signal, sys; from pathlib import Path; from rios.deploy import volumes; volumes._LATE_S = 0.5"
    script += "; a = volumes.Volumes().archived(Path(sys.argv[1]), within_s=0.5); a.__enter__()"
    script += "; os.killpg(os.getpid(), signal.SIGSTOP)"
    stopped = subprocess.Popen([sys.executable, "-c", script, str(path)], start_new_session=True)
    try:
        until(lambda: " T " in Path(f"/proc/{stopped.pid}/stat").read_text(), deadline_s=60)
        assert volumes._mark(path).exists(), "it is frozen, or was until now"
        late = threading.Thread(target=(path / "late").write_text, args=("late",), daemon=True)
        late.start()
        late.join(60)
        assert (late.is_alive(), stopped.poll()) == (False, None)
    finally:
        stopped.kill()
        stopped.wait(60)
        volumes.thaw(path)
    assert (path / "late").read_text() == "late"


def test_a_volume_that_is_named_as_a_mark_is_none(volumes: Volumes, tmp_path: Path) -> None:
    """Specifications refuse such names; where there is one nevertheless, nothing of a host stands still for it."""
    odd, mark = (tmp_path / "volumes" / "org" / "app" / name for name in ("x.frozen", "y.frozen"))
    odd.mkdir(parents=True)
    mark.touch()
    volumes.thaw_all(tmp_path)
    assert odd.is_dir()
    assert not mark.exists()
    volumes.release(odd.with_suffix(""))


@pytest.mark.needs("root")
def test_what_is_no_longer_mounted_is_not_frozen(volumes: Volumes, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the host's own file system."""
    path.mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda _: True)
    with pytest.raises(SandboxFailed, match="went away"), volumes.archived(path):
        pass
    monkeypatch.undo()


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
