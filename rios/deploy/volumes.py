"""Volumes of a host: directories that outlive the instances that use them, with a quota that the kernel holds.

As root, a volume is a file system of its own in a sparse file as large as its quota, mounted at the volume's path: who
fills it gets "no space left", and the host's disk is as large as before. Elsewhere it is a plain directory, and its use
can be watched only. The file lies beside the path: the volume `data` is in `data.volume`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rios.words.errors import InvalidRequest, SandboxFailed
from rios.words.foreign import remove_tree

SIZE_MIN = 1 << 20
_CALL_TIMEOUT_S = 120.0
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


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
        tools = all(shutil.which(tool, path=_PATH) for tool in ("mkfs.ext4", "resize2fs", "mount"))
        return os.getuid() == 0 and tools and Path("/dev/loop-control").exists()

    @staticmethod
    def _image(path: Path) -> Path:
        return path.with_name(f"{path.name}.volume")

    def ensure(self, path: Path, size_bytes: int) -> Path:
        """The volume at `path`, made where it is not there, mounted where it is not mounted, grown to a larger quota.

        A quota below what the volume has stays what it is: shrinking could lose data. Raises InvalidRequest for less
        than 1 MiB, and SandboxFailed where the host cannot make it.
        """
        if size_bytes < SIZE_MIN:
            raise InvalidRequest(f"a volume of {size_bytes} bytes is too small: at least {SIZE_MIN}")
        with self._lock:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not self.enforced:
                return path
            image = self._image(path)
            if not image.exists():
                self._make(image, size_bytes)
            elif image.stat().st_size < size_bytes:
                self._grow(image, path, size_bytes)
            if not path.is_mount():
                # What was left by a host that went down is checked and mended first.
                self._call("e2fsck", "-p", str(image), fine=(0, 1, 2))
                self._call("mount", "-o", "loop,nosuid,nodev,noatime", str(image), str(path))
        return path

    def _make(self, image: Path, size_bytes: int) -> None:
        new = image.with_suffix(".making")
        with new.open("wb") as file:
            file.truncate(size_bytes)
        # No journal: it would take 4 MiB of the smallest, and what applications need they sync themselves.
        options = ["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0,lazy_itable_init=1"]
        self._call("mkfs.ext4", *options, str(new))
        new.replace(image)

    def _grow(self, image: Path, path: Path, size_bytes: int) -> None:
        mounted = path.is_mount()
        if mounted:
            self._call("umount", str(path))
        with image.open("r+b") as file:
            file.truncate(size_bytes)
        self._call("e2fsck", "-f", "-p", str(image), fine=(0, 1, 2))
        self._call("resize2fs", str(image))

    def usage(self, path: Path) -> Usage:
        """Raises InvalidRequest where there is no such volume."""
        if not path.is_dir():
            raise InvalidRequest(f"there is no volume at {path}")
        if path.is_mount():
            found = os.statvfs(path)
            return Usage((found.f_blocks - found.f_bfree) * found.f_frsize, self._image(path).stat().st_size)
        # By a program that walks without recursion and without long paths: what lies deep counts, too. It says 1 where
        # files went away while it counted.
        said = self._call("du", "-s", "-x", "--block-size=1", "--", str(path), fine=(0, 1)).split()
        if not said:
            raise InvalidRequest(f"there is no volume at {path} any more")
        return Usage(int(said[0]), self._image(path).stat().st_size if self._image(path).exists() else 0)

    def snapshot(self, path: Path, archive: Path) -> Path:
        """Write all files of a volume into a tar archive, as they were at one moment where quotas are enforced."""
        with self._frozen(path):
            self._call("tar", "--numeric-owner", "--sparse", "--exclude=./lost+found", "-C", str(path), "-cf",
                       str(archive), ".")  # fmt: skip
        return archive

    def restore(self, archive: Path, path: Path) -> None:
        """Put the files of a snapshot into an existing volume, in place of what is there."""
        self._call("find", str(path), "-mindepth", "1", "-maxdepth", "1", "-exec", "rm", "-rf", "--", "{}", "+")
        self._call("tar", "--numeric-owner", "-C", str(path), "-xpf", str(archive))

    @contextlib.contextmanager
    def _frozen(self, path: Path) -> Iterator[None]:
        """Writers wait meanwhile."""
        if not path.is_mount():
            yield
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _FIFREEZE, struct.pack("i", 0))
            try:
                yield
            finally:
                fcntl.ioctl(fd, _FITHAW, struct.pack("i", 0))
        finally:
            os.close(fd)

    def release(self, path: Path) -> None:
        """Unmount a volume that no instance uses; `ensure` mounts it again."""
        with self._lock:
            if path.is_mount():
                self._call("umount", str(path))

    def remove(self, path: Path) -> None:
        """Take a volume away with all its data. What is not there is removed already."""
        with self._lock:
            if path.is_mount():
                self._call("umount", "--lazy", str(path))
            self._image(path).unlink(missing_ok=True)
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
                env={"PATH": _PATH, "LANG": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise SandboxFailed(f"{' '.join(command)} was not done within {_CALL_TIMEOUT_S:g} s") from error
        if done.returncode not in fine:
            raise SandboxFailed(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout
