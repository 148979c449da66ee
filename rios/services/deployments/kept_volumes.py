"""Volumes that deleted deployments left: `net.deploy.volumes`. The verbs write what is wanted; whoever leads does it.

Nothing is charged for a kept volume, and nothing but its owner's wish removes it, however old it is.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import aliased

from rios.services.deployments.inheriting import KEPT, LEAVING, MOVING, TAKEN, known, lying, named
from rios.services.deployments.store import write_event
from rios.services.deployments.values import App
from rios.storage.deployment_models import AppKeptVolumeRow, AppRevisionRow, AppRow
from rios.words.display import Shown, Unknown, answer
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.platform import Platform

_EVENT = "volume"
"""The kind of events that tell of them."""
_CLUSTER = "kubernetes"
"""The host whose volumes are claims, each with one name for its life: `kubernetes_host.NAME`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVolume(Shown):
    """A volume that was to be kept when its deployment was deleted."""

    id: str
    deployment: str
    """The name of the deployment that left it."""
    path: str
    """Where that mounted it."""
    host: str
    """On whose disk it lies."""
    quota_bytes: int
    taken_by: str
    """The deployment that has it as soon as it starts; empty without one."""
    deleted_at: int
    """When its deployment was: microseconds of UTC since 1970."""


class KeptVolumes(Shown):
    """The kept volumes of one organisation. Nothing is charged for them."""

    def __init__(self, platform: Callable[[], Platform], *, organisation_id: str, by: str) -> None:
        self._platform = platform
        self._organisation_id = organisation_id
        self._by = by

    def __repr__(self) -> str:
        return f"<KeptVolumes of {self._organisation_id}>"

    def _table(self) -> tuple[tuple[str, ...], builtins.list[tuple[object, ...]]]:
        return table_of(answer(self.list))

    def list(self, *, after: tuple[int, str] = (-1, ""), limit: int | None = None) -> builtins.list[KeptVolume]:
        """All of them, those that were left first come first; so many after a moment and id.

        One that a deployment takes (`volumes={"/data": {"size": "10GiB", "kept": ID}}`) is among them until that has
        started with it.
        """
        row = AppKeptVolumeRow
        return self._read(tuple_(row.kept_at, row.id) > after, limit=limit)

    def get(self, name: str) -> KeptVolume:
        """One by its id. Raises NotFound."""
        found = self._read(AppKeptVolumeRow.id == name)
        if not found:
            raise _none(name)
        return found[0]

    def _read(self, *which: Any, limit: int | None = None) -> builtins.list[KeptVolume]:
        row, of, taker = AppKeptVolumeRow, aliased(AppRow), aliased(AppRow)
        columns = (
            row.id, of.name.label("deployment"), row.path, row.host, row.quota_bytes, row.kept_at.label("deleted_at"),
            taker.name.label("taken_by"),
        )  # fmt: skip
        mine = (row.organisation_id == self._organisation_id, row.state.in_((KEPT, TAKEN)))
        wanted = select(*columns).join(of, of.id == row.app_id).outerjoin(taker, taker.id == row.taker).where(*mine)
        page = wanted.where(*which).order_by(row.kept_at, row.id).limit(limit)
        with self._platform().store.ledger.database.reading() as connection:
            found = connection.execute(page).mappings().all()
        return [KeptVolume(**{**one, "taken_by": one["taken_by"] or ""}) for one in found]

    def delete(self, name: str) -> None:
        """Remove one for good, by its id, with all that is in it. A host that does not answer does so when it is back.

        Raises NotFound, and InvalidRequest where a deployment takes it.
        """
        platform, row = self._platform(), AppKeptVolumeRow
        at = platform.store.ledger.now()

        def run(connection: Connection) -> None:
            found = _one(connection, self._organisation_id, name)
            if found is None:
                raise _none(name)
            _require_free(connection, found)
            connection.execute(update(row).where(row.id == name).values(state=LEAVING))
            write_event(connection, _app(connection, found["app_id"]), at, _EVENT, f"{self._by} deletes {name}")

        platform.store.transact(lambda batch: run(batch.connection))
        platform.changed()


def _none(name: str) -> NotFound:
    return NotFound(f"the organisation has no kept volume {name!r}; `net.deploy.volumes` shows those that it has")


def table_of(found: builtins.list[KeptVolume] | Unknown) -> tuple[tuple[str, ...], builtins.list[tuple[object, ...]]]:
    """Kept volumes as they are shown."""
    columns = tuple(field.name for field in fields(KeptVolume))
    if isinstance(found, Unknown):
        return columns[:1], [(found,)]
    return columns, [astuple(one) for one in found]


def take(connection: Connection, app: App, specification: Mapping[str, Any]) -> None:
    """Have the kept volumes that a specification names be those of a deployment, and no other one's.

    Raises InvalidRequest, and has written nothing then.
    """
    wanted, row = named(specification), AppKeptVolumeRow
    if not wanted:
        return
    ids = [name for name, _ in wanted.values()]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise InvalidRequest(f"volumes: {min(twice)} is to be at two places, and is one volume")
    there = lying(connection, app.id)
    hosts, own, taken = set(there), {path for sizes in there.values() for path in sizes}, dict[str, str]()
    for path, (name, size) in wanted.items():
        at, found = f"volumes.{path}.kept: ", _one(connection, app.organisation_id, name)
        if found is None:
            if path in own and _began_so(connection, app, name):
                continue  # it has been its own since an earlier revision
            raise InvalidRequest(f"{at}the organisation has no kept volume {name!r}")
        if found["taker"] != app.id:
            _require_free(connection, found, at=at)
        _require_fits(found, path, size)
        hosts.add(found["host"])
        if found["state"] == MOVING:
            if path != found["taker_path"]:
                raise InvalidRequest(f"{at}{name} is at {found['taker_path']} by now, and stays there")
        elif path in own:
            raise InvalidRequest(f"{at}{app.name} has a volume there already; choose another place for {name}")
        else:
            taken[name] = path
    if len(hosts) > 1:
        raise InvalidRequest(
            f"volumes: those of a deployment lie on one host, and these are on {' and '.join(sorted(hosts))}"
        )
    for name, path in taken.items():
        values = {"state": TAKEN, "taker": app.id, "taker_path": path}
        connection.execute(update(row).where(row.id == name).values(**values))


def _one(connection: Connection, organisation_id: str, name: str) -> Mapping[str, Any] | None:
    """One of an organisation's that is not leaving."""
    row = AppKeptVolumeRow
    found = known(connection, row.id == name, row.organisation_id == organisation_id, row.state != LEAVING)
    return found[0] if found else None


def _require_free(connection: Connection, found: Mapping[str, Any], *, at: str = "") -> None:
    if found["state"] != KEPT:
        taker = _app(connection, found["taker"]).name
        raise InvalidRequest(f"{at}{found['id']} is a volume of {taker} now, at {found['taker_path']}")


def _require_fits(found: Mapping[str, Any], path: str, size: int) -> None:
    if size < found["quota_bytes"]:
        raise InvalidRequest(
            f"volumes.{path}.size: {found['id']} has {found['quota_bytes']} bytes, and this one {size}: give it as much"
        )
    if found["host"] == _CLUSTER:
        raise InvalidRequest(f"volumes.{path}.kept: {found['id']} lies in a cluster, whose volumes keep their names")


def _app(connection: Connection, app_id: str) -> App:
    """A deployment, an ended one too."""
    return App.of(connection.execute(select(AppRow.__table__).where(AppRow.id == app_id)).mappings().one())


def _began_so(connection: Connection, app: App, name: str) -> bool:
    """Whether a revision of a deployment named a kept volume."""
    row = AppRevisionRow
    mine = (row.app_id == app.id, row.specification.contains(name))
    return connection.execute(select(row.number).where(*mine).limit(1)).first() is not None
