"""Snapshots on a host: taken of a volume that lies there, kept in its store of chunks, restored into a new volume."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from rios.deploy.volumes import SIZE_MIN, Volumes
from rios.services.deployments.contents import Content, Contents
from rios.words.errors import InvalidRequest, NetworkClosed, NotFound, SandboxFailed

STILL_S, PAUSED_S = 120.0, 600.0
"""For so long a volume is frozen: while its application runs, which waits; and while nothing does."""
_READ_BEFORE_BYTES = 64 << 20
_ATTEMPTS = 3
_LOOK_S = 0.2
"""How often is looked whether whoever asked still waits."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that a host keeps."""

    digest: str
    """The SHA-256 of what it consists of."""
    size_bytes: int
    """Of all its files, as an archive."""
    quota_bytes: int
    """Of the volume; 0 where the host enforces none."""


class Snapshots(Protocol):
    """What a host does with snapshots. Every verb may be repeated.

    Those that read or make a volume raise NetworkClosed where nobody waits for them any more.
    """

    def take(self, organisation_id: str, app_id: str, path: str, snapshot_id: str) -> Taken:
        """A snapshot of the volume that a deployment mounts at `path`, kept on this host; the same one when repeated.

        It is crash-consistent: as `Volumes.archived` says, frozen while it is read where the host enforces quotas, and
        refused where it does not as long as the deployment runs, or where a replica was started meanwhile. Raises
        NotFound, InvalidRequest, SandboxFailed.
        """

    def get(self, digest: str) -> bytes:
        """An object of the host's store, verified. Raises NotFound."""

    def put(self, digest: str, data: bytes) -> None:
        """Give the host an object. Raises InvalidRequest where its SHA-256 is another one, SandboxFailed."""

    def keep(self, app_id: str, snapshot_id: str, digest: str) -> list[str]:
        """Have a snapshot of this content kept; or some of the objects that are missing, after which to ask again.

        Raises InvalidRequest for what is no SHA-256.
        """

    def damaged(self, digests: Sequence[str]) -> list[str]:
        """Those of the objects that it has not whole: each is read, and missing from then on where it is damaged.

        Raises InvalidRequest for more than `contents.READ_MAX`, or what is no SHA-256, and SandboxFailed where one is
        there that cannot be read just now.
        """

    def is_made(self, organisation_id: str, app_id: str, path: str) -> bool:
        """Whether there is such a volume."""

    def restore(self, organisation_id: str, app_id: str, path: str, *, size_bytes: int, digest: str) -> list[str]:
        """Make the volume with what a snapshot of this content has; or some of the objects that are missing.

        A volume that is there already stays as it is. size_bytes: its quota. Raises SandboxFailed.
        """

    def unmake(self, organisation_id: str, app_id: str, path: str) -> None:
        """Remove a volume whose deployment has its volumes on another host.

        Raises InvalidRequest while a replica of it runs here.
        """

    def kept(self) -> list[tuple[str, str]]:
        """The deployments and ids of all that it keeps."""

    def drop(self, app_id: str, snapshot_id: str) -> None:
        """Keep a snapshot no longer."""


class HostSnapshots:
    """Those of this machine. It meets `Snapshots`."""

    def __init__(
        self,
        name: str,
        contents: Contents,
        volumes: Volumes,
        place: Callable[[str, str, str], Path],
        *,
        runs: Callable[[str], bool],
        making: Callable[[str], contextlib.AbstractContextManager[None]],
    ) -> None:
        """name: the host's. place: where the volume of an organisation's deployment at a path lies.

        runs: whether anything of a deployment runs here. making: while volumes of one are made (`VolumeTurns`).
        """
        self._name, self._contents, self._volumes = name, contents, volumes
        self._place, self._runs, self._making = place, runs, making
        self._turn = threading.Lock()
        """One volume is read or made at a time: who asks again, for an answer was lost, finds what was done."""
        self._wanted, self._leaving = object(), threading.Event()
        """Another object as soon as nobody waits any more for what is under way."""
        self._begun, self._number = dict[str, int](), itertools.count()
        """By deployment: another number whenever the start of a replica begins or ends."""

    def __repr__(self) -> str:
        return f"<HostSnapshots {self._name}>"

    def take(self, organisation_id: str, app_id: str, path: str, snapshot_id: str) -> Taken:
        """As the protocol says."""
        place = self._place(organisation_id, app_id, path)
        with self._alone() as check:
            digest = self._contents.kept(app_id, snapshot_id)
            if digest is None:
                if not self._volumes.exists(place):
                    raise NotFound(f"host {self._name} has no volume at {path} of this deployment")
                digest = self._read(place, app_id, path, check)
                if self._contents.keep(app_id, snapshot_id, digest):
                    raise SandboxFailed(f"chunks of the snapshot {snapshot_id} went away meanwhile: try again")
            size_bytes = Content.of(self._contents.get(digest)).size_bytes
        return Taken(digest, size_bytes, self._volumes.usage(place).size_bytes if self._volumes.exists(place) else 0)

    def give_up(self) -> None:
        """Nobody waits any more for what is read or made now: it is broken off, and NetworkClosed raised there.

        Chunks that have come stay until others are swept: whoever asks again finds them.
        """
        self._wanted = object()

    def leave(self) -> None:
        """This process ends: as `give_up`, and nothing is begun any more."""
        self._leaving.set()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Callable[[], None]]:
        """One volume's turn. What is given raises NetworkClosed as soon as nobody waits for it any more."""
        wanted = self._wanted

        def check() -> None:
            if self._leaving.is_set() or self._wanted is not wanted:
                raise NetworkClosed(f"host {self._name} was told that nobody waits for this: ask again")

        while not self._turn.acquire(timeout=_LOOK_S):
            check()
        try:
            check()
            yield check
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def starting(self, app_id: str) -> Iterator[None]:
        """A replica of a deployment is started inside: what is read meanwhile without being frozen is no snapshot."""
        self._begun[app_id] = next(self._number)
        try:
            yield
        finally:
            self._begun[app_id] = next(self._number)

    def _read(self, place: Path, app_id: str, path: str, check: Callable[[], None]) -> str:
        begun = self._begun.get(app_id)
        runs = self._runs(app_id)
        if runs and not self._volumes.enforced:
            raise InvalidRequest(
                f"host {self._name} freezes no volumes, as without root: pause the deployment for a snapshot of {path}"
            )
        self._volumes.ensure(place, SIZE_MIN)  # mounted again after the machine started anew; none gets smaller
        if runs and self._volumes.usage(place).used_bytes > _READ_BEFORE_BYTES:
            with self._volumes.archived(place, still=False, within_s=PAUSED_S) as stream:
                self._contents.add(_Watched(stream, check))  # most of it is there then, so that writers wait for little
        for _ in range(_ATTEMPTS):
            with self._volumes.archived(place, within_s=STILL_S if runs else PAUSED_S) as stream:
                digest = self._contents.add(_Watched(stream, check))
            if not self._volumes.enforced and (begun != self._begun.get(app_id) or self._runs(app_id)):
                raise SandboxFailed(
                    f"the deployment was resumed on host {self._name} while {path} was read: pause it, and try again"
                )
            if self._contents.is_whole(digest, check=check):  # what was there may have been damaged, and is gone then
                return digest
        raise SandboxFailed(f"host {self._name} does not keep what is written on its disk: look after that")

    def get(self, digest: str) -> bytes:
        """As the protocol says."""
        return self._contents.get(digest)

    def put(self, digest: str, data: bytes) -> None:
        """As the protocol says."""
        self._contents.put(digest, data)

    def keep(self, app_id: str, snapshot_id: str, digest: str) -> list[str]:
        """As the protocol says."""
        return self._contents.keep(app_id, snapshot_id, digest)

    def damaged(self, digests: Sequence[str]) -> list[str]:
        """As the protocol says."""
        return self._contents.damaged(digests)

    def is_made(self, organisation_id: str, app_id: str, path: str) -> bool:
        """As the protocol says."""
        return self._volumes.exists(self._place(organisation_id, app_id, path))

    def restore(self, organisation_id: str, app_id: str, path: str, *, size_bytes: int, digest: str) -> list[str]:
        """As the protocol says."""
        place = self._place(organisation_id, app_id, path)
        with self._alone() as check, self._making(app_id):
            if self._volumes.exists(place):
                return []
            if missing := self._contents.missing(digest):
                return missing
            place.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            try:
                self._volumes.restored(place, size_bytes, _each(self._contents.read(digest), check))
            except SandboxFailed:
                # Damaged chunks are gone by now, and others have them whole.
                if not self._contents.is_whole(digest, check=check):
                    return self._contents.missing(digest)
                raise
        self._contents.sweep()  # what came for this volume alone
        return []

    def unmake(self, organisation_id: str, app_id: str, path: str) -> None:
        """As the protocol says."""
        if self._runs(app_id):
            raise InvalidRequest(f"a replica of {app_id} runs on host {self._name}: its volume at {path} stays")
        with self._alone():
            self._volumes.remove(self._place(organisation_id, app_id, path))

    def kept(self) -> list[tuple[str, str]]:
        """As the protocol says."""
        return self._contents.all_kept()

    def drop(self, app_id: str, snapshot_id: str) -> None:
        """As the protocol says."""
        self._contents.drop(app_id, snapshot_id)

    def forget(self, app_id: str) -> None:
        """A deployment was deleted, and its snapshots with it."""
        self._begun.pop(app_id, None)
        self._contents.forget(app_id)


class _Watched:
    """What a program writes in a pipe, as long as somebody waits for it."""

    def __init__(self, pipe: BinaryIO, check: Callable[[], None]) -> None:
        """pipe: nothing of it has been read yet. check: raises where nobody waits any more."""
        self._fd, self._check = pipe.fileno(), check
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLIN)

    def read(self, size: int, /) -> bytes:
        """So many bytes at most; none at its end."""
        while not self._poller.poll(_LOOK_S * 1000):
            self._check()
        self._check()
        return os.read(self._fd, size)


def _each(data: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for one in data:
        check()
        yield one
