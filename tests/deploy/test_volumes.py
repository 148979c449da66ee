"""Volumes keep their data and their bounds."""

from __future__ import annotations

import contextlib
import hashlib
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
WRITES = """
import hashlib, os, pathlib, sys
digest = hashlib.sha256()
print("holds", flush=True)
with open("written", "wb", buffering=0) as file:
    while not pathlib.Path("enough").exists():
        block = os.urandom(4096)
        if file.tell() < 3 << 20:
            file.write(block)
            digest.update(block)
        pathlib.Path("small").write_bytes(block)
print(digest.hexdigest(), flush=True)
sys.stdin.read()
"""
"""Writes in the volume where it runs until it is told that it is enough, and then holds it until its input ends."""


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


def may_grow_in_use() -> bool:
    """Whether the kernel lets this process grow a file system that is mounted: CAP_SYS_RESOURCE."""
    capabilities = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    return bool(int(capabilities.split()[1], 16) >> 24 & 1)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes in a volume which it has mounted in a namespace of its own, as a sandbox does."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", WRITES]
    with subprocess.Popen(command, cwd=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holds:
        try:
            assert holds.stdout is not None
            assert holds.stdout.readline() == "holds\n"
            yield holds
        finally:
            holds.kill()


def _devices(image: Path) -> str:
    command = ["losetup", "--noheadings", "--output", "NAME,BACK-FILE", "--list"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    return "\n".join(line for line in said.splitlines() if str(image) in line)


def _is_whole(image: Path) -> bool:
    """Whether the file system of an image that nobody uses has no error."""
    until(lambda: not _devices(image), deadline_s=30)
    done = subprocess.run(["e2fsck", "-f", "-n", str(image)], check=False, capture_output=True, timeout=60)
    return done.returncode == 0


@pytest.mark.needs("root")
def test_a_volume_that_a_sandbox_writes_in_grows_or_stays_as_it_is(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 8 * MIB)
    image, grows = volumes._image(path), may_grow_in_use()
    (path / "before").write_text("before")
    with _held(path) as holds:
        for size in (32 * MIB, 24 * MIB):
            with contextlib.nullcontext() if grows else pytest.raises(SandboxFailed, match="CAP_SYS_RESOURCE: pause"):
                volumes.ensure(path, size)
            assert path.is_mount()
            assert volumes.usage(path).size_bytes == (32 if grows else 8) * MIB
        volumes.ensure(path, 8 * MIB)  # as for a revision that is gone back to
        assert (_fill(path / "big", 20 * MIB) > 12 * MIB) == grows, "whoever uses it has what it grew by"
        (path / "big").unlink()
        volumes.release(path)
        volumes.ensure(path, 8 * MIB)
        assert (path / "small").exists(), "it is the same file system, and nobody mended it meanwhile"
        (path / "enough").touch()
        assert holds.stdout is not None
        digest = holds.stdout.readline().strip()
    assert hashlib.sha256((path / "written").read_bytes()).hexdigest() == digest
    volumes.release(path)
    assert _is_whole(image)
    volumes.ensure(path, 24 * MIB)
    assert volumes.usage(path).size_bytes == (32 if grows else 24) * MIB
    assert _fill(path / "big", 40 * MIB) > 15 * MIB
    (path / "big").unlink()
    assert (path / "before").read_text() == "before"
    assert hashlib.sha256((path / "written").read_bytes()).hexdigest() == digest
    volumes.release(path)
    assert _is_whole(image)


@pytest.mark.needs("root")
@pytest.mark.parametrize("last", ["truncate", "losetup", "resize2fs", "sync", "umount", "e2fsck"])
def test_growing_that_is_cut_off_goes_on(
    volumes: Volumes, path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    volumes.ensure(path, 8 * MIB)
    (path / "kept").write_text("kept")
    real = Volumes._call

    def cut_off(*command: str, fine: tuple[int, ...] = (0,)) -> str:
        said = real(*command, fine=fine) if last != "truncate" else ""
        if command[0] == last or last == "truncate":
            raise KeyboardInterrupt
        return said

    with monkeypatch.context() as patched:
        patched.setattr(Volumes, "_call", staticmethod(cut_off))
        with contextlib.suppress(KeyboardInterrupt):  # not all are come to, here or where the kernel refuses
            volumes.ensure(path, 32 * MIB)
    Volumes().ensure(path, 32 * MIB)
    assert (path / "kept").read_text() == "kept"
    assert volumes.usage(path).size_bytes == 32 * MIB
    assert _fill(path / "big", 40 * MIB) > 25 * MIB
    volumes.release(path)
    assert _is_whole(volumes._image(path))


@pytest.mark.needs("root")
def test_a_volume_that_is_being_read_grows_after_that(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 8 * MIB)
    growing = threading.Thread(target=volumes.ensure, args=(path, 16 * MIB), daemon=True)
    with volumes.archived(path) as stream:
        growing.start()
        growing.join(0.3)
        assert growing.is_alive()
        volumes.ensure(path.with_name("other"), MIB)  # for which others do not wait
        volumes.remove(path.with_name("other"))
        stream.read()
    growing.join(60)
    assert volumes.usage(path).size_bytes == 16 * MIB


@pytest.mark.needs("root")
def test_what_is_removed_while_it_is_held_is_gone_when_its_holder_is(volumes: Volumes, path: Path) -> None:
    volumes.ensure(path, 8 * MIB)
    with _held(path) as holds:
        volumes.remove(path)
        assert not path.exists()
        assert _devices(volumes._image(path)), "it is used still"
        volumes.ensure(path, 4 * MIB)
        assert [one.name for one in path.iterdir()] == ["lost+found"], "another one"
        volumes.remove(path)
        assert holds.poll() is None
    until(lambda: not _devices(volumes._image(path)), "its device is free again", deadline_s=30)


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
