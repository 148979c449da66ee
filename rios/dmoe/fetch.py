"""Shard bytes over the network: from whoever has them, in chunks, verified, resumed, and kept on disk under a quota.

A range is known by its SHA-256, which whoever deployed the checkpoint tells (or, when it has gone, another peer); its
chunks may come from any peer, and what has another SHA-256 in the end is thrown away.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rios.dmoe.greeting import connect
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.offer import CHUNK_BYTES_MAX, Offer, Place
from rios.dmoe.peer import Peer
from rios.dmoe.sealed import seal_of
from rios.dmoe.shard_cache import Partial, ShardCache
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Connection, Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import CheckpointCorrupt, DeadlineExceeded, HostLost, ProtocolError, ShardMismatch

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 3  # at a range whose chunks, each of them right, did not make its SHA-256

Taken = TypeVar("Taken")


class PeerSource:
    """A `ByteSource` that fetches from peers.

    `peers` come in the order in which they are asked for chunks, so the one to be spared comes last; it is the first
    to be asked for a range's SHA-256. Without `settings.home` nothing is kept on disk, nor are `private` ranges without
    a key that seals them. `close` ends a `read` that is under way.
    """

    def __init__(
        self,
        manifest: Manifest,
        deployment: str,
        peers: Sequence[Peer],
        settings: Settings,
        *,
        private: bool = False,
    ) -> None:
        self.manifest = manifest
        self.fetched_bytes = 0
        self.digests: dict[Place, str] = {}
        folder = None if settings.home is None else Path(settings.home) / "shards"
        seal = seal_of(settings) if private else None
        if private and seal is None:  # rather nothing on disk than something that others can read
            folder = None
        self.cache = None if folder is None else ShardCache(folder, settings.cache_bytes, seal)
        self._deployment = deployment
        self._peers = tuple(peers)
        self._settings = settings
        self._failures = dict.fromkeys(self._peers, 0)
        self._givers: set[Peer] = set()  # of the range that is being fetched
        self._connections: dict[Peer, Connection] = {}
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PeerSource of {', '.join(peer.name for peer in self._peers)}: {self.fetched_bytes} bytes fetched>"

    def close(self) -> None:
        """Hang up for good; a `read` under way raises HostLost."""
        self._closed.set()
        for connection in list(self._connections.values()):
            connection.close()

    def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
        """The bytes of each range, from the cache or from peers.

        Raises CheckpointCorrupt when nobody gives them within `RIOS_CONTROL_TIMEOUT_S`, ShardMismatch when what is
        given is not what it was when it was first read, and HostLost after `close`.
        """
        with self._lock:
            try:
                return [self._range(part) for part in ranges]
            finally:
                for peer in self._peers:
                    self._hang_up(peer)

    def _range(self, part: TensorRange) -> bytearray:
        if not part.nbytes:
            return bytearray()
        digest = self._digest(part)
        if self.cache is None:
            return self._whole(part, digest, Partial(None, digest))
        kept = self.cache.get(digest)
        if kept is not None and len(kept) == part.nbytes:
            return kept
        with self.cache.partial(digest, part.nbytes) as partial:
            data = self._whole(part, digest, partial)
            partial.keep()
        self.cache.trim()
        return data

    def _digest(self, part: TensorRange) -> str:
        """The SHA-256 of a range: as it was first told, from then on."""
        place = (part.file, part.start, part.stop)
        if place not in self.digests:
            self.digests[place] = self._ask("digest", part, part.start, part.stop, _digest_of, last_first=True)
        return self.digests[place]

    def _whole(self, part: TensorRange, digest: str, partial: Partial) -> bytearray:
        """All of a range: what is there of it already, and the chunks that are missing."""
        for _ in range(_ATTEMPTS):
            self._givers.clear()
            data = partial.found(part.nbytes)
            while len(data) < part.nbytes:
                start = part.start + len(data)
                stop = min(start + min(self._settings.chunk_bytes, CHUNK_BYTES_MAX), part.stop)
                chunk = self._ask("chunk", part, start, stop, _chunk_of)
                self.fetched_bytes += len(chunk)
                data += chunk
                partial.append(chunk)
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            for peer in self._givers:
                self._failures[peer] += 1
            names = sorted(peer.name for peer in self._givers)
            log.warning("fetched bytes thrown away", extra={"file": part.file, "tensor": part.key, "peers": names})
            partial.clear()
        raise ShardMismatch(
            f"{part.file}: {part.key} was fetched {_ATTEMPTS} times and does not have the SHA-256 {digest} of its "
            "first read: the file was changed; deploy it again"
        )

    def _ask(
        self,
        op: str,
        part: TensorRange,
        start: int,
        stop: int,
        take: Callable[[Frame, int], Taken],
        *,
        last_first: bool = False,
    ) -> Taken:
        """One answer that `take` accepts, from the first peer that gives it; those that failed lately come last."""
        settings = self._settings
        request = {"op": op, "file": part.file, "start": start, "stop": stop}
        deadline = time.monotonic() + settings.control_timeout_s
        # A silent peer leaves time for each of the others.
        patience_s = settings.control_timeout_s / (len(self._peers) + 1)
        reason, again = "no peer serves its shards", bool(self._peers)
        while again and not self._closed.is_set():
            again = False
            order = self._peers[::-1] if last_first else self._peers
            for peer in sorted(order, key=self._failures.__getitem__):
                try:
                    frame = self._call(peer, request, patience_s)
                    said = frame.json()
                    if "error" in said:  # it does not have it: no reason to ask it again, nor to think badly of it
                        reason = f"{peer.name}: {said.get('message')}"
                        continue
                    taken = take(frame, stop - start)
                except (HostLost, ProtocolError, DeadlineExceeded) as error:
                    reason, again = f"{peer.name}: {error}", True
                    self._failures[peer] += 1
                    self._hang_up(peer)
                    if not self._closed.is_set():
                        log.warning("fetch failed", extra={"peer": peer.name, "reason": str(error)})
                else:
                    self._failures[peer] = 0
                    self._givers.add(peer)
                    return taken
            if again and time.monotonic() > deadline:
                reason += f"; tried for {settings.control_timeout_s:g} s (RIOS_CONTROL_TIMEOUT_S)"
                break
            if again:
                self._closed.wait(settings.reconnect_s)
        if self._closed.is_set():
            raise HostLost(f"{self._deployment}: the deployment was closed while its shards were fetched")
        raise CheckpointCorrupt(f"{part.file} bytes {start}..{stop} could not be fetched: {reason}")

    def _call(self, peer: Peer, request: dict[str, Any], patience_s: float) -> Frame:
        connection = self._connections.get(peer)
        if connection is None or connection.closed:
            connection, _ = connect(
                peer.address,
                {"role": "shards", "key": peer.key, "deployment": self._deployment},
                timeout_s=min(self._settings.connect_timeout_s, patience_s),
                max_bytes=CHUNK_BYTES_MAX + (1 << 16),
                trust=trust_of(self._settings),
            )
            self._connections[peer] = connection
            if self._closed.is_set():
                connection.close()
        connection.send(Kind.CALL, 0, dump(request), timeout_s=self._settings.connect_timeout_s)
        return connection.receive(patience_s)

    def _hang_up(self, peer: Peer) -> None:
        connection = self._connections.pop(peer, None)
        if connection is not None:
            connection.close()


class KeptOffer(Offer):
    """What a `PeerSource` has on disk: a host that fetched a range serves it to others."""

    def __init__(self, source: PeerSource) -> None:
        super().__init__(source.manifest)
        self._source = source

    def digest(self, part: TensorRange) -> str:
        found = self._source.digests.get((part.file, part.start, part.stop))
        if found is None:
            raise CheckpointCorrupt(f"{part.file}: {part.key} is not here")
        return found

    def read(self, part: TensorRange, start: int, stop: int) -> bytearray:
        cache = self._source.cache
        data = None
        if cache is not None:
            data = cache.piece(self.digest(part), start - part.start, stop - part.start)
        if data is None:
            raise CheckpointCorrupt(f"{part.file}: {part.key} is not here")
        return data


def _digest_of(frame: Frame, _: int) -> str:
    digest = str(frame.json().get("sha256"))
    if not _SHA256.fullmatch(digest):  # it becomes the name of a file
        raise ProtocolError(f"{digest[:100]!r} is not a SHA-256")
    return digest


def _chunk_of(frame: Frame, size: int) -> memoryview:
    if len(frame.body) != size or hashlib.sha256(frame.body).hexdigest() != frame.json().get("sha256"):
        raise ProtocolError(f"{len(frame.body)} bytes that do not have their SHA-256")
    return frame.body
