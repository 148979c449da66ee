"""Archives that deployments stand on (`rootfs`): read where somebody deploys, and known by their content from then on.

The process in which a file is named gives its chunks to a host that may run the deployment. Whoever leads has them kept
there and by another host, as snapshots are (`snapshotting`), and paid for so; a host that is to start a
replica gets what it lacks from whichever has it (`bringing`). No host opens a path that a deployment names.

In a specification that is stored an archive is "PATH@sha256:DIGEST", of the file's bytes. Its row is among those of
snapshots, with that digest where a volume's has the place that it is mounted at.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from rios.deploy.chunking import chunks
from rios.deploy.runtimes.rootfs import BYTES_MAX, check, is_image, split_name
from rios.deploy.scheduling import admits
from rios.deploy.spec import App as Specification
from rios.deploy.spec import Schedule
from rios.services.deployments.contents import Content
from rios.services.deployments.giving import damaged_of, give
from rios.services.deployments.snapshots import FAILED, KEPT, LEAVING, OF_VOLUMES, WANTED, Known, read
from rios.storage.deployment_models import AppRevisionRow, AppSnapshotCopyRow, AppSnapshotRow
from rios.words.errors import HostLost, InvalidRequest, NotFound, RiosError, SandboxFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.host_snapshots import Snapshots
    from rios.services.deployments.hosts import Host, Hosts
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

COPIES = 2
"""So many hosts keep an archive, where there are as many."""
_HOSTS_S, _LOOK_S = 20.0, 0.1
"""A process that has only just begun waits so long for a host that says what it has."""
_GIVEN_S = 1800.0
_NO_HOST = "no host that may run it takes archives just now; an image of a registry needs none"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that was read here."""

    path: Path
    digest: str
    """ "sha256:..." of its bytes."""
    content: Content

    @classmethod
    def of(cls, path: Path) -> Archive:
        """Raises InvalidRequest where there is none, or where it has no place on a host."""
        require_archive(path)
        whole, parts = hashlib.sha256(), list[tuple[str, int]]()
        with path.open("rb") as file:
            for chunk in chunks(file):
                whole.update(chunk)
                parts.append((hashlib.sha256(chunk).hexdigest(), len(chunk)))
        content = Content(sum(size for _, size in parts), tuple(parts))
        if content.size_bytes > BYTES_MAX:
            raise InvalidRequest(f"{path} has {content.size_bytes} bytes: {BYTES_MAX} are the most that a host takes")
        return cls(path, f"sha256:{whole.hexdigest()}", content)

    @property
    def content_digest(self) -> str:
        """The SHA-256 of what it consists of."""
        return self.content.digest

    def give(self, ask: Callable[[], Sequence[str]], put: Callable[[str, bytes], None]) -> None:
        """Give a host what it says that it is missing, until nothing is.

        Raises InvalidRequest where the file has changed since it was read, and what `giving.give` raises.
        """
        with self.path.open("rb") as file:

            def chunk(digest: str, offset: int, size: int) -> bytes:
                file.seek(offset)
                data = file.read(size)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise InvalidRequest(f"{self.path} has changed while it was read: deploy it again")
                return data

            give(str(self.path), self.content, chunk, ask, put, within_s=_GIVEN_S)


class Standing:
    """What a deployment that is about to be written stands on: nothing that has to be given, an archive that is known,
    or one that is read here."""

    def __init__(self, wanted: Specification, hosts: Callable[[], Hosts]) -> None:
        """hosts: of the network, where a file is to be given to one. Raises InvalidRequest, as `Archive.of`."""
        self._hosts = hosts
        self._archive: Archive | None = None
        self._to: Host | None = None
        self._row = ""
        self.wanted = wanted
        """The specification, an archive in it by its digest."""
        if wanted.rootfs is not None and not split_name(wanted.rootfs)[1]:
            self._archive = Archive.of(Path(wanted.rootfs))
            self.wanted = wanted.model_copy(update={"rootfs": f"{wanted.rootfs}@{self._archive.digest}"})

    def give(self, store: AppStore, app_id: str = "") -> None:
        """Before anything is written: give the archive to a host, unless the deployment has it. Raises what `Archive.
        give` does, and SandboxFailed where no host takes it."""
        found = self._archive
        if found is None or (app_id and is_kept(store, app_id, found.digest)):
            return
        self._to, snapshots = _taker(self._hosts(), self.wanted.schedule)
        found.give(damaged_of(found.content, snapshots.damaged), snapshots.put)

    def require(self, connection: Connection, app: App) -> None:
        """Raise InvalidRequest for a digest of an archive that the deployment does not have."""
        if self.wanted.rootfs is None or self._to is not None:
            return
        path, digest = split_name(self.wanted.rootfs)
        if not _rows(connection, app.id, digest, WANTED, KEPT):
            raise InvalidRequest(f"rootfs: {app.name} has no archive {digest} any more: name its file, {path}, again")

    def record(self, connection: Connection, app: App, *, by: str, at: int) -> None:
        """In the transaction that writes the deployment."""
        found, host = self._archive, self._to
        if found is None or host is None or _rows(connection, app.id, found.digest, WANTED, KEPT):
            return
        self._row = f"arch-{secrets.token_hex(6)}"
        values = {
            "id": self._row, "app_id": app.id, "organisation_id": app.organisation_id, "path": found.digest,
            "state": WANTED, "reason": "", "digest": found.content_digest, "size_bytes": found.content.size_bytes,
            "quota_bytes": 0, "copies": COPIES, "created_by": by, "created_at": at,
        }  # fmt: skip
        connection.execute(insert(AppSnapshotRow), [values])
        connection.execute(insert(AppSnapshotCopyRow), [{"snapshot_id": self._row, "host": host.name}])

    def keep(self, app_id: str) -> None:
        """After it was written: have the host keep what it was given, some of which may have been swept meanwhile.

        Whoever leads does so too; where the host is lost just now, that says what became of it.
        """
        if not self._row or self._archive is None or self._to is None or self._to.snapshots is None:
            return
        snapshots, row, digest = self._to.snapshots, self._row, self._archive.content_digest
        try:
            self._archive.give(lambda: snapshots.keep(app_id, row, digest), snapshots.put)
        except RiosError as error:
            log.warning("an archive is not kept yet", extra={"app": app_id, "reason": str(error)})


def _taker(hosts: Hosts, schedule: Schedule) -> tuple[Host, Snapshots]:
    """The host that an archive is given to first; others get it from there."""
    deadline = time.monotonic() + _HOSTS_S
    while (found := _taker_now(hosts, schedule)) is None:
        if time.monotonic() > deadline:
            raise SandboxFailed(_NO_HOST)
        time.sleep(_LOOK_S)
    return found


def _taker_now(hosts: Hosts, schedule: Schedule) -> tuple[Host, Snapshots] | None:
    """One that may run the deployment, with the most room. This machine last: its name is that of each process's own
    machine, and whoever leads may be on another one."""
    from rios.deploy.runtimes.protocol import Isolation
    from rios.services.deployments.local_host import LocalHost

    found: list[tuple[bool, int, str, Host, Snapshots]] = []
    for name, host in hosts.now().items():
        if host.snapshots is None:
            continue
        try:
            offer = host.offer()
        except HostLost:
            continue
        if admits(offer, isolation=Isolation.named(schedule.isolation), region=schedule.region or None):
            found.append((isinstance(host, LocalHost), -offer.total.disk_bytes, name, host, host.snapshots))
    return min(found, key=lambda one: one[:3])[3:] if found else None


def require_archive(path: Path) -> None:
    """Raise InvalidRequest for what is no archive, or has no place on a host."""
    if not is_image(path):
        check(path)


def is_kept(store: AppStore, app_id: str, digest: str) -> bool:
    """Whether a deployment has an archive, or is about to."""
    with store.ledger.database.reading() as connection:
        return bool(_rows(connection, app_id, digest, WANTED, KEPT))


def archive_of(store: AppStore, app: App, specification: Mapping[str, Any]) -> Known:
    """The archive that a deployment stands on: kept, or wanted still.

    Raises NotFound where it has none (any more), which says what to do.
    """
    path, digest = split_name(str(specification["rootfs"]))
    with store.ledger.database.reading() as connection:
        found = _rows(connection, app.id, digest, WANTED, KEPT, FAILED)
    for state in (KEPT, WANTED):
        if (one := next((one for one in found if one.state == state), None)) is not None:
            return one
    why = f": {found[-1].reason}" if found else ""
    raise NotFound(f"the archive {path} of {app.name} is not kept by any host{why}; update it with rootfs={path!r}")


def _rows(connection: Connection, app_id: str, digest: str, *states: str) -> list[Known]:
    row = AppSnapshotRow
    return read(connection, row.app_id == app_id, row.path == digest, row.state.in_(states)) if digest else []


def let_go(connection: Connection, app_id: str) -> int:
    """Revisions of a deployment were deleted: keep the archives no longer that none of the others stands on."""
    row, revision = AppSnapshotRow, AppRevisionRow
    mine = select(row.id, row.path).where(row.app_id == app_id, ~OF_VOLUMES, row.state != LEAVING)
    rows = connection.execute(mine).all()
    if not rows:
        return 0
    kept = " ".join(connection.scalars(select(revision.specification).where(revision.app_id == app_id)))
    gone = [name for name, digest in rows if digest not in kept]
    if gone:
        connection.execute(update(row).where(row.id.in_(gone)).values(state=LEAVING))
    return len(gone)
