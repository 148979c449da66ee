"""Volumes of a host: directories that outlive the instances that use them, with a quota that the kernel holds.

As root, a volume is a file system of its own in a sparse file as large as its quota, mounted at the volume's path: who
fills it gets "no space left", and the host's disk is as large as before. Elsewhere it is a plain directory, and its use
can be watched only. The file lies beside the path: the volume `data` is in `data.volume`.

A sandbox has a mount of its own of a volume: the file system lives on where the one of this host is unmounted, and as
long as it does, nothing but the kernel writes in its file. So a volume grows as it is mounted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from rios.deploy import thawing
from rios.words.errors import InvalidRequest, NotFound, SandboxFailed
from rios.words.foreign import remove_tree

log = logging.getLogger(__name__)

SIZE_MIN = 1 << 20
_CALL_TIMEOUT_S = 120.0
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_ENV = {"PATH": _PATH, "LANG": "C"}
_ARCHIVED_S = 600.0
_DETACHED_S = 2.0
"""Who looks at new devices has one open for a moment after its last mount has gone."""
_LOOK_S = 0.05
_LATE_S = 5.0
"""After its time to be read a volume is thawed by another process: the one that froze it is stopped."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a volume is."""

    used_bytes: int
    size_bytes: int
    """The quota."""


class Volumes:
    """Makes, measures, copies and removes volumes; all it knows is on the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @functools.cached_property
    def enforced(self) -> bool:
        """Whether quotas are held by the kernel here: root, loop devices, and ext4's tools."""
        tools = all(shutil.which(tool, path=_PATH) for tool in ("mkfs.ext4", "resize2fs", "mount", "losetup"))
        return os.getuid() == 0 and tools and Path("/dev/loop-control").exists()

    @staticmethod
    def _image(path: Path) -> Path:
        return path.with_name(f"{path.name}.volume")

    def ensure(self, path: Path, size_bytes: int) -> Path:
        """The volume at `path`, made where it is not there, mounted where it is not mounted, grown to a larger quota.

        It grows while it is used, where the kernel lets this process (CAP_SYS_RESOURCE), and else where nobody uses it.
        A quota below what the volume has stays what it is: shrinking could lose data. Raises InvalidRequest for less
        than 1 MiB, and SandboxFailed where the host cannot make it, or cannot grow it now: it is as it was then.
        """
        if size_bytes < SIZE_MIN:
            raise InvalidRequest(f"a volume of {size_bytes} bytes is too small: at least {SIZE_MIN}")
        until = time.monotonic() + _CALL_TIMEOUT_S
        while not self._ensured(path, size_bytes):
            if time.monotonic() > until:
                raise SandboxFailed(f"the volume {path.name} is being read, and grows after that: try again")
            time.sleep(_LOOK_S)
        return path

    def _ensured(self, path: Path, size_bytes: int) -> bool:
        """Whether it is as `ensure` says now; not where it is to grow and is frozen, for which others need not wait."""
        with self._lock:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not self.enforced:
                return True
            image = self._image(path)
            if not image.exists():
                self._make(image, size_bytes)
            if not path.is_mount():
                self._mount(image, path)
            if self._size(image) < size_bytes:
                if self._mark(path).exists():
                    return False
                self._grow(image, path, size_bytes)
        return True

    def _make(self, image: Path, size_bytes: int) -> None:
        new = image.with_suffix(".making")
        with new.open("wb") as file:
            file.truncate(size_bytes)
        # No journal: it would take 4 MiB of the smallest, and what applications need they sync themselves.
        options = ["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0,lazy_itable_init=1"]
        self._call("mkfs.ext4", *options, str(new))
        new.replace(image)

    def _mount(self, image: Path, path: Path) -> None:
        if not self._attached(image):
            # What was left by a host that went down is checked and mended first.
            self._call("e2fsck", "-p", str(image), fine=(0, 1, 2))
        # Where a sandbox has it mounted still, this is one more mount of the same file system.
        self._call("mount", "-o", "loop,nosuid,nodev,noatime", str(image), str(path))

    def _attached(self, image: Path) -> str:
        """The loop devices of an image, each on a line: as long as anybody has it mounted, in whatever namespace."""
        return self._call("losetup", "--noheadings", "--output", "NAME", "--associated", str(image))

    @staticmethod
    def _had(image: Path) -> Path:
        """The file with the size of an image's file system, in bytes, where the image is larger: growing it was begun.

        It ends as no volume's name does (`spec.RESERVED_ENDS`).
        """
        return image.with_name(f"{image.name}.making")

    def _size(self, image: Path) -> int:
        """The size of an image's file system, in bytes."""
        try:
            return int(self._had(image).read_text())
        except FileNotFoundError:
            return image.stat().st_size

    def _note(self, image: Path, size_bytes: int) -> None:
        new = image.with_name(f"{image.name}.restoring")
        with new.open("w") as file:
            file.write(str(size_bytes))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._had(image))

    def _grow(self, image: Path, path: Path, size_bytes: int) -> None:
        """Cut off anywhere, it is begun again by the next `ensure` of that size."""
        self._note(image, self._size(image))
        if image.stat().st_size < size_bytes:
            os.truncate(image, size_bytes)
        kib = f"{size_bytes >> 10}K"
        try:
            device = _device(path)
            self._call("losetup", "--set-capacity", device)
            self._call("resize2fs", device, kib)
            synced(path)
        except SandboxFailed as error:
            self._grow_unused(image, path, kib, why=str(error))
        if image.stat().st_size == size_bytes:
            self._had(image).unlink()
        else:  # a larger size was tried before
            self._note(image, size_bytes)

    def _grow_unused(self, image: Path, path: Path, kib: str, *, why: str) -> None:
        """Grow what is not mounted anywhere. why: it does not grow while it is."""
        try:
            self._call("umount", str(path))
        except SandboxFailed as error:
            raise SandboxFailed(_used(path, why)) from error
        try:
            until = time.monotonic() + _DETACHED_S
            while self._attached(image):
                if time.monotonic() > until:
                    raise SandboxFailed(_used(path, why))
                time.sleep(_LOOK_S)
            self._call("e2fsck", "-f", "-p", str(image), fine=(0, 1, 2))
            self._call("resize2fs", str(image), kib)
        finally:
            self._mount(image, path)

    def usage(self, path: Path) -> Usage:
        """Raises InvalidRequest where there is no such volume."""
        if not path.is_dir():
            raise InvalidRequest(f"there is no volume at {path}")
        if path.is_mount():
            found = os.statvfs(path)
            return Usage((found.f_blocks - found.f_bfree) * found.f_frsize, self._size(self._image(path)))
        # By a program that walks without recursion and without long paths: what lies deep counts, too. It says 1 where
        # files went away while it counted.
        said = self._call("du", "-s", "-x", "--block-size=1", "--", str(path), fine=(0, 1)).split()
        if not said:
            raise InvalidRequest(f"there is no volume at {path} any more")
        return Usage(int(said[0]), self._size(self._image(path)) if self._image(path).exists() else 0)

    def exists(self, path: Path) -> bool:
        """Whether there is a volume at `path`, mounted or not."""
        return self._image(path).exists() if self.enforced else path.is_dir()

    @contextlib.contextmanager
    def archived(self, path: Path, *, still: bool = True, within_s: float = _ARCHIVED_S) -> Iterator[BinaryIO]:
        """All files of a volume as a tar archive, to be read to its end inside: the same archive of the same files.

        still: as they are at one moment. Where quotas are enforced, the file system is frozen until all is read: what
        was written is on the disk, whole, and whoever writes waits. So it is as after a power failure at that moment:
        what an application had synced is there, and what it was about to write is not. It is frozen no longer than
        `within_s` and 5 s, also where this process is killed or stopped: another one sees to that (`thawing`). Where
        quotas are not enforced nothing can be frozen: the caller sees to it that nobody writes. Without `still` files
        may change while they are read.

        Raises InvalidRequest where there is no volume, and SandboxFailed where it is not read within `within_s` or was
        thawed meanwhile, which another process does that takes this one for dead.
        """
        if not path.is_dir():
            raise InvalidRequest(f"there is no volume at {path}")
        command = ["tar", "--numeric-owner", "--sparse", "--sort=name", "--exclude=./lost+found", "-C", str(path)]
        with self._frozen(path, within_s) if still else contextlib.nullcontext(), tempfile.TemporaryFile() as said:
            running = subprocess.Popen([*command, "-cf", "-", "."], stdout=subprocess.PIPE, stderr=said, env=_ENV)
            assert running.stdout is not None
            with _ended(running, within_s), running.stdout:
                yield cast(BinaryIO, running.stdout)
            code = running.returncode
            said.seek(0)
            why = said.read(1000).decode(errors="replace").strip()
            if code == -signal.SIGKILL:
                raise SandboxFailed(
                    f"the volume {path.name} was not read within {within_s:g} s: pause what writes in it"
                )
            if code not in ((0,) if still else (0, 1)):  # 1: files changed while they were read
                raise SandboxFailed(f"the volume {path.name} cannot be read: {why}")

    def restored(self, path: Path, size_bytes: int, archive: Iterable[bytes]) -> None:
        """A new volume at `path` with the files of an archive in it: all of them, or there is no volume.

        Raises InvalidRequest as `ensure`, and SandboxFailed where the archive is none, or has no room in the quota.
        """
        making = path.with_name(f"{path.name}.restoring")
        self.remove(making)
        try:
            self.ensure(making, size_bytes)
            self._unpack(archive, making)
            if self.enforced:
                self.release(making)
                self._image(making).replace(self._image(path))
            else:
                making.rename(path)
        finally:
            self.remove(making)

    @staticmethod
    def _unpack(archive: Iterable[bytes], into: Path) -> None:
        """tar itself leaves out what leads outside: absolute names, those with `..`, and files behind links that do."""
        command = ["tar", "--numeric-owner", "-C", str(into), "-xpf", "-"]
        with tempfile.TemporaryFile() as said:
            running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=_ENV)
            assert running.stdin is not None
            with _ended(running, _ARCHIVED_S), contextlib.suppress(BrokenPipeError), running.stdin:
                for data in archive:
                    running.stdin.write(data)
            if running.returncode:
                said.seek(0)
                raise SandboxFailed(f"{into.name}: {said.read(1000).decode(errors='replace').strip() or 'too late'}")

    @contextlib.contextmanager
    def _frozen(self, path: Path, within_s: float) -> Iterator[None]:
        """Writers wait meanwhile. A file beside it says so: should all of us be killed, the next one here thaws it."""
        if not path.is_mount():
            yield
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Unmounted meanwhile, it is a directory of the host's own file system; from here on it stays mounted.
            if os.fstat(fd).st_dev == path.parent.stat().st_dev:
                raise SandboxFailed(f"the volume {path.name} went away while it was to be read")
            mark = self._mark(path)
            with _watched(fd, path.name, within_s + _LATE_S):
                with self._lock:  # from here on it does not begin to grow, which would wait until it is thawed
                    mark.touch()
                try:
                    fcntl.ioctl(fd, thawing.FIFREEZE, struct.pack("i", 0))
                except OSError as error:
                    raise SandboxFailed(f"the volume {path.name} cannot be frozen: {error}") from error
                try:
                    yield
                finally:
                    thawed = thawing.thaw(fd)
                    mark.unlink(missing_ok=True)
            if not thawed:
                raise SandboxFailed(f"the volume {path.name} was thawed while it was read: try again")
        finally:
            os.close(fd)

    @staticmethod
    def _mark(path: Path) -> Path:
        return path.with_name(f"{path.name}.frozen")

    def thaw(self, path: Path) -> None:
        """Let writers go on, where a process was killed that had frozen a volume."""
        mark = self._mark(path)
        if not mark.is_file():
            return
        if path.is_mount():
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                thawing.thaw(fd)
            finally:
                os.close(fd)
        mark.unlink(missing_ok=True)

    def thaw_all(self, directory: Path) -> None:
        """As `thaw`, for all volumes below a host's directory."""
        for mark in directory.glob("volumes/*/*/*.frozen"):
            try:
                self.thaw(mark.with_suffix(""))
            except OSError as error:
                log.warning("a volume stays frozen", extra={"volume": str(mark.with_suffix("")), "reason": str(error)})

    def release(self, path: Path) -> None:
        """Unmount a volume; `ensure` mounts it again. An instance that uses it still keeps a mount of its own."""
        with self._lock:
            self.thaw(path)
            if path.is_mount():
                self._call("umount", str(path))

    def move(self, path: Path, to: Path) -> None:
        """Make the volume at `path`, which no instance uses, the one at `to`; where it is that already, nothing.

        Raises NotFound where it is at neither, InvalidRequest where there is one at both: a rename leaves none behind;
        and SandboxFailed where it cannot be unmounted.
        """
        if self.exists(to):
            if self.exists(path):
                raise InvalidRequest(f"another volume is at {to} already, where that of {path} was to be")
            return
        if not self.exists(path):
            raise NotFound(f"there is no volume at {path} any more")
        self.release(path)
        with self._lock:
            to.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self.enforced:
                with contextlib.suppress(FileNotFoundError):  # most have no growth that was cut off
                    self._had(self._image(path)).replace(self._had(self._image(to)))
                self._image(path).replace(self._image(to))
                with contextlib.suppress(OSError):  # where it was mounted
                    path.rmdir()
            else:
                path.rename(to)

    def remove(self, path: Path) -> None:
        """Take a volume away with all its data. What is not there is removed already.

        An instance that uses it still keeps a mount of its own: its device and disk are free when that has ended.
        """
        with self._lock:
            self.thaw(path)
            if path.is_mount():
                self._call("umount", "--lazy", str(path))
            image = self._image(path)
            for place in (self._had(image), image.with_name(f"{image.name}.restoring"), image):
                try:
                    place.unlink(missing_ok=True)
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:  # then there is none
                        raise
        remove_tree(path)  # which may take minutes, and no other volume waits for it

    @staticmethod
    def _call(*command: str, fine: tuple[int, ...] = (0,)) -> str:
        """What it wrote."""
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_CALL_TIMEOUT_S,
                check=False,
                env=_ENV,
            )
        except subprocess.TimeoutExpired as error:
            raise SandboxFailed(f"{' '.join(command)} was not done within {_CALL_TIMEOUT_S:g} s") from error
        if done.returncode not in fine:
            raise SandboxFailed(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout


@contextlib.contextmanager
def _ended(running: subprocess.Popen[bytes], within_s: float) -> Iterator[None]:
    """A program that has ended after this: by itself, killed at its deadline, or where this is left by an error."""
    late = threading.Timer(within_s, running.kill)
    late.start()
    try:
        yield
    except BaseException:
        running.kill()
        raise
    finally:
        late.cancel()
        running.wait()


@contextlib.contextmanager
def _watched(fd: int, name: str, within_s: float) -> Iterator[None]:
    """Another process thaws the file system of `fd` when this one ends, or is not done in time: see `thawing`."""
    command = [sys.executable, "-I", "-S", thawing.__file__, str(fd), str(within_s)]
    watching = subprocess.Popen(
        # Of a group of its own: what stops this process's group does not stop it.
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(fd,), start_new_session=True,
    )  # fmt: skip
    assert watching.stdout is not None
    try:
        if not select.select([watching.stdout], [], [], _CALL_TIMEOUT_S)[0] or not watching.stdout.read(1):
            raise SandboxFailed(f"the volume {name} is not frozen: what would thaw it in time cannot be started")
        yield
    finally:
        try:
            watching.communicate(timeout=_CALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            watching.kill()
            watching.communicate()


def _device(path: Path) -> str:
    """The device that is mounted at `path`. Raises SandboxFailed."""
    number = path.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not place.exists():
        raise SandboxFailed(f"no device is mounted at {path}")
    return f"/dev/{place.resolve().name}"


def _used(path: Path, why: str) -> str:
    return (
        f"the volume {path.name} is in use, and this host cannot grow it meanwhile, which takes CAP_SYS_RESOURCE: "
        f"pause its deployment, update it, and resume it ({why})"
    )


def synced(path: Path) -> None:
    """Return when all that was written in the file system of `path` is on its disk. Raises SandboxFailed."""
    Volumes._call("sync", "-f", str(path))
