"""Volumes that deleted deployments left on hosts: known from their deployment's end until another one has them.

A kept volume is taken in the transaction that wants it, and is the taker's, paid for by it, from the one on in which
its first replica with it is about to start (`settle`). From then on it is moving: its host renames it before that
start, or before it forgets the taker, whichever comes first (`brought`), and nothing is known of it as a kept one any
more. What a wish took that nothing came of is kept again. Each act may be cut off anywhere and is begun again from the
tables.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, or_, select, update

from rios.services.deployments import places
from rios.services.deployments.rent import sizes_of
from rios.services.deployments.store import AppStore, Lease, NotYet, require_leader
from rios.storage.deployment_models import AppKeptVolumeRow, AppPlaceRow, AppReplicaRow, AppRevisionRow, AppRow
from rios.words.errors import HostLost, InvalidRequest, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.hosts import Host
    from rios.services.deployments.values import App, Replica

log = logging.getLogger(__name__)

KEPT, TAKEN, MOVING, LEAVING = "kept", "taken", "moving", "leaving"
"""States: what is moving or leaving is no kept volume to anybody but its host."""
_LEFT_MAX = 100
Act = tuple[str, str, Callable[[], None]]
"""Whose share of threads it takes, what it is about, and what does it."""


def named(specification: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The kept volumes that a specification names: id and quota in bytes, by where they are mounted."""
    volumes = specification["volumes"].items()
    return {path: (one["kept"], one["size"]) for path, one in volumes if one.get("kept") is not None}


def known(connection: Connection, *wanted: Any) -> list[Mapping[str, Any]]:
    """The rows of some, as they are now."""
    table = AppKeptVolumeRow.__table__
    return [dict(one) for one in connection.execute(select(table).where(*wanted)).mappings()]


def lying(connection: Connection, app_id: str) -> dict[str, dict[str, int]]:
    """Where volumes of a deployment lie: by host, their quotas in bytes by where they are mounted."""
    row = AppPlaceRow
    found = connection.execute(select(row.host, row.sizes).where(row.app_id == app_id, row.volumes))
    # Beside them are sizes of what is no volume, which no path is called.
    return {
        host: {path: size for path, size in json.loads(sizes or "{}").items() if path.startswith("/")}
        for host, sizes in found
    }


def homes_of(store: AppStore, app_id: str, specification: Mapping[str, Any]) -> frozenset[str]:
    """The hosts where volumes of a deployment lie, or those that it is to have."""
    row, ids = AppKeptVolumeRow, [name for name, _ in named(specification).values()]
    if (homes := places.hosts_of(store, app_id, volumes=True)) or not ids:
        return homes
    with store.ledger.database.reading() as connection:
        return frozenset(connection.scalars(select(row.host).where(row.id.in_(ids), row.taker == app_id)))


def settle(connection: Connection, one: Replica, specification: Mapping[str, Any]) -> None:
    """From now on the volumes of a replica's deployment lie on its host, those among them that it took.

    Raises InvalidRequest where that cannot be: nothing of it is written then.
    """
    places.settle(connection, one)
    there = lying(connection, one.app_id).get(one.host, {})
    row = AppKeptVolumeRow
    for path, (name, _) in named(specification).items():
        mine = (row.id == name, row.taker == one.app_id, row.taker_path == path, row.state == TAKEN)
        found = known(connection, *mine)
        if bool(found) == (path in there):
            raise InvalidRequest(
                f"another volume is at {path} by now, where {name} was to be" if found else f"{name} is kept no longer"
            )
        if found and found[0]["host"] != one.host:
            raise InvalidRequest(f"{name} is on {found[0]['host']}, and its other volumes are on {one.host}")
        connection.execute(update(row).where(*mine).values(state=MOVING))


def left(connection: Connection, app: App, specification: Mapping[str, Any], *, at: int) -> None:
    """Know the volumes that a deployment leaves, in the transaction that ends it, before its places are forgotten.

    Those that `forget` takes away are none of them. Of earlier revisions alone it does not know: what the last of those
    says holds for them, and those that are not to be kept leave their hosts as if somebody had deleted them.
    """
    row, volumes, there = AppKeptVolumeRow, specification["volumes"], lying(connection, app.id)
    keep = _to_keep(connection, app, specification) if there else {}
    back = {"state": KEPT, "taker": "", "taker_path": ""}
    connection.execute(update(row).where(row.taker == app.id, row.state == TAKEN).values(**back))
    rows = [
        {
            "id": f"vol-{secrets.token_hex(6)}", "app_id": app.id, "organisation_id": app.organisation_id,
            "path": path, "host": host, "quota_bytes": quota, "kept_at": at,
            **back, "state": KEPT if keep.get(path, True) else LEAVING,
        }
        for host, sizes in there.items()
        for path, quota in (sizes or sizes_of(specification)).items()
        if path not in volumes or volumes[path]["keep"]
    ]  # fmt: skip
    if rows:
        connection.execute(insert(row), rows)


def _to_keep(connection: Connection, app: App, specification: Mapping[str, Any]) -> dict[str, bool]:
    """Whether volumes are to be kept, by where they are mounted: as the wanted revision says, or the last that does."""
    row = AppRevisionRow
    others = select(row.specification).where(row.app_id == app.id).order_by(row.number.desc())
    found: dict[str, bool] = {}
    for one in (specification, *map(json.loads, connection.scalars(others))):
        for path, volume in one["volumes"].items():
            found.setdefault(path, volume["keep"])
    return found


# --- on hosts -------------------------------------------------------------------------------------------------


def brought(store: AppStore, app_id: str, host: Host, lease: Lease, *, ends: bool = False) -> None:
    """Have a host rename what a deployment took, if there is any. ends: one that is gone is no reason not to go on.

    Raises NotFound where it is gone, and NotYet where the host has not ended the one before.
    """
    row, place = AppKeptVolumeRow, AppPlaceRow
    mine = (row.taker == app_id, row.host == host.name, row.state == MOVING)
    with store.ledger.database.reading() as connection:
        if not (found := known(connection, *mine)):
            return
        before = [one["app_id"] for one in found]
        busy = connection.scalars(select(place.app_id).where(place.app_id.in_(before), place.host == host.name)).all()
    if busy:
        raise NotYet(f"host {host.name} has not ended {busy[0]}, which had the volume before")
    for one in found:
        try:
            host.move_volume(
                one["organisation_id"], one["app_id"], one["path"], to_app=app_id, to_path=one["taker_path"]
            )
        except NotFound:
            if not ends:
                raise
        _gone(store, one["id"], MOVING, lease)


def _gone(store: AppStore, name: str, state: str, lease: Lease) -> None:
    """A volume is not a kept one any more."""
    row = AppKeptVolumeRow

    def run(connection: Connection) -> None:
        require_leader(connection, *lease)
        connection.execute(delete(row).where(row.id == name, row.state == state))

    store.transact(lambda batch: run(batch.connection))


def forgets(
    store: AppStore, host: Host, organisation_id: str, app_id: str, specification: Mapping[str, Any], lease: Lease
) -> None:
    """Have a host forget a deployment that was deleted, with what it took and had not got yet."""
    brought(store, app_id, host, lease, ends=True)
    host.forget(organisation_id, app_id, specification)


def forgot(
    store: AppStore, app: App, specification: Mapping[str, Any], hosts: Mapping[str, Host], lease: Lease
) -> list[str]:
    """Have each host forget a deployment that has no replica any more; those that have."""
    from rios.services.deployments.hosts import APP

    done = []
    for name in places.hosts_of(store, app.id) & hosts.keys():  # nothing of it ever was on others
        host = hosts[name]
        try:
            for status in host.instances():
                if status.labels.get(APP) == app.id:  # its replicas have ended; this is being cleared, or was not
                    host.clear(status.instance)
            forgets(store, host, app.organisation_id, app.id, specification, lease)
        except HostLost as error:
            # It is asked again when it is back (`forget_left`), and orphans are cleared away then as ever.
            log.info("a host is to forget later", extra={"host": name, "app": app.id, "reason": str(error)})
        else:
            done.append(name)
    return done


def is_any_left(store: AppStore) -> bool:
    """Whether some host has not forgotten a deployment that was deleted, or not removed a volume."""
    leaving = select(AppKeptVolumeRow.id).where(AppKeptVolumeRow.state == LEAVING).limit(1)
    with store.ledger.database.reading() as connection:
        if connection.execute(leaving).first() is not None:
            return True
    return places.is_any_left(store)


def due(store: AppStore, hosts: Mapping[str, Host], lease: Lease) -> Iterator[Act]:
    """What is to be done about kept volumes. hosts: those that answer."""
    with store.ledger.database.reading() as connection:
        leaving = _leaving(connection, hosts.keys())
        unneeded = connection.execute(select(AppKeptVolumeRow.id).where(*_unneeded()).limit(1)).first()
    for one in leaving:
        yield one["host"], one["id"], partial(_removed, store, hosts[one["host"]], one, lease)
    if unneeded is not None:
        yield "", "kept volumes", partial(_back, store, lease)


def _leaving(connection: Connection, hosts: Collection[str]) -> list[Mapping[str, Any]]:
    """Those that some hosts are to remove, and whose deployments they have ended."""
    row, place = AppKeptVolumeRow, AppPlaceRow
    busy = select(place.host).where(place.app_id == row.app_id, place.host == row.host).exists()
    wanted = select(row.__table__).where(row.state == LEAVING, row.host.in_(hosts), ~busy).limit(_LEFT_MAX)
    return [dict(one) for one in connection.execute(wanted).mappings()]


def _removed(store: AppStore, host: Host, one: Mapping[str, Any], lease: Lease) -> None:
    host.remove_volume(one["organisation_id"], one["app_id"], one["path"])
    _gone(store, one["id"], LEAVING, lease)
    log.info("a kept volume was removed", extra={"host": host.name, "volume": one["id"]})


def _unneeded() -> tuple[Any, ...]:
    """Which are taken for what nobody wants any more, as a revision that was gone back from before it could start."""
    row, app, revision, replica = AppKeptVolumeRow, AppRow, AppRevisionRow, AppReplicaRow
    mine = (replica.app_id == row.taker, replica.revision == revision.number, replica.ended_at == 0)
    runs = select(replica.id).where(*mine).correlate(row, revision).exists()
    wanted = or_(revision.number == app.revision, revision.number == app.good_revision, runs)
    needed = (
        select(revision.number)
        .join(app, app.id == revision.app_id)
        .where(revision.app_id == row.taker, app.ended_at == 0, wanted, revision.specification.contains(row.id))
        .correlate(row)
    )
    return row.state == TAKEN, ~needed.exists()


def _back(store: AppStore, lease: Lease) -> None:
    """Keep again what is taken for nothing."""

    def run(connection: Connection) -> None:
        require_leader(connection, *lease)
        back = {"state": KEPT, "taker": "", "taker_path": ""}
        connection.execute(update(AppKeptVolumeRow).where(*_unneeded()).values(**back))

    store.transact(lambda batch: run(batch.connection))
