"""Shard bytes over the network: from whoever has them, in chunks, verified, resumed, cached on disk under a quota.

A byte range is asked for by file, start and stop; only ranges of the manifest are served. Fetched ranges are kept in
a cache directory under the SHA-256 of (manifest, range): a broken fetch goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from rios.dmoe.checkpoint import ByteSource
from rios.dmoe.link import Peer
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.wire import Connection, Kind, connect, dump
from rios.words.config import Settings
from rios.words.errors import CheckpointCorrupt, DeadlineExceeded, HostLost, ProtocolError, RiosError

log = logging.getLogger(__name__)

_MAX_CHUNK_BYTES = 1 << 24


def serve_shards(connection: Connection, source: ByteSource) -> None:
    """Answer chunk requests {file, start, stop, key, dtype, shape} from `source` until the peer hangs up."""
    connection.send(Kind.WELCOME, timeout_s=5.0)
    while True:
        frame = connection.receive()
        if frame.kind is not Kind.CALL:
            raise ProtocolError(f"a shard connection carries CALL, not {frame.kind.name}")
        said = frame.json()
        try:
            start, stop = int(said["start"]), int(said["stop"])
            wanted = TensorRange(str(said["file"]), str(said["key"]), start, stop, "U8", (stop - start,))
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ProtocolError(f"a chunk request that cannot be read: {error!r}") from error
        if not 0 < stop - start <= _MAX_CHUNK_BYTES:
            raise ProtocolError(f"a chunk of {stop - start} bytes, the bound is {_MAX_CHUNK_BYTES}")
        try:
            (data,) = source.read([wanted])
        except RiosError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            connection.send(Kind.ANSWER, frame.seq, dump(answer), timeout_s=5.0)
            continue
        digest = hashlib.sha256(data).hexdigest()
        connection.send(Kind.ANSWER, frame.seq, dump({"sha256": digest}), [data], timeout_s=60.0)


class PeerSource:
    """A `ByteSource` that fetches from peers, one after the other when one fails."""

    def __init__(
        self,
        manifest: Manifest,
        deployment: str,
        peers: Sequence[Peer],
        settings: Settings,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._digest = manifest.digest
        self._deployment = deployment
        self._peers = list(peers)
        self._settings = settings
        self._tls = tls
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        home = settings.home or Path.home() / ".cache" / "rios"
        self._cache = home / "shards"
        self.fetched_bytes = 0

    def close(self) -> None:
        """Hang up; a later `read` connects again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
        """The bytes of each range, from the cache or from a peer."""
        with self._lock:
            try:
                return [self._range(part) for part in ranges]
            finally:
                self._hang_up()

    def _range(self, part: TensorRange) -> bytearray:
        size = part.stop - part.start
        name = hashlib.sha256(f"{self._digest}/{part.file}/{part.start}/{part.stop}".encode()).hexdigest()
        path = self._cache / name
        kept = self._kept(path, size)
        if kept is not None:
            return kept
        data = bytearray()
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".part").open("a+b") as partial:
                # Hosts of one machine share the cache: one of them writes a range, another that wants it does without.
                fcntl.flock(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._resume(part, data, partial)
                temporary = path.with_suffix(f".{os.getpid()}")
                temporary.write_bytes(hashlib.sha256(data).digest() + data)
                temporary.replace(path)
                path.with_suffix(".part").unlink(missing_ok=True)
            self._trim()
        except OSError as error:
            log.info("not cached", extra={"file": part.file, "reason": str(error)})
            self._fetch(part, data, None)
        return data

    def _kept(self, path: Path, size: int) -> bytearray | None:
        """A range in the cache, verified."""
        try:
            stored = path.read_bytes()
            if len(stored) == size + 32 and hashlib.sha256(stored[32:]).digest() == stored[:32]:
                os.utime(path)
                return bytearray(stored[32:])
            path.unlink()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("cache not readable", extra={"path": str(path), "reason": str(error)})
        return None

    def _resume(self, part: TensorRange, data: bytearray, partial: BinaryIO) -> None:
        """Go on where a broken fetch stopped."""
        partial.seek(0)
        found = partial.read()
        if len(found) <= part.nbytes:
            data += found
        else:
            partial.truncate(0)
        self._fetch(part, data, partial)

    def _fetch(self, part: TensorRange, data: bytearray, partial: BinaryIO | None) -> None:
        """Append to `data` what is missing of a range, chunk by chunk."""
        while len(data) < part.nbytes:
            start = part.start + len(data)
            chunk = self._chunk(part, start, min(start + self._settings.chunk_bytes, part.stop))
            data += chunk
            if partial is not None:
                partial.write(chunk)

    def _chunk(self, part: TensorRange, start: int, stop: int) -> bytes:
        """One chunk, verified; the next peer when one fails."""
        deadline = time.monotonic() + self._settings.control_timeout_s
        # A silent peer leaves time for each of the others.
        patience_s = self._settings.control_timeout_s / (len(self._peers) + 1)
        reason = "no peer serves its shards"
        while time.monotonic() < deadline and self._peers:
            try:
                connection = self._connected()
                request = {"file": part.file, "key": part.key, "start": start, "stop": stop}
                connection.send(Kind.CALL, 0, dump(request), timeout_s=self._settings.connect_timeout_s)
                frame = connection.receive(patience_s)
                said = frame.json()
                if "error" in said:
                    raise ProtocolError(str(said.get("message")))
                if len(frame.body) != stop - start or hashlib.sha256(frame.body).hexdigest() != said.get("sha256"):
                    raise ProtocolError(f"{len(frame.body)} bytes that do not have their SHA-256")
                self.fetched_bytes += stop - start
                return bytes(frame.body)
            except (HostLost, ProtocolError, DeadlineExceeded) as error:
                reason = str(error)
                log.warning("fetch failed", extra={"peer": self._peers[0].name, "reason": reason})
                self._hang_up()
                self._peers.append(self._peers.pop(0))
                time.sleep(self._settings.reconnect_s)
        raise CheckpointCorrupt(
            f"{part.file} bytes {start}..{stop} could not be fetched within {self._settings.control_timeout_s:g} s "
            f"(RIOS_CONTROL_TIMEOUT_S): {reason}"
        )

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            peer = self._peers[0]
            self._connection, _ = connect(
                peer.address,
                {"role": "shards", "key": peer.key, "deployment": self._deployment},
                timeout_s=self._settings.connect_timeout_s,
                max_bytes=_MAX_CHUNK_BYTES + (1 << 16),
                tls=self._tls,
            )
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _trim(self) -> None:
        """Keep the cache under its quota: what was used longest ago goes first."""
        files: list[tuple[float, int, Path]] = []
        for entry in self._cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another host of this machine was quicker
                found = entry.stat()
                files.append((found.st_mtime, found.st_size, entry))
        total = sum(size for _, size, _ in files)
        for _, size, entry in sorted(files):
            if total <= self._settings.cache_bytes:
                return
            entry.unlink(missing_ok=True)
            total -= size
