"""Snapshots of a deployment's volumes: `app.snapshots`. The verbs write what is wanted; whoever leads does it."""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import delete, func, insert, select, tuple_, update

from rios.storage.deployment_models import AppSnapshotCopyRow, AppSnapshotRow
from rios.words.display import Shown
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound, SandboxFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.handle import Deployment
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App

T = TypeVar("T")
WANTED, KEPT, FAILED, LEAVING = "wanted", "kept", "failed", "leaving"
"""States of a snapshot; what is leaving is shown to nobody."""
SNAPSHOTS_MAX, COPIES_MAX = 100, 16
EVENT = "snapshot"
"""The kind of events that tell of them."""
OF_VOLUMES = AppSnapshotRow.path.startswith("/")
"""The rows of snapshots; the others are archives, which have their digest there (`archives`)."""
_AT_ONCE = 500
_WAIT_S, _LOOK_S = 600.0, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Shown):
    """All files of a volume, as they were at one moment."""

    id: str
    path: str
    """Where the deployment mounts the volume."""
    state: str
    """wanted, kept or failed."""
    reason: str
    """Why it failed, or has fewer copies than it is to have."""
    size_bytes: int
    """Of its files, as an archive; what it takes of a host's disk is less where others are alike."""
    quota_bytes: int
    """Of the volume that it was taken of; 0 where its host enforces none. One that it is restored into has as much."""
    copies: int
    """So many hosts are to keep it."""
    hosts: tuple[str, ...]
    """Those that do."""
    created_by: str
    created_at: int
    """Microseconds of UTC since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A snapshot as whoever acts sees it."""

    id: str
    app_id: str
    organisation_id: str
    path: str
    state: str
    reason: str
    digest: str
    size_bytes: int
    quota_bytes: int
    copies: int
    created_by: str
    created_at: int
    hosts: tuple[str, ...] = ()


def is_archive(one: Known) -> bool:
    """Whether it is no snapshot of a volume."""
    return not one.path.startswith("/")


class AppSnapshots(Shown):
    """The snapshots of one deployment."""

    def __init__(self, app: Deployment) -> None:
        self._app = app

    def __repr__(self) -> str:
        return f"<AppSnapshots of {self._app.name!r}>"

    def take(self, path: str, *, copies: int = 1, wait: bool = True, timeout: float = _WAIT_S) -> Snapshot:
        """Have a snapshot of the volume that is mounted at `path` taken and kept by so many hosts; what it is then.

        It is crash-consistent: its files are those of one moment, at which the file system was frozen, as they would be
        found after a power failure then: whatever an application had synced is there. Who writes waits meanwhile, for
        two minutes at most; pause the deployment where that is too little. A host that enforces no quotas, as without
        root, cannot freeze, and takes none while the deployment runs.

        copies: of hosts; the first is the volume's own, others are of the deployment's region, where it asks for one.
        wait: until the first is kept. timeout: seconds.
        Raises NotFound, InvalidRequest, SandboxFailed where it could not be taken, and DeadlineExceeded; it goes on.
        """
        if isinstance(copies, bool) or not 1 <= copies <= COPIES_MAX:
            raise InvalidRequest(f"{copies!r} is no number of copies from 1 to {COPIES_MAX}")
        name, by = f"snap-{secrets.token_hex(6)}", self._app._by
        store = self._app._store
        at = store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            volumes = store.specification(app.id, app.revision)["volumes"]
            if path not in volumes:
                raise NotFound(f"{app.name} has no volume at {path!r}; it has {', '.join(volumes) or 'none'}")
            row = AppSnapshotRow
            mine = (row.app_id == app.id, row.state != LEAVING, OF_VOLUMES)
            if (connection.scalar(select(func.count()).select_from(row).where(*mine)) or 0) >= SNAPSHOTS_MAX:
                raise InvalidRequest(f"{app.name} has {SNAPSHOTS_MAX} snapshots, the most there may be: delete some")
            values = {
                "id": name, "app_id": app.id, "organisation_id": app.organisation_id, "path": path, "state": WANTED,
                "reason": "", "digest": "", "size_bytes": 0, "quota_bytes": 0, "copies": copies, "created_by": by,
                "created_at": at,
            }  # fmt: skip
            connection.execute(insert(row), [values])
            return {"asked_at": app.asked_at}, EVENT, f"{by} wants {name} of {path}"

        self._app._change(change)
        return taken(self._app.name, lambda: self.get(name), wait=wait, timeout=timeout)

    def list(self, *, after: tuple[int, str] = (-1, ""), limit: int | None = None) -> builtins.list[Snapshot]:
        """All of them, oldest first; so many after a moment and id."""
        row = AppSnapshotRow
        mine = (row.app_id == self._app.id, OF_VOLUMES)
        wanted = [*mine, row.state != LEAVING, tuple_(row.created_at, row.id) > after]
        with self._app._store.ledger.database.reading() as connection:
            return [_shown(one) for one in read(connection, *wanted, limit=limit)]

    def get(self, name: str) -> Snapshot:
        """One by its id. Raises NotFound."""
        row = AppSnapshotRow
        with self._app._store.ledger.database.reading() as connection:
            mine = (row.app_id == self._app.id, OF_VOLUMES)
            found = read(connection, row.id == name, *mine, row.state != LEAVING)
        if not found:
            raise NotFound(f"{self._app.name} has no snapshot {name!r}")
        return _shown(found[0])

    def delete(self, name: str) -> None:
        """Keep a snapshot no longer; hosts that do not answer forget it when they are back. Raises NotFound."""

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            row = AppSnapshotRow
            mine = (row.id == name, row.app_id == app.id, row.state != LEAVING, OF_VOLUMES)
            if connection.execute(update(row).where(*mine).values(state=LEAVING)).rowcount != 1:
                raise NotFound(f"{app.name} has no snapshot {name!r}")
            return {"asked_at": app.asked_at}, EVENT, f"{self._app._by} deletes {name}"

        self._app._change(change)


def taken(name: str, look: Callable[[], Snapshot], *, wait: bool, timeout: float, look_s: float = _LOOK_S) -> Snapshot:
    """A snapshot of the deployment `name` when it is kept: see `AppSnapshots.take`."""
    deadline = time.monotonic() + timeout
    while (found := look()).state == WANTED and wait:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{found.id} of {name} is not taken after {timeout:g} s; it goes on")
        time.sleep(look_s)
    if found.state == FAILED and wait:
        raise SandboxFailed(f"{found.id} of {name}: {found.reason}")
    return found


def read(connection: Connection, *wanted: Any, limit: int | None = None) -> list[Known]:
    """Snapshots with the hosts that keep them, oldest first."""
    row, copy = AppSnapshotRow, AppSnapshotCopyRow
    columns = [getattr(row, name) for name in Known.__slots__ if name != "hosts"]
    query = select(*columns).where(*wanted).order_by(row.created_at, row.id).limit(limit)
    found = [dict(one) for one in connection.execute(query).mappings()]
    hosts: dict[str, list[str]] = {}
    for some in at_once([one["id"] for one in found]):
        kept = select(copy.snapshot_id, copy.host).where(copy.snapshot_id.in_(some))
        for name, host in connection.execute(kept.order_by(copy.host)):
            hosts.setdefault(name, []).append(host)
    return [Known(**one, hosts=tuple(hosts.get(one["id"], ()))) for one in found]


def _shown(one: Known) -> Snapshot:
    return Snapshot(**{name: getattr(one, name) for name in Snapshot.__slots__})


def require(
    connection: Connection,
    organisation_id: str,
    specification: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
) -> None:
    """Raise InvalidRequest where a volume is to begin with what is no snapshot of the organisation, or is larger.

    before: a specification whose volumes are there: what they began with may be gone.
    """
    known = {} if before is None else before["volumes"]
    for path, volume in specification["volumes"].items():
        name = volume.get("snapshot")
        if name is None or known.get(path, {}).get("snapshot") == name:
            continue
        found = one_of(connection, organisation_id, name)
        if found is None or found.state == FAILED or is_archive(found):
            raise InvalidRequest(f"volumes.{path}.snapshot: the organisation has no snapshot {name!r}")
        if volume["size"] < found.quota_bytes:
            raise InvalidRequest(
                f"volumes.{path}.size: {name} is of a volume of {found.quota_bytes} bytes, and this one has "
                f"{volume['size']}: give it as much"
            )


def one_of(connection: Connection, organisation_id: str, name: str) -> Known | None:
    """A snapshot of an organisation by its id."""
    row = AppSnapshotRow
    found = read(connection, row.id == name, row.organisation_id == organisation_id, row.state != LEAVING)
    return found[0] if found else None


def dropped(connection: Connection, app_id: str) -> None:
    """A deployment was deleted: its hosts forget its snapshots with it."""
    row, copy = AppSnapshotRow, AppSnapshotCopyRow
    mine = select(row.id).where(row.app_id == app_id)
    connection.execute(delete(copy).where(copy.snapshot_id.in_(mine)))
    connection.execute(delete(row).where(row.app_id == app_id))


def restored_from(specification: Mapping[str, Any]) -> Sequence[tuple[str, str, int]]:
    """The volumes that begin with a snapshot: where, which, and their quotas in bytes."""
    volumes = specification["volumes"].items()
    return [(path, one["snapshot"], one["size"]) for path, one in volumes if one.get("snapshot") is not None]


def by_id(store: AppStore, names: Sequence[str]) -> dict[str, Known]:
    """Those of the ids that are snapshots of a deployment, in whatever state."""
    found: dict[str, Known] = {}
    with store.ledger.database.reading() as connection:
        for some in at_once(names):
            found |= {one.id: one for one in read(connection, AppSnapshotRow.id.in_(some))}
    return found


def at_once(names: Sequence[T]) -> Iterator[Sequence[T]]:
    """All of them, some at a time: the parameters of a statement are bounded."""
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def keepers(store: AppStore) -> list[str]:
    """All hosts that keep any snapshot: of as many rows as there are copies."""
    with store.ledger.database.reading() as connection:
        return list(connection.scalars(select(AppSnapshotCopyRow.host).distinct()))


def due(store: AppStore, lost: Sequence[str], *, all_kept: bool) -> list[Known]:
    """Those about which something is to be done. all_kept: also where hosts are too few or too many, `lost` ones not
    counted."""
    row, copy = AppSnapshotRow, AppSnapshotCopyRow
    with store.ledger.database.reading() as connection:
        found = read(connection, row.state.in_((WANTED, LEAVING)))
        if not all_kept:
            return found
        names = set(connection.scalars(select(row.id).where(row.state == KEPT, row.uneven)))
        for some in at_once(lost):  # of that table alone: joined, each host would be looked up for each snapshot
            theirs = (copy.paid.in_((False, True)), copy.host.in_(some))  # both, for the index begins so
            names.update(connection.scalars(select(copy.snapshot_id).where(*theirs)))
        away = set(lost)
        for some in at_once(sorted(names)):  # by ids alone: a database would rather look through all that are kept
            kept = [one for one in read(connection, row.id.in_(some)) if one.state == KEPT]
            found += [one for one in kept if len(set(one.hosts) - away) != one.copies]
    return found


def counted(connection: Connection, name: str) -> None:
    """Note whether as many hosts keep a snapshot as are to: in each transaction that changes which do."""
    row, copy = AppSnapshotRow, AppSnapshotCopyRow
    hosts = select(func.count()).select_from(copy).where(copy.snapshot_id == name).scalar_subquery()
    connection.execute(update(row).where(row.id == name).values(uneven=hosts != row.copies))


def note_paid(connection: Connection, app_id: str, host: str, *, paid: bool) -> None:
    """Note whether a host is paid for the snapshots of a deployment that it keeps."""
    row, copy = AppSnapshotRow, AppSnapshotCopyRow
    mine = select(row.id).where(row.app_id == app_id)
    connection.execute(update(copy).where(copy.host == host, copy.snapshot_id.in_(mine)).values(paid=paid))


def copies(store: AppStore, *, paid: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Deployments and hosts that keep snapshots of them and are not paid for it; or those of the hosts `paid` that are.

    Of one table at a time: joined, a database may look up each host for each snapshot.
    """
    row, copy, found = AppSnapshotRow, AppSnapshotCopyRow, set[tuple[str, str]]()
    asked = [~copy.paid] if paid is None else [copy.paid & copy.host.in_(some) for some in at_once(paid)]
    with store.ledger.database.reading() as connection:
        for one in asked:
            kept = connection.execute(select(copy.snapshot_id, copy.host).where(one)).all()
            for some in at_once(kept):
                names = select(row.id, row.app_id, row.state).where(row.id.in_([name for name, _ in some]))
                apps = {name: app_id for name, app_id, state in connection.execute(names) if state == KEPT}
                found.update((apps[name], host) for name, host in some if name in apps)
    return sorted(found)


def kept_on(store: AppStore, app_id: str, host: str) -> list[Known]:
    """The snapshots of a deployment that a host keeps."""
    row = AppSnapshotRow
    with store.ledger.database.reading() as connection:
        return [one for one in read(connection, row.app_id == app_id) if one.state == KEPT and host in one.hosts]
