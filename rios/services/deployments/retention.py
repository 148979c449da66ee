"""How much is kept of what deployments have been through: of each the newest, and of those deleted long ago little.

What is paid for is in the ledger, which keeps it whatever becomes of these rows, with the deployment's id; and who did
what is in the audit. So what goes is the history that a user reads: events, replicas that have ended, revisions that
nothing runs or goes back to. A deployment's own row, what it cost, and the revision that it ended with stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from rios.deploy.deciding import SECOND
from rios.services.deployments import archives
from rios.services.deployments.store import ROTATED, SECRETS, AppStore, Lease, require_leader
from rios.storage.deployment_models import (
    AppEventRow,
    AppImageRow,
    AppLoadRow,
    AppPlaceRow,
    AppReplicaRow,
    AppRevisionRow,
    AppRow,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.words.config import Settings

_DAY = 86_400 * SECOND
ROUTER_DEAD_US = 2 * _DAY
"""A router that has said nothing of a deployment for so long has ended: each repeats itself once in half a day."""
_AT_ONCE = 500
"""Rows of a kind that go in one transaction: nobody waits long for it."""
_ENDED_MAX = 100


@dataclass(frozen=True, slots=True)
class Keeps:
    """What is kept: events, ended replicas and revisions of each deployment, and days for one that was deleted."""

    events: int = 2000
    replicas: int = 500
    revisions: int = 100
    days: int = 30

    @classmethod
    def of(cls, options: Settings) -> Keeps:
        """As the settings say."""
        return cls(
            options.apps_keep_events, options.apps_keep_replicas, options.apps_keep_revisions, options.apps_keep_days
        )


class Retention:
    """Forgets what is beyond that, when it is asked to."""

    def __init__(self, store: AppStore, keeps: Keeps) -> None:
        self._store, self._keeps = store, keeps
        self._seen = 0
        """The last event up to which deployments that had any were looked at: what grows, grows with events."""

    def __repr__(self) -> str:
        return f"<Retention {self._keeps}>"

    def forget(self, *, lease: Lease) -> int:
        """Delete what is not kept; how many rows. Raises NotLeader, LedgerUnavailable: the rest goes another time."""
        now, row = self._store.ledger.now(), AppEventRow
        with self._store.ledger.database.reading() as connection:
            last = connection.scalar(select(func.max(row.seq))) or 0
            changed = list(connection.scalars(select(row.app_id).where(row.seq > self._seen).distinct()))
            ended = list(connection.scalars(self._long_ended(now)))
        gone = sum(self._all(partial(self._of_living, app_id=one), lease) for one in changed)
        gone += sum(self._all(partial(self._of_ended, app_id=one), lease) for one in ended)
        gone += self._all(lambda connection: _fold_routers(connection, now), lease)
        self._seen = last
        return gone

    def _all(self, some: Callable[[Connection], int], lease: Lease) -> int:
        """What `some` deletes, in as many transactions as it takes."""
        total = 0
        while gone := self._store.transact(lambda batch: _led(batch.connection, some, lease)):
            total += gone
        return total

    def _long_ended(self, now: int) -> Any:
        """Deployments that were deleted long ago, that no host still has something of, and that have a history."""
        place, event = AppPlaceRow, AppEventRow
        before = now - self._keeps.days * _DAY
        left = select(place.app_id).where(place.app_id == AppRow.id).exists()
        told = select(event.seq).where(event.app_id == AppRow.id).exists()
        return select(AppRow.id).where(AppRow.ended_at > 0, AppRow.ended_at < before, ~left, told).limit(_ENDED_MAX)

    def _of_living(self, connection: Connection, app_id: str) -> int:
        """Some of what one has beyond what is kept of each."""
        return (
            _old_events(connection, app_id, self._keeps.events)
            + _old_replicas(connection, app_id, self._keeps.replicas)
            + _old_revisions(connection, app_id, self._keeps.revisions)
        )

    @staticmethod
    def _of_ended(connection: Connection, app_id: str) -> int:
        """Some of what is left of one that has ended: its events go last, for by them it is found again."""
        gone = _old_replicas(connection, app_id, 0) + _old_revisions(connection, app_id, 0)
        gone += connection.execute(delete(AppLoadRow).where(AppLoadRow.app_id == app_id)).rowcount
        return gone or _old_events(connection, app_id, 0)


def _led(connection: Connection, some: Callable[[Connection], int], lease: Lease) -> int:
    require_leader(connection, *lease)
    return some(connection)


def _old_events(connection: Connection, app_id: str, kept: int) -> int:
    """The number of the last event tells whether anything has changed, so the newest of all is never deleted: it is of
    a deployment that has just done something. Nor is what says which secrets replicas that live have."""
    row, replica = AppEventRow, AppReplicaRow
    mine = row.app_id == app_id
    if kept:
        given = connection.scalar(select(func.max(row.seq)).where(mine, row.kind == SECRETS)) or 0
        living = select(replica.id).where(replica.app_id == app_id, replica.ended_at == 0)
        told = (row.kind == ROTATED) & (row.seq > given) & row.replica_id.in_(living)
        mine &= (row.seq != given) & ~told
    newest_first = select(row.seq).where(row.app_id == app_id).order_by(row.seq.desc())
    first = connection.scalar(newest_first.offset(kept).limit(1))
    newest = connection.scalar(select(func.max(row.seq)))
    if first is None or newest is None:
        return 0
    old = select(row.seq).where(mine, row.seq <= first, row.seq < newest).order_by(row.seq).limit(_AT_ONCE)
    return connection.execute(delete(row).where(row.seq.in_(list(connection.scalars(old))))).rowcount


def _old_replicas(connection: Connection, app_id: str, kept: int) -> int:
    row = AppReplicaRow
    ended = select(row.id).where(row.app_id == app_id, row.ended_at > 0).order_by(row.ended_at.desc(), row.id)
    old = list(connection.scalars(ended.offset(kept).limit(_AT_ONCE)))
    return connection.execute(delete(row).where(row.id.in_(old))).rowcount if old else 0


def _old_revisions(connection: Connection, app_id: str, kept: int) -> int:
    """Those that something runs or goes back to stay, whatever their number."""
    row, image, replica = AppRevisionRow, AppImageRow, AppReplicaRow
    marks = select(AppRow.revision, AppRow.settled_revision, AppRow.good_revision, AppRow.ended_at)
    *needed, ended_at = connection.execute(marks.where(AppRow.id == app_id)).one()
    living = select(replica.revision).where(replica.app_id == app_id, replica.ended_at == 0)
    stay = {*([needed[0]] if ended_at else needed), *connection.scalars(living)} - {None}
    numbers = select(row.number).where(row.app_id == app_id).order_by(row.number.desc()).offset(kept)
    old = [number for number in connection.scalars(numbers.limit(_AT_ONCE + len(stay))) if number not in stay]
    if not old:
        return 0
    connection.execute(delete(image).where(image.app_id == app_id, image.revision.in_(old)))
    gone = connection.execute(delete(row).where(row.app_id == app_id, row.number.in_(old))).rowcount
    archives.let_go(connection, app_id)
    return gone


def _fold_routers(connection: Connection, now: int) -> int:
    """What routers that have ended had answered, as one row of a deployment: the total stays what it was."""
    row = AppLoadRow
    dead = (row.router != "", row.at < now - ROUTER_DEAD_US)
    found = connection.execute(select(row.app_id, row.router, row.requests, row.at).where(*dead).limit(_AT_ONCE)).all()
    for app_id in {one.app_id for one in found}:
        mine = [one for one in found if one.app_id == app_id]
        names = ["", *(one.router for one in mine)]
        before = connection.execute(select(row.requests, row.at).where(row.app_id == app_id, row.router == "")).first()
        requests = sum(one.requests for one in mine) + (before.requests if before else 0)
        at = max([one.at for one in mine] + ([before.at] if before else []))
        connection.execute(delete(row).where(row.app_id == app_id, row.router.in_(names)))
        values = {"app_id": app_id, "router": "", "at": at, "requests": requests, "running": 0, "waiting": 0}
        connection.execute(insert(row), [values])
    return len(found)
