"""Root file systems out of archives, by content: each is unpacked once, and read-only for all that use it.

An archive is data of a stranger. Names that lead outside, links that do, devices, pipes, privileged bits and owners are
refused or left out, and what it unpacks to is bounded, before anything of it is used. Places where a sandbox mounts
something must be directories in it, not links, by whatever name these came.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import posixpath
import secrets
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from rios.deploy.runtimes.records import try_lock
from rios.words.canonical import is_sha256
from rios.words.errors import InvalidRequest, SandboxFailed
from rios.words.foreign import remove_tree

BYTES_MAX = 16 << 30
ENTRIES_MAX = 1_000_000
DEPTH_MAX = 256
"""Directories within each other: those who take a root away again walk it by recursion."""
MOUNTED = ("dev", "etc", "home", "proc", "run", "sys", "tmp")
"""Directories that every sandbox mounts something at, or in."""
FILES = ("etc/hosts", "etc/resolv.conf")
"""Files that every sandbox mounts its own at."""
_COPY_BYTES = 1 << 20
_UNPACKING, _GONE = ".unpacking-", ".gone-"
_BEGUN_S = 60.0
"""A directory that was just made may not be locked yet."""


def split_name(rootfs: str) -> tuple[str, str]:
    """The path of an archive and the digest of its bytes, from "PATH@sha256:..."; that is empty where none is said."""
    path, at, digest = rootfs.rpartition("@sha256:")
    return (path, f"sha256:{digest}") if at and is_sha256(digest) else (rootfs, "")


def digest_of(path: Path) -> str:
    """ "sha256:..." of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def is_image(archive: Path) -> bool:
    """Whether it is what an engine saved (Docker's or OCI's layout), and no bare file system."""
    with _opened(archive) as tar:
        for count, member in enumerate(tar):
            if posixpath.normpath(member.name) in ("manifest.json", "oci-layout", "index.json"):
                return True
            if count > 1000:
                break
    return False


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except FileNotFoundError as error:
        raise InvalidRequest(f"{archive}: there is no such archive on this host") from error
    except InvalidRequest:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:  # ValueError: numbers that are none
        raise InvalidRequest(f"{archive} is no archive (tar) that can be read: {error}") from error


def _refused(archive: Path, member: tarfile.TarInfo, why: str) -> InvalidRequest:
    return InvalidRequest(f"{archive}: the entry {member.name!r} {why}; nothing of it is used")


def _inside(archive: Path, member: tarfile.TarInfo) -> str:
    """The entry's path from the root. Raises InvalidRequest where it leads outside, or too deep."""
    name = member.name
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise _refused(archive, member, "leads outside the archive")
    path = posixpath.normpath(name)
    if path.count("/") >= DEPTH_MAX:
        raise _refused(archive, member, f"lies deeper than {DEPTH_MAX} directories")
    return path


def check(archive: Path, *, bytes_max: int = BYTES_MAX) -> None:
    """Raises InvalidRequest at the first entry that has no place in a root file system, or where there is too much."""
    size, links = 0, set[str]()
    with _opened(archive) as tar:
        for count, member in enumerate(tar, 1):
            path = _inside(archive, member)
            if behind := _behind(path, links):
                raise _refused(archive, member, f"lies behind the link {behind!r}")
            if wrong := _wrong(member, path, links):
                raise _refused(archive, member, wrong)
            links.discard(path)
            if member.issym():
                links.add(path)
            size += max(member.size, 0)
            if size > bytes_max or count > ENTRIES_MAX:
                raise InvalidRequest(
                    f"{archive} unpacks to more than {bytes_max} bytes or {ENTRIES_MAX} entries: too much here"
                )


def _wrong(member: tarfile.TarInfo, path: str, links: Collection[str]) -> str | None:
    """Why an entry has no place in a root file system, or None. links: the paths of symbolic links before it."""
    if member.isdev():
        return "is a device or a pipe"
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return "is no file, directory or link"
    if path in (".", *MOUNTED) and not member.isdir():
        return "is no directory, and a sandbox mounts something there"
    if path in FILES and not member.isfile():
        return "is no file of its own, and a sandbox mounts one there"
    if file := _behind(path, FILES):
        return f"lies behind {file!r}, which is a file in a sandbox"
    return _wrong_target(member, path, links) if member.issym() or member.islnk() else None


def _wrong_target(member: tarfile.TarInfo, path: str, links: Collection[str]) -> str | None:
    target = member.linkname
    if "\0" in target:
        return f"links to {target!r}, which is no name"
    if member.issym():
        return f"links to {target!r}, outside the archive" if _leaves(path, target) else None
    if target.startswith("/") or ".." in target.split("/"):
        return f"is a hard link to {target!r}, outside the archive"
    target = posixpath.normpath(target)
    if target in links or _behind(target, links):
        # Another name of a link is a link, which no rule for links would see.
        return f"is a hard link to {target!r}, which is a link or lies behind one"
    return None


def _leaves(path: str, target: str) -> bool:
    if target.startswith("/"):
        return False  # of the sandbox's own root
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).split("/")[0] == ".."


def _behind(path: str, places: Collection[str]) -> str | None:
    """The nearest parent of a path that is one of `places`."""
    return next((parent for parent in _parents(path) if parent in places), None)


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _mode(member: tarfile.TarInfo) -> int:
    """Readable for the user of a sandbox, who is not the owner; never with privileged bits, or writable to all."""
    if member.isdir():
        return 0o755
    return 0o755 if member.mode & 0o111 else 0o644


def unpack(archive: Path, into: Path, *, bytes_max: int = BYTES_MAX) -> None:
    """Unpack a checked archive into an empty directory, and make the places where a sandbox mounts something."""
    check(archive, bytes_max=bytes_max)
    root = os.open(into, os.O_DIRECTORY | os.O_RDONLY)
    try:
        with _opened(archive) as tar:
            for member in tar:
                _place(tar, member, _inside(archive, member), root)
        _make_mounted(root)
    finally:
        os.close(root)


def _make_mounted(root: int) -> None:
    """Make the places where every sandbox mounts something. InvalidRequest where one is there and is a link, or not
    what is mounted: what is made here is made as the service's user, and must not lie behind a link of a stranger."""
    name = ""
    try:
        for name in MOUNTED:
            os.close(open_inside(root, name, make=True))
        for name in FILES:
            parent, file = posixpath.split(name)
            at = open_inside(root, parent, make=True)
            try:
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644, dir_fd=at))
                if not stat.S_ISREG(os.stat(file, dir_fd=at, follow_symlinks=False).st_mode):
                    raise InvalidRequest(f"{name} of the root file system is no file, and a sandbox mounts one there")
            finally:
                os.close(at)
    except OSError as error:
        raise InvalidRequest(
            f"{name} of the root file system is no directory, and a sandbox mounts something there: {error}"
        ) from error


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, root: int) -> None:
    if path == ".":
        return
    parent, name = posixpath.split(path)
    at = open_inside(root, parent, make=True)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not (member.isdir() and stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)):
                os.unlink(name, dir_fd=at)
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=at)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=at)
        elif member.islnk():
            source_parent, source = posixpath.split(posixpath.normpath(member.linkname))
            source_at = open_inside(root, source_parent, make=False)
            try:
                os.link(source, name, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=False)
            finally:
                os.close(source_at)
        else:
            _copy(tar, member, name, at)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SandboxFailed(f"there is no room for the archive {tar.name!r}: {error}") from error
        raise InvalidRequest(f"the entry {member.name!r} of {tar.name!r} cannot be unpacked: {error}") from error
    finally:
        os.close(at)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, at: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    source = tar.extractfile(member)
    with os.fdopen(os.open(name, flags, _mode(member), dir_fd=at), "wb") as target:
        if source is not None:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        os.fchmod(target.fileno(), _mode(member))


def open_inside(root: int, path: str, *, make: bool) -> int:
    """A descriptor of a directory below `root`, reached without following a link. make: directories that are missing.

    Raises OSError where a part is a link, no directory, or is not there.
    """
    at = os.dup(root)
    for part in [part for part in path.split("/") if part]:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=at)
            deeper = os.open(part, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY, dir_fd=at)
        finally:
            os.close(at)
        at = deeper
    return at


class RootStore:
    """Unpacked root file systems of a host, by the digest of their archives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the root of that digest lies. InvalidRequest where it is not here (any more)."""
        if not self.has(digest):
            raise InvalidRequest(f"the root file system {digest} is not on this host: prepare its archive first")
        return self.directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the root of that digest lies here."""
        kind, _, name = digest.partition(":")
        return kind == "sha256" and is_sha256(name) and (self.directory / name).is_dir()

    def add(self, archive: Path, *, comes: Callable[[str], None] = lambda _: None) -> str:
        """Unpack an archive unless its content is here already; its digest. InvalidRequest as `check` says.

        comes: told the digest before it is here.
        """
        with _opened(archive):
            digest = digest_of(archive)
        place = self.directory / digest.removeprefix("sha256:")
        if place.is_dir():
            return digest
        with self._unpacking() as root:
            unpack(archive, root)
            comes(digest)
            with contextlib.suppress(FileExistsError, OSError):  # another was quicker
                root.rename(place)
        return self._there(digest, place)

    @contextlib.contextmanager
    def _unpacking(self) -> Iterator[Path]:
        """A directory of its own, locked: one that is not was left by whoever was killed."""
        with tempfile.TemporaryDirectory(dir=self.directory, prefix=_UNPACKING) as temporary:
            fd = os.open(temporary, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                root = Path(temporary) / "root"
                root.mkdir(mode=0o755)
                yield root
            finally:
                os.close(fd)

    def remove(self, digest: str) -> None:
        """Take away the root of that digest, at once for whoever looks. What is not here is gone already."""
        gone = self.directory / f"{_GONE}{secrets.token_hex(8)}"
        if self.has(digest):
            with contextlib.suppress(FileNotFoundError):
                self.path(digest).rename(gone)
        remove_tree(gone)

    def sweep(self) -> None:
        """Take away what killed processes left half unpacked, or half removed."""
        for path in self.directory.glob(f"{_GONE}*"):
            remove_tree(path)
        before = time.time() - _BEGUN_S
        for path in self.directory.glob(f"{_UNPACKING}*"):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if path.stat().st_mtime < before and try_lock(fd):
                        remove_tree(path)
                finally:
                    os.close(fd)

    def _there(self, digest: str, place: Path) -> str:
        if not place.is_dir():
            raise InvalidRequest(f"{place} could not be made: is {self.directory} writable?")
        return digest

    def make_places(self, digest: str, paths: list[str]) -> None:
        """Make directories where an instance mounts something. InvalidRequest where one lies behind a link."""
        root = os.open(self.path(digest), os.O_DIRECTORY | os.O_RDONLY)
        try:
            _make_mounted(root)  # of what an earlier version unpacked, too
            for path in paths:
                try:
                    os.close(open_inside(root, path, make=True))
                except OSError as error:
                    raise InvalidRequest(
                        f"{path} cannot be mounted: it, or a part of it, is no directory in the root: {error}"
                    ) from error
        finally:
            os.close(root)
