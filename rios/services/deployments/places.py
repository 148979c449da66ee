"""Where deployments have run: where their volumes lie, and who is still to forget those that were deleted.

A volume is a directory of one host. What is written in it is there alone: a replica that is begun elsewhere would find
an empty one. So whoever has a volume runs where it lies, all replicas on one host, and waits for it when it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, func, insert, select, union, update

from rios.deploy.deciding import BACKOFF_MAX_US
from rios.deploy.lifecycle import State
from rios.services.deployments.snapshots import at_once
from rios.storage.deployment_models import AppPlaceRow, AppReplicaRow, AppRevisionRow, AppRow
from rios.storage.models import UsageRow
from rios.words.errors import InvalidRequest
from rios.words.ids import Address

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.deploy.scheduling import HostOffer
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App, NewReplica, Replica

_LEFT_MAX = 100


class Left(NamedTuple):
    """What a host has of a deployment that was deleted while it did not answer, or has gone elsewhere."""

    host: str
    organisation_id: str
    app_id: str
    specification: Mapping[str, Any]


def keep(connection: Connection, new: Sequence[NewReplica]) -> None:
    """Keep where replicas are placed, in the transaction that makes them."""
    for one in new:
        known(connection, one.app.id, one.host)


def known(connection: Connection, app_id: str, host: str) -> None:
    """Keep that something of a deployment is on a host."""
    row = AppPlaceRow
    mine = (row.app_id == app_id, row.host == host)
    if connection.execute(select(row.host).where(*mine)).first() is None:
        connection.execute(insert(row), [{"app_id": app_id, "host": host, "volumes": False}])


def settle(connection: Connection, one: Replica) -> None:
    """From now on the volumes of a replica's deployment lie on its host, where it is about to be started.

    Raises InvalidRequest where they lie on another one by now: the next replica is placed there.
    """
    row = AppPlaceRow
    mine = (row.app_id == one.app_id, row.host == one.host)
    known = set(connection.scalars(select(row.host).where(row.app_id == one.app_id, row.volumes)))
    if known and one.host not in known:
        raise InvalidRequest(f"its volumes are on {' and '.join(sorted(known))} by now")
    if not known:
        connection.execute(update(row).where(*mine).values(volumes=True))


def hosts_of(store: AppStore, app_id: str, *, volumes: bool = False) -> frozenset[str]:
    """The hosts where something of a deployment is, or volumes of it are."""
    row = AppPlaceRow
    wanted = select(row.host).where(row.app_id == app_id, *([row.volumes] if volumes else ()))
    with store.ledger.database.reading() as connection:
        return frozenset(connection.scalars(wanted))


def failing(store: AppStore, app: App, views: Sequence[Replica], *, now: int) -> frozenset[str]:
    """Hosts on which the last replica of a deployment's revision could not be started, as long as the longest back-off.

    views: its replicas that have not ended. now: microseconds of UTC. What ended by itself after it had started is no
    fault of its host; nor are replicas that nobody has tried to start yet a sign of anything.
    """
    row = AppReplicaRow
    columns = (row.host, row.created_at, row.started_at, row.outcome)
    lately = (row.app_id == app.id, row.ended_at > now - BACKOFF_MAX_US, row.revision == app.revision)
    with store.ledger.database.reading() as connection:
        known = [(one[0], one[1], one[2], one[3]) for one in connection.execute(select(*columns).where(*lately))]
    known += [(one.host, one.created_at, one.started_at, one.outcome) for one in views if one.revision == app.revision]
    tried = [one for one in known if one[2] or one[3] == State.FAILED]
    last = {host: not started for host, _, started, _ in sorted(tried, key=lambda one: one[1])}
    return frozenset(host for host, failed in last.items() if failed)


def paid_before(store: AppStore, host: str) -> Address | None:
    """Who was paid last for what deployments took of a host; None where nobody was."""
    place, replica, row = AppPlaceRow, AppReplicaRow, UsageRow
    # By what runs and lies there: usage is looked up by request, and all of a network's is too much to look through.
    there = union(select(place.app_id).where(place.host == host), select(replica.id).where(replica.host == host))
    wanted = select(row.owner).where(row.worker == host, row.request_id.in_(there))
    with store.ledger.database.reading() as connection:
        last = connection.scalar(wanted.group_by(row.owner).order_by(func.max(row.at).desc()).limit(1))
    return None if last is None else Address(last)


def home(offers: Mapping[str, HostOffer], homes: frozenset[str]) -> tuple[dict[str, HostOffer], str]:
    """Those of the hosts with a deployment's volumes that can be had; what to say where there is none."""
    found = {name: offers[name] for name in homes & offers.keys()}
    where = " and ".join(sorted(homes))
    return found, "" if found else (
        f"its volumes are on {where}, which does not answer: it goes on there when that is back; "
        "to begin anew without what is in them, delete it and create it again"
    )


def left(store: AppStore, hosts: Collection[str]) -> list[Left]:
    """What some hosts are still to forget of deployments that were deleted: others may never be back."""
    place, app, revision = AppPlaceRow, AppRow, AppRevisionRow
    wanted = (
        select(place.host, app.organisation_id, app.id, revision.specification)
        .join(app, app.id == place.app_id)
        .join(revision, (revision.app_id == app.id) & (revision.number == app.revision))
        .where(place.ended, place.host.in_(hosts))
        .limit(_LEFT_MAX)
    )
    with store.ledger.database.reading() as connection:
        return [Left(one[0], one[1], one[2], json.loads(one[3])) for one in connection.execute(wanted)]


def elsewhere(store: AppStore, host: str) -> list[Left]:
    """Deployments that were to be started on a host, whose volumes lie on another one by now."""
    place, app, revision = AppPlaceRow, AppRow, AppRevisionRow
    wanted = (
        select(app.organisation_id, app.id, revision.specification, app.ended_at)
        .join(revision, (revision.app_id == app.id) & (revision.number == app.revision))
        .join(place, (place.app_id == app.id) & place.volumes)
    )
    with store.ledger.database.reading() as connection:
        # First those without volumes there, of one table: they are few, and deployments many.
        here = list(connection.scalars(select(place.app_id).where(place.host == host, ~place.volumes)))
        found = [connection.execute(wanted.where(app.id.in_(some))).all() for some in at_once(here)]
    # Whether it has ended is not asked for: a database would rather look through all that have not.
    return [Left(host, one[0], one[1], json.loads(one[2])) for some in found for one in some if not one[3]]


def is_any_left(store: AppStore) -> bool:
    """Whether some host has not forgotten a deployment that was deleted."""
    wanted = select(AppPlaceRow.app_id).where(AppPlaceRow.ended).limit(1)
    with store.ledger.database.reading() as connection:
        return connection.execute(wanted).first() is not None


def forgotten(connection: Connection, app_id: str, host: str) -> None:
    """Nothing of a deployment is left on a host."""
    connection.execute(delete(AppPlaceRow).where(AppPlaceRow.app_id == app_id, AppPlaceRow.host == host))
