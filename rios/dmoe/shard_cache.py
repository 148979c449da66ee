"""Byte ranges of checkpoints on disk, named by their SHA-256, under a quota. Processes of one machine share it.

Those of private models are sealed: see `rios.dmoe.sealed`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from pathlib import Path
from typing import BinaryIO, Self

from rios.dmoe.sealed import Seal, SealedWriter, Tampered

log = logging.getLogger(__name__)


class ShardCache:
    """A directory of ranges. What cannot be read or written is logged and costs nothing but a fetch."""

    def __init__(self, folder: Path, quota_bytes: int, seal: Seal | None = None) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._seal = seal

    def _path(self, digest: str) -> Path:
        return self._folder / (digest if self._seal is None else self._seal.name(digest))

    def get(self, digest: str) -> bytearray | None:
        """The range with this SHA-256 (64 hexadecimal digits), verified; a damaged one is removed."""
        path = self._path(digest)
        try:
            kept = self._opened(path.read_bytes(), digest)
            if kept is not None and hashlib.sha256(kept).hexdigest() == digest:
                os.utime(path)
                return kept
            log.warning("damaged range removed from the cache", extra={"path": str(path)})
            path.unlink()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("cache not readable", extra={"path": str(path), "reason": str(error)})
        return None

    def _opened(self, data: bytes, digest: str) -> bytearray | None:
        """What a file holds; None where somebody changed what is sealed."""
        if self._seal is None:
            return bytearray(data)
        try:
            return self._seal.open(data, digest)
        except Tampered as error:
            log.warning("sealed range was tampered with", extra={"reason": str(error)})
            return None

    def piece(self, digest: str, start: int, stop: int) -> bytearray | None:
        """Bytes `start` to `stop` of the range with this SHA-256, not verified: whoever has all of them does that."""
        try:
            with self._path(digest).open("rb") as file:
                if self._seal is not None:
                    data = self._seal.piece(file, digest, start, stop)
                else:
                    file.seek(start)
                    data = bytearray(file.read(stop - start))
        except (OSError, Tampered):
            return None
        return data if len(data) == stop - start else None

    def size(self, digest: str) -> int | None:
        """How many bytes lie here under this SHA-256, not verified; None where nothing does."""
        try:
            return self._path(digest).stat().st_size
        except OSError:
            return None

    def put(self, digest: str, data: bytes | memoryview) -> None:
        """Keep a whole range under its SHA-256, whole or not at all. Raises OSError where it cannot be kept."""
        path = self._path(digest)
        new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        try:
            with new.open("xb") as file:
                if self._seal is None:
                    file.write(data)
                else:
                    sealed = SealedWriter(file, self._seal, digest)
                    sealed.write(data)
                    sealed.finish()
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def partial(self, digest: str, size: int) -> Partial:
        """Where a range of `size` bytes is collected until it is whole: a context manager."""
        return Partial(self._path(digest) if size <= self._quota_bytes else None, digest, self._seal)

    def trim(self) -> None:
        """Keep to the quota: what was used longest ago goes first."""
        files: list[tuple[float, int, Path]] = []
        try:
            for entry in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another host of this machine was quicker
                    found = entry.stat()
                    files.append((found.st_mtime, found.st_size, entry))
            total_bytes = sum(size for _, size, _ in files)
            for _, size, entry in sorted(files):
                if total_bytes <= self._quota_bytes:
                    return
                entry.unlink(missing_ok=True)
                total_bytes -= size
        except OSError as error:
            log.warning("cache not trimmed", extra={"path": str(self._folder), "reason": str(error)})


class Partial:
    """A range while it is fetched. What came is on disk, so that whoever wants it next goes on from there.

    One process at a time writes a range; another that wants it does without, as one without a folder or room does.
    """

    def __init__(self, path: Path | None, digest: str, seal: Seal | None = None) -> None:
        self._path = path
        self._digest = digest
        self._seal = seal
        self._file: BinaryIO | None = None
        self._sealed: SealedWriter | None = None

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        path = self._path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until now may have made the whole of it.
            if path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                self._give_up("another process has just finished it")
            elif self._seal is not None:
                self._sealed = SealedWriter(self._file, self._seal, self._digest)
        except OSError as error:
            self._give_up(str(error))
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._close(self._file)
            self._file = None

    def found(self, size: int) -> bytearray:
        """What an earlier fetch left of a range of `size` bytes."""
        if self._file is None:
            return bytearray()
        try:
            if self._sealed is not None:
                return self._sealed.found(size)
            self._file.seek(0)
            data = bytearray(self._file.read(size + 1))
        except OSError as error:
            self._give_up(str(error))
            return bytearray()
        if len(data) > size:
            self.clear()
            return bytearray()
        return data

    def append(self, chunk: bytes | memoryview) -> None:
        """The next bytes have come."""
        if self._file is not None:
            try:
                (self._sealed or self._file).write(chunk)
                self._file.flush()
            except OSError as error:
                self._give_up(str(error))

    def clear(self) -> None:
        """What came is not what was wanted."""
        if self._file is not None:
            try:
                if self._sealed is not None:
                    self._sealed.clear()
                else:
                    self._file.truncate(0)
            except OSError as error:
                self._give_up(str(error))

    def keep(self) -> None:
        """It is whole and verified."""
        if self._file is not None and self._path is not None:
            try:
                if self._sealed is not None:
                    self._sealed.finish()
                    self._file.flush()
                self._path.with_suffix(".part").replace(self._path)
            except OSError as error:
                self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        log.info("not cached", extra={"sha256": self._digest, "reason": reason})
        if self._file is not None:
            self._close(self._file)
            self._file = None

    def _close(self, file: BinaryIO) -> None:
        with contextlib.suppress(OSError):  # a full disk says so once more; what was written counts
            file.close()
