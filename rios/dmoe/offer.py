"""What a process serves of a checkpoint, and to whom: pieces of the manifest's ranges, and the SHA-256 of whole ones.

CALL    meta {op: "digest", file, start, stop}   a range of the manifest -> ANSWER {sha256}
        meta {op: "chunk", file, start, stop}    a piece of one -> ANSWER {sha256 of the piece}, the piece as body
ANSWER  meta {error, message}                    it is not of the checkpoint, or not here
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import replace

from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.source import ByteSource
from rios.dmoe.wire import Connection, Kind, dump
from rios.words.errors import CheckpointCorrupt, ProtocolError, RiosError

CHUNK_BYTES_MAX = 1 << 24

Place = tuple[str, int, int]
"""File, start and stop of a range."""


class Offer(ABC):
    """The ranges of a checkpoint. Threads may call it at the same time."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    @abstractmethod
    def digest(self, part: TensorRange) -> str:
        """The SHA-256 of a range of the manifest, in hexadecimal; the same whenever it is asked for."""

    @abstractmethod
    def read(self, part: TensorRange, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop` of the file, which are in `part`."""

    def find(self, file: str, start: int, stop: int) -> TensorRange:
        """The range of the manifest that holds all of these bytes. Raises CheckpointCorrupt where none does."""
        starts, parts = self._by_file.get(file, ([], []))
        place = bisect.bisect_right(starts, start) - 1
        if place < 0 or not stop <= parts[place].stop:
            raise CheckpointCorrupt(f"{file[:100]!r} bytes {start}..{stop} are not of one tensor of this checkpoint")
        return parts[place]

    @functools.cached_property
    def _by_file(self) -> dict[str, tuple[list[int], list[TensorRange]]]:
        found: dict[str, list[TensorRange]] = defaultdict(list)
        experts = (parts for layer in self._manifest.layers for parts in layer.experts)
        for parts in (self._manifest.trunk, *experts):
            for part in parts:
                if part.nbytes:
                    found[part.file].append(part)
        ordered = {file: sorted(parts, key=lambda part: part.start) for file, parts in found.items()}
        return {file: ([part.start for part in parts], parts) for file, parts in ordered.items()}


class SourceOffer(Offer):
    """All ranges, from a source that has them all. A range's SHA-256 is that of its first read from then on."""

    def __init__(self, manifest: Manifest, source: ByteSource) -> None:
        super().__init__(manifest)
        self._source = source
        self._digests: dict[Place, str] = {}
        self._lock = threading.Lock()

    def digest(self, part: TensorRange) -> str:
        place = (part.file, part.start, part.stop)
        if place not in self._digests:
            found = hashlib.sha256()
            for start in range(part.start, part.stop, CHUNK_BYTES_MAX):
                found.update(self.read(part, start, min(start + CHUNK_BYTES_MAX, part.stop)))
            with self._lock:
                self._digests.setdefault(place, found.hexdigest())
        return self._digests[place]

    def read(self, part: TensorRange, start: int, stop: int) -> bytearray:
        (data,) = self._source.read([replace(part, start=start, stop=stop)])
        return data


def serve_shards(connection: Connection, offer: Offer) -> None:
    """Answer a peer's requests until it hangs up. Raises ProtocolError for one that makes no sense."""
    connection.send(Kind.WELCOME, timeout_s=5.0)
    while True:
        frame = connection.receive()
        if frame.kind is not Kind.CALL:
            raise ProtocolError(f"a shard connection carries CALL, not {frame.kind.name}")
        said = frame.json()
        try:
            whole = {"digest": True, "chunk": False}[said["op"]]
            file, start, stop = str(said["file"]), int(said["start"]), int(said["stop"])
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ProtocolError(f"a shard request that cannot be read: {error!r}") from error
        if start >= stop or (not whole and stop - start > CHUNK_BYTES_MAX):
            raise ProtocolError(f"a piece of {stop - start} bytes, the bound is {CHUNK_BYTES_MAX}")
        try:
            part = offer.find(file, start, stop)
            if whole and (part.start, part.stop) != (start, stop):
                raise CheckpointCorrupt(f"{file} bytes {start}..{stop} are a piece of {part.key}, not the whole of it")
            data = b"" if whole else offer.read(part, start, stop)
            digest = offer.digest(part) if whole else hashlib.sha256(data).hexdigest()
        except RiosError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            connection.send(Kind.ANSWER, frame.seq, dump(answer), timeout_s=5.0)
            continue
        connection.send(Kind.ANSWER, frame.seq, dump({"sha256": digest}), [data] if data else [], timeout_s=60.0)
