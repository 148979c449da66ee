"""The bytes of a checkpoint directory, read exactly and hashed. Free of torch: clients of a network serve them, too."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rios.dmoe.manifest import TensorRange
from rios.words.errors import CheckpointCorrupt


class ByteSource(Protocol):
    """Where the bytes of a checkpoint come from."""

    def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
        """The bytes of each range, in order."""
        ...


class FileSource:
    """The files of a checkpoint directory.

    `files` is `Manifest.files`. Raises CheckpointCorrupt for a file of another size than it says, and for a
    range outside the files it names: a manifest may come from another host.
    """

    def __init__(self, root: str | Path, files: Mapping[str, int]) -> None:
        for name in files:
            check_name(name, "the manifest")
        self._root = Path(root)
        self._files = dict(files)

    def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
        """The bytes of each range, in order. Every byte is read once."""
        buffers = [bytearray()] * len(ranges)
        by_file: dict[str, list[int]] = defaultdict(list)
        for position, part in enumerate(ranges):
            by_file[part.file].append(position)
        for name, positions in by_file.items():
            descriptor = self._open(name)
            try:
                for position in positions:
                    buffers[position] = _read_exactly(descriptor, ranges[position], self._files[name])
            except OSError as error:
                raise CheckpointCorrupt(f"{name}: {error.strerror or error}") from error
            finally:
                os.close(descriptor)
        return buffers

    def _open(self, name: str) -> int:
        if name not in self._files:
            raise CheckpointCorrupt(f"{name}: not a file of this checkpoint")
        try:
            descriptor = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointCorrupt(f"{name}: {error.strerror or error}") from error
        size = os.fstat(descriptor).st_size
        if size != self._files[name]:
            os.close(descriptor)
            raise CheckpointCorrupt(f"{name}: it has {size} bytes, the manifest says {self._files[name]}")
        return descriptor


def shard_sha256(buffers: Iterable[bytes | bytearray | memoryview]) -> str:
    """SHA-256 over the concatenated bytes of a shard, in the order of its ranges."""
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def check_name(name: str, where: str) -> None:
    """Raises CheckpointCorrupt for what is not the name of a file of a checkpoint; `where` is who says it is."""
    # A name, not a path. The file itself may be a link: the caches of downloaded checkpoints are made of
    # them.
    if Path(name).name != name or name in {"", ".", ".."}:
        raise CheckpointCorrupt(f"{where}: {name!r} is not the name of a file of the checkpoint")


def _read_exactly(descriptor: int, part: TensorRange, size: int) -> bytearray:
    if not 0 <= part.start <= part.stop <= size:
        raise CheckpointCorrupt(f"{part.file}: {part.key} is at bytes {part.start} to {part.stop}, the file has {size}")
    buffer = bytearray(part.nbytes)
    view = memoryview(buffer)
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [view[done:]], part.start + done)
        if count == 0:
            raise CheckpointCorrupt(f"{part.file}: it ended while {part.key} was read")
        done += count
    return buffer
