"""What a host keeps of snapshots: chunks by their SHA-256, each once, whoever's snapshots it is in.

It is the store that the engine keeps shards in (`rios.dmoe.shard_cache`), in a folder of its own where nothing goes
because others came: a chunk stays as long as a snapshot that is kept here consists of it. What a snapshot consists of
is an object as well, by whose SHA-256 all of it is known: its *content*. So hosts need not trust who gives them a
chunk, and a damaged one counts as none.

    content/chunks/SHA256        a chunk; or a content, {"size": bytes, "chunks": [[SHA256, bytes], ...]}
    content/kept/APP/SNAPSHOT    the SHA-256 of a snapshot's content, and the network that it is of

Archives are kept as snapshots are, and files of reports as if these were snapshots of "reports".

A folder may be several networks': what is alike lies there once for all of them, and each is shown its own snapshots.
Chunks are written while a lock of the folder is shared, and swept by who has it alone. What is swept while another
host's snapshot is still coming is asked for again: `keep` says what is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rios.deploy.chunking import CHUNK_BYTES_MAX, Readable, chunks
from rios.deploy.volumes import synced
from rios.dmoe.shard_cache import ShardCache
from rios.words.canonical import is_sha256
from rios.words.errors import InvalidRequest, NotFound, SandboxFailed

log = logging.getLogger(__name__)

CHUNKS_MAX = 250_000
"""Of one snapshot: some 300 GiB."""
MISSING_MAX = 256
"""So many are said to be missing at once."""
READ_MAX = 64
"""So many are read at once: whoever asks is done soon, and asks for more."""
OBJECT_BYTES_MAX = 1 << 25
_COUNTED_S = 30.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a snapshot consists of."""

    size_bytes: int
    chunks: tuple[tuple[str, int], ...]
    """SHA-256 and size of each, in order."""

    def to_bytes(self) -> bytes:
        """As it is kept."""
        return json.dumps({"size": self.size_bytes, "chunks": self.chunks}, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """The SHA-256 of that: by it all of a content is known."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def of(cls, data: bytes | bytearray) -> Content:
        """What `to_bytes` wrote. Raises InvalidRequest for anything else: it may come from another host."""
        try:
            said = json.loads(data)
            parts = tuple((str(digest), int(size)) for digest, size in said["chunks"])
            size_bytes = int(said["size"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(f"an object of {len(data)} bytes says of no snapshot what it consists of") from error
        fine = all(is_sha256(digest) and 0 < size <= CHUNK_BYTES_MAX for digest, size in parts)
        if not fine or len(parts) > CHUNKS_MAX or size_bytes != sum(size for _, size in parts):
            raise InvalidRequest("what a snapshot consists of makes no sense: its chunks are not what they may be")
        return cls(size_bytes, parts)


class Contents:
    """The chunks of one host, as a network sees them. Processes of one machine share them."""

    def __init__(self, directory: Path, quota_bytes: int, *, name: str, network_id: str) -> None:
        """directory: made when the first chunk comes. quota_bytes: of all chunks. name: of the host, for errors.

        network_id: whose snapshots are shown; chunks of others stay as long as those are kept.
        """
        self._directory, self._quota_bytes, self._name = directory, quota_bytes, name
        self._network_id = network_id
        self._chunks = directory / "chunks"
        self._cache = ShardCache(self._chunks, quota_bytes)
        self._lock = threading.Lock()
        self._counted, self._counted_at = 0, -_COUNTED_S
        self._unswept = False
        """Something would have been removed, had it been readable what snapshots consist of."""

    def __repr__(self) -> str:
        return f"<Contents {self._directory}>"

    # --- chunks ----------------------------------------------------------------------------------------------

    def add(self, stream: Readable) -> str:
        """Keep a stream's chunks, of which those that are here already take no room; the SHA-256 of its content.

        They may be swept before `keep` says of which snapshot they are. Raises InvalidRequest where it is too large,
        and SandboxFailed where there is no room.
        """
        parts: list[tuple[str, int]] = []
        with self._shared():
            for chunk in chunks(stream):
                if len(parts) == CHUNKS_MAX:
                    raise InvalidRequest(f"a snapshot has at most {CHUNKS_MAX} chunks, some 300 GiB")
                parts.append((self._put(chunk), len(chunk)))
            return self._put(Content(sum(size for _, size in parts), tuple(parts)).to_bytes())

    def put(self, digest: str, data: bytes | memoryview) -> None:
        """Keep an object that another host gave. Raises InvalidRequest where it is another one, SandboxFailed."""
        if len(data) > OBJECT_BYTES_MAX or hashlib.sha256(data).hexdigest() != digest:
            raise InvalidRequest(f"{len(data)} bytes are not what has the SHA-256 {digest[:64]!r}")
        with self._shared():
            self._put(data)

    def _put(self, data: bytes | memoryview) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if self._cache.size(digest) == len(data):
            return digest
        with self._lock:
            if time.monotonic() - self._counted_at > _COUNTED_S:
                self._counted, self._counted_at = self._count(), time.monotonic()
            self._counted += len(data)
            if self._counted > self._quota_bytes:
                self._counted_at = -_COUNTED_S
                raise SandboxFailed(
                    f"host {self._name} keeps up to {self._quota_bytes} bytes of snapshots "
                    "(RIOS_APPS_SNAPSHOT_BYTES), and this one has no room there: delete others"
                )
        try:
            self._cache.put(digest, data)
        except OSError as error:
            raise SandboxFailed(f"host {self._name} cannot keep a chunk: {error}") from error
        return digest

    def _count(self) -> int:
        with os.scandir(self._chunks) as found:
            sizes = 0
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    sizes += entry.stat().st_size
        return sizes

    def get(self, digest: str) -> bytes:
        """An object by its SHA-256, verified. Raises NotFound: it is not here, or was damaged."""
        found = self._cache.get(digest) if is_sha256(digest) else None
        if found is None:
            raise NotFound(f"host {self._name} has no object {digest[:64]!r}")
        return bytes(found)

    def read(self, digest: str) -> Iterator[bytes]:
        """What was added as a stream, chunk by chunk, verified. Raises SandboxFailed where a chunk is missing."""
        try:
            with self._shared():
                for chunk, _ in Content.of(self.get(digest)).chunks:
                    yield self.get(chunk)
        except NotFound as error:
            raise SandboxFailed(f"a snapshot cannot be read: {error}") from error

    def missing(self, digest: str) -> list[str]:
        """Some of the objects that a content needs and that are not here, `MISSING_MAX` at most; none where all are.

        Raises InvalidRequest for what is no SHA-256.
        """
        try:
            content = Content.of(self.get(_checked(digest)))
        except NotFound:
            return [digest]
        found: list[str] = []
        for chunk, size in dict.fromkeys(content.chunks):
            if self._cache.size(chunk) != size:
                found.append(chunk)
                if len(found) == MISSING_MAX:
                    break
        return found

    # --- snapshots -------------------------------------------------------------------------------------------

    def keep(self, app_id: str, snapshot_id: str, digest: str) -> list[str]:
        """From now on a snapshot of this content is kept here, also when the machine stops; or what is missing yet."""
        with self._shared():
            if missing := self.missing(digest):
                return missing
            place = self._kept(app_id)
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = place / f".{snapshot_id}.{os.urandom(4).hex()}"
            new.write_text(f"{digest} {self._network_id}")
            synced(self._directory)
            new.replace(place / snapshot_id)
            synced(self._directory)
        if self._unswept:
            self.sweep()
        return []

    def kept(self, app_id: str, snapshot_id: str) -> str | None:
        """The SHA-256 of the content of a snapshot that is kept here."""
        try:
            return _said(self._kept(app_id) / snapshot_id)[0] or None
        except FileNotFoundError:
            return None

    def all_kept(self) -> list[tuple[str, str]]:
        """The deployments and ids of all snapshots of the network that are kept here.

        Others are no strays of it: their network has them in its tables.
        """
        found = list[tuple[str, str]]()
        for path in sorted(self._directory.glob("kept/*/*")):
            with contextlib.suppress(FileNotFoundError):  # it was dropped just now
                if not path.name.startswith(".") and _said(path)[1] == self._network_id:
                    found.append((path.parent.name, path.name))
        return found

    def is_whole(self, digest: str, *, check: Callable[[], None] = lambda: None) -> bool:
        """Whether all of a content is here, each chunk read and verified; damaged ones are removed.

        check: called before each, and raises where nobody wants to know any more.
        """
        try:
            for _ in self.read(digest):
                check()
        except SandboxFailed as error:
            log.warning("a snapshot is damaged", extra={"host": self._name, "reason": str(error)})
            return False
        return True

    def damaged(self, digests: Sequence[str]) -> list[str]:
        """Those of the objects that are not here whole: each is read, and removed where it is damaged.

        Raises InvalidRequest for more than `READ_MAX`, or what is no SHA-256, and SandboxFailed where one is here that
        cannot be read just now.
        """
        if len(digests) > READ_MAX:
            raise InvalidRequest(f"{len(digests)} objects are too many to be read at once: {READ_MAX} are the most")
        found = [digest for digest in digests if self._cache.get(_checked(digest)) is None]
        for digest in found:
            if self._cache.size(digest) is not None:
                raise SandboxFailed(f"host {self._name} cannot read its object {digest}: look after its disk")
        return found

    def drop(self, app_id: str, snapshot_id: str) -> None:
        """A snapshot is kept here no more, and with it go the chunks that no other one consists of."""
        (self._kept(app_id) / snapshot_id).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are kept
            self._kept(app_id).rmdir()
        self.sweep()

    def forget(self, app_id: str) -> None:
        """None of a deployment's snapshots is kept here any more."""
        names = self._names(app_id)
        for name in names:
            (self._kept(app_id) / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._kept(app_id).rmdir()
        if names:
            self.sweep()

    def _kept(self, app_id: str) -> Path:
        return self._directory / "kept" / app_id

    def _names(self, app_id: str) -> list[str]:
        place = self._kept(app_id)
        return [one.name for one in place.iterdir()] if place.is_dir() else []

    def _marked(self, kept: list[Path], unread: list[str] | None = None) -> dict[str, int]:
        """The objects that snapshots consist of, with their sizes; `unread` is given those that nobody can read."""
        found: dict[str, int] = {}
        for path in kept:
            with contextlib.suppress(FileNotFoundError):
                digest, _ = _said(path)
                found[digest] = self._cache.size(digest) or 0
                try:
                    found.update(Content.of(self.get(digest)).chunks)
                except NotFound:
                    if unread is not None:
                        unread.append(path.name)
        return found

    # --- the folder ------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove what no snapshot consists of, unless chunks are being written: then another time."""
        if not self._chunks.is_dir():
            return
        with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if not alone:
                return
            for path in self._directory.glob("kept/*/.*"):  # whoever wrote it was killed: it is kept by nobody
                path.unlink(missing_ok=True)
            unread: list[str] = []
            marked = self._marked(list(self._directory.glob("kept/*/*")), unread)
            self._unswept = bool(unread)
            if unread:  # damaged, or not to be opened just now: its chunks are not known, and may be all there is of it
                log.warning(
                    "no chunk is removed: what snapshots consist of is not readable", extra={"snapshots": unread}
                )
                return
            for entry in list(os.scandir(self._chunks)):
                if entry.name not in marked:
                    Path(entry.path).unlink(missing_ok=True)
            self._counted_at = -_COUNTED_S

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        """Nothing is swept meanwhile."""
        self._chunks.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[bool]:
        with (self._directory / "lock").open("w") as file:
            try:
                fcntl.flock(file, how)
            except BlockingIOError:
                yield False
                return
            yield True


def _said(kept: Path) -> tuple[str, str]:
    """The SHA-256 of a kept snapshot's content, and its network; nothing for what was kept before that was written."""
    digest, _, network_id = kept.read_text().partition(" ")
    return digest, network_id


def _checked(digest: str) -> str:
    if not is_sha256(digest):
        raise InvalidRequest(f"{digest[:80]!r} is no SHA-256: that has 64 hexadecimal digits, in lower case")
    return digest
