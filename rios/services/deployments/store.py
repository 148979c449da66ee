"""Deployments in the ledger's database: each state is written with its event, in one transaction, or not at all."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, func, insert, or_, select, tuple_, update

from rios.deploy.lifecycle import LIVING, State, Wish, check_step
from rios.deploy.spec import bounded
from rios.services.deployments import places
from rios.services.deployments.values import App, Event, NewReplica, Replica, Step
from rios.storage.deployment_models import (
    AppEventRow,
    AppImageRow,
    AppPlaceRow,
    AppReplicaRow,
    AppRevisionRow,
    AppRow,
    AppSpendRow,
    LeaseRow,
)
from rios.words.errors import AlreadyExists, InvalidRequest, NotFound, RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")
Lease = tuple[str, str, int]
"""Under which something is written: its name, who holds it, and the term."""
_LOGGED_MAX = 40
"""Of replicas that have ended, whose logs are asked for. Each host keeps some (`local_host.LOGS_KEPT`)."""
_NAMED_MAX = 500
SECRETS, ROTATED, ROLLED_BACK = "secrets", "rotated", "rolled back"
"""Kinds of events: secrets of a deployment were given anew; a replica has them; an earlier revision runs again."""


class NotLeader(RiosError):
    """Another reconciler acts now: what was to be written is not."""


class NotYet(RiosError):
    """What is needed is not there yet, as where no host that keeps a snapshot answers: whoever needs it waits."""


class AppStore:
    """The tables of deployments in `ledger`'s database. All of one network share them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __repr__(self) -> str:
        return f"<AppStore in {self.ledger.database.name}>"

    # --- reading ---------------------------------------------------------------------------------------------

    def snapshot(self, app_id: str | None = None) -> tuple[list[App], dict[str, list[Replica]]]:
        """Deployments that have not ended, and by their ids the replicas that have not, of one moment."""
        mine = () if app_id is None else (AppRow.id == app_id,)
        theirs = () if app_id is None else (AppReplicaRow.app_id == app_id,)
        with self.ledger.database.reading() as connection:
            apps = connection.execute(_rows(AppRow).where(AppRow.ended_at == 0, *mine)).all()
            found = connection.execute(_rows(AppReplicaRow).where(AppReplicaRow.ended_at == 0, *theirs)).all()
        # Of plain dictionaries: `mappings()` takes half of the time of a pass over ten thousand.
        replicas: dict[str, list[Replica]] = {}
        names = AppReplicaRow.__table__.columns.keys()
        for row in found:
            one = Replica.of(dict(zip(names, row, strict=True)))
            replicas.setdefault(one.app_id, []).append(one)
        names = AppRow.__table__.columns.keys()
        return [App.of(dict(zip(names, row, strict=True))) for row in apps], replicas

    def network_id(self) -> str:
        """What instances of this network are known by on hosts that serve several; made once."""
        row = LeaseRow

        def run(connection: Connection) -> str:
            found = connection.scalar(select(row.holder).where(row.name == _NETWORK))
            if found is None:
                found = f"net-{secrets.token_hex(6)}"
                connection.execute(insert(row), [{"name": _NETWORK, "holder": found, "term": 0, "until": 0}])
            return found

        return self.transact(lambda batch: run(batch.connection))

    def is_empty(self) -> bool:
        """Whether there is no deployment that has not ended."""
        with self.ledger.database.reading() as connection:
            return connection.execute(select(AppRow.id).where(AppRow.ended_at == 0).limit(1)).first() is None

    def app(self, app_id: str) -> App:
        """A deployment by its id, ended ones too. Raises NotFound."""
        with self.ledger.database.reading() as connection:
            row = connection.execute(_rows(AppRow).where(AppRow.id == app_id)).mappings().first()
        if row is None:
            raise NotFound(f"there is no deployment {app_id}")
        return App.of(row)

    def named(self, organisation_id: str, name: str) -> App:
        """The deployment of an organisation that has this name now. Raises NotFound."""
        wanted = (AppRow.organisation_id == organisation_id, AppRow.name == name, AppRow.ended_at == 0)
        with self.ledger.database.reading() as connection:
            row = connection.execute(_rows(AppRow).where(*wanted)).mappings().first()
        if row is None:
            raise NotFound(f"there is no deployment {name!r}; `net.deploy.list()` shows those that there are")
        return App.of(row)

    def names(self, organisation_id: str) -> set[str]:
        """The names that are taken now."""
        wanted = (AppRow.organisation_id == organisation_id, AppRow.ended_at == 0)
        with self.ledger.database.reading() as connection:
            return set(connection.scalars(select(AppRow.name).where(*wanted)))

    def seq(self) -> int:
        """The number of the last event: where it is the same, no state has changed, and nobody wishes another."""
        with self.ledger.database.reading() as connection:
            return connection.scalar(select(func.max(AppEventRow.seq))) or 0

    def on_host(self, host: str) -> list[Replica]:
        """The replicas of a host that have not ended, oldest first."""
        row = AppReplicaRow
        wanted = _rows(row).where(row.ended_at == 0, row.host == host).order_by(row.created_at, row.id)
        with self.ledger.database.reading() as connection:
            return [Replica.of(one) for one in connection.execute(wanted).mappings()]

    def apps(self, organisation_id: str, *, after: str = "", limit: int | None = None) -> list[App]:
        """The deployments of an organisation that have not ended, by name; those after a name."""
        row = AppRow
        wanted = (row.organisation_id == organisation_id, row.name > after, row.ended_at == 0)
        with self.ledger.database.reading() as connection:
            found = connection.execute(_rows(row).where(*wanted).order_by(row.name).limit(limit)).mappings().all()
        return [App.of(one) for one in found]

    def replicas(
        self, app_id: str, *, ended: bool = False, after: tuple[int, str] = (-1, ""), limit: int | None = None
    ) -> list[Replica]:
        """The replicas of a deployment, oldest first; those after a moment and id. ended: those too that have."""
        row = AppReplicaRow
        wanted = [row.app_id == app_id, tuple_(row.created_at, row.id) > after]
        wanted += [] if ended else [row.ended_at == 0]
        query = _rows(row).where(*wanted).order_by(row.created_at, row.id).limit(limit)
        with self.ledger.database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return [Replica.of(one) for one in found]

    def logged(self, app_id: str) -> list[Replica]:
        """The replicas that live, and the last of those that have ended: hosts keep no more logs. Oldest first."""
        row = AppReplicaRow
        ended = select(row.id).where(row.app_id == app_id, row.ended_at > 0).order_by(row.ended_at.desc())
        mine = (row.app_id == app_id, or_(row.ended_at == 0, row.id.in_(ended.limit(_LOGGED_MAX))))
        with self.ledger.database.reading() as connection:
            found = connection.execute(_rows(row).where(*mine).order_by(row.created_at, row.id)).mappings().all()
        return [Replica.of(one) for one in found]

    def specification(self, app_id: str, revision: int) -> dict[str, Any]:
        """What a revision says. Raises NotFound."""
        row = AppRevisionRow
        with self.ledger.database.reading() as connection:
            found = connection.scalar(select(row.specification).where(row.app_id == app_id, row.number == revision))
        if found is None:
            raise NotFound(f"deployment {app_id} has no revision {revision}")
        return bounded(json.loads(found))

    def specifications(self, marks: Collection[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
        """What revisions say, by deployment and number: in one question, however many they are."""
        row, wanted = AppRevisionRow, set(marks)
        names = {app_id for app_id, _ in wanted}
        # The parameters of a statement are bounded; beyond some, all that live are read.
        alive = select(AppRow.id).where(AppRow.ended_at == 0)
        mine = row.app_id.in_(names if len(names) <= _NAMED_MAX else alive)
        with self.ledger.database.reading() as connection:
            found = connection.execute(select(row.app_id, row.number, row.specification).where(mine))
            return {(one[0], one[1]): bounded(json.loads(one[2])) for one in found if (one[0], one[1]) in wanted}

    def revisions(self, app_id: str, *, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """The revisions after a number, oldest first: number, digest, created_by, created_at, image (its digest, or
        None)."""
        row, image = AppRevisionRow, AppImageRow
        columns = (row.number, row.digest, row.created_by, row.created_at, image.digest.label("image"))
        same = (image.app_id == row.app_id) & (image.revision == row.number)
        mine = (row.app_id == app_id, row.number > after)
        wanted = select(*columns).outerjoin(image, same).where(*mine).order_by(row.number).limit(limit)
        with self.ledger.database.reading() as connection:
            found = connection.execute(wanted).mappings()
            return [dict(one) for one in found]

    def events(self, app_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened after the event `after`, oldest first."""
        row = AppEventRow
        wanted = select(row.seq, row.at, row.kind, row.state, row.replica_id.label("replica"), row.cause).where(
            row.app_id == app_id, row.seq > after
        )
        with self.ledger.database.reading() as connection:
            return [Event(**one) for one in connection.execute(wanted.order_by(row.seq).limit(limit)).mappings()]

    def rotations(self, after: int) -> tuple[int, dict[str, int]]:
        """The last event's number, and by deployment that of the last one by which secrets were given anew, of those
        after the event `after`."""
        row = AppEventRow
        with self.ledger.database.reading() as connection:
            last = connection.scalar(select(func.max(row.seq))) or 0
            if last == after:
                return last, {}
            wanted = select(row.app_id, func.max(row.seq).label("seq")).where(row.seq > after, row.kind == SECRETS)
            return last, {one.app_id: one.seq for one in connection.execute(wanted.group_by(row.app_id))}

    def behind(self, app_id: str) -> list[str]:
        """The replicas that run, and have not got the secrets that were given anew."""
        event, replica = AppEventRow, AppReplicaRow
        mine = event.app_id == app_id
        given = select(func.max(event.seq)).where(mine, event.kind == SECRETS).scalar_subquery()
        told = select(event.replica_id).where(mine, event.kind == ROTATED, event.seq > given)
        runs = (replica.app_id == app_id, replica.started_at > 0, replica.state.in_([str(state) for state in LIVING]))
        with self.ledger.database.reading() as connection:
            if connection.scalar(select(given)) is None:
                return []
            return list(connection.scalars(select(replica.id).where(*runs, replica.id.not_in(told))))

    def spent_wei(self, app_id: str) -> int:
        """What it has cost so far, in wei."""
        row = AppSpendRow
        with self.ledger.database.reading() as connection:
            return connection.scalar(select(row.amount_wei).where(row.app_id == app_id)) or 0

    # --- writing ---------------------------------------------------------------------------------------------

    def create(
        self,
        app: App,
        specification: Mapping[str, Any],
        digest: str,
        *,
        by: str,
        cause: str,
        also: Callable[[Connection], None],
        before: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        """Write a new deployment with its first revision and event, and what `also` writes. Raises AlreadyExists.

        before: raises what is against it; what was written before an error stays written.
        """

        def run(connection: Connection) -> None:
            mine = (AppRow.organisation_id == app.organisation_id, AppRow.name == app.name, AppRow.ended_at == 0)
            if connection.execute(select(AppRow.id).where(*mine)).first() is not None:
                raise AlreadyExists(f"there is a deployment {app.name!r} already; update it, or choose another name")
            before(connection)
            row = {name: getattr(app, name) for name in App.__slots__}
            connection.execute(insert(AppRow), [{**row, "state": str(app.state), "wish": str(app.wish)}])
            connection.execute(insert(AppSpendRow), [{"app_id": app.id, "amount_wei": 0, "day": 0, "day_wei": 0}])
            _add_revision(connection, app, app.revision, specification, digest, by=by, at=app.created_at)
            _add_events(connection, [_event(app, app.created_at, "state", str(app.state), cause)])
            also(connection)

        self.transact(lambda batch: run(batch.connection))

    def change(
        self, app_id: str, change: Callable[[App, Connection], tuple[Mapping[str, Any], str, str]], *, at: int
    ) -> App:
        """Change columns of a deployment by its owner's wish, with an event; what it is then.

        change: of the deployment as it is, and the connection: the columns, the event's kind, and its cause. A "state"
        among them is checked against the table.
        """

        def run(connection: Connection) -> App:
            row = connection.execute(_rows(AppRow).where(AppRow.id == app_id)).mappings().first()
            if row is None or row["ended_at"]:
                raise NotFound(f"there is no deployment {app_id}; it was deleted")
            app = App.of(row)
            columns, kind, cause = change(app, connection)
            state = columns.get("state")
            if state is not None and State(state) is not app.state:
                check_step("deployment", app.name, app.state, State(state))
            if columns:
                connection.execute(update(AppRow).where(AppRow.id == app_id).values(**columns))
                _add_events(connection, [_event(app, at, kind, str(state or ""), cause)])
            return App.of({**row, **columns})

        return self.transact(lambda batch: run(batch.connection))

    def add_revision(
        self, connection: Connection, app: App, specification: Mapping[str, Any], digest: str, *, by: str, at: int
    ) -> int:
        """Keep what is wanted now under the next number, in the transaction of `change`."""
        row = AppRevisionRow
        number = 1 + (connection.scalar(select(func.max(row.number)).where(row.app_id == app.id)) or 0)
        _add_revision(connection, app, number, specification, digest, by=by, at=at)
        return number

    def write(
        self,
        steps: Iterable[Step] = (),
        *,
        new: Sequence[NewReplica] = (),
        notes: Sequence[tuple[App, str, str]] = (),
        at: int,
        lease: Lease | None,
    ) -> list[Step]:
        """Write steps and new replicas with their events, in one transaction; the steps that came too late.

        notes: (deployment, kind, cause) of further events. Raises NotLeader where another holds the lease by now.
        """
        wanted = list(steps)

        def run(connection: Connection) -> list[Step]:
            if lease is not None:
                require_leader(connection, *lease)
            late, events = [], []
            for step in wanted:
                try:
                    taken = _take(connection, step, at=at)
                except InvalidRequest:  # of one deployment, and no reason to hold up all others
                    log.exception("a step that there is not is left out", extra={"subject": step.subject.id})
                    taken = False
                if not taken:
                    late.append(step)
                elif step.kind:
                    events.append(_event(step.subject, at, step.kind, str(step.to), step.cause))
            for one in new:
                connection.execute(insert(AppReplicaRow), [_replica_row(one, at=at)])
                app_id, state = one.app.id, str(State.SCHEDULED)
                events.append(_event_of(app_id, one.replica_id, at, "state", state, one.cause))
            places.keep(connection, new)
            events += [_event(app, at, kind, "", cause) for app, kind, cause in notes]
            _add_events(connection, events)
            return late

        return self.transact(lambda batch: run(batch.connection)) if wanted or new or notes else []

    def transact(self, run: Callable[[Batch], T]) -> T:
        """Run `run` in a transaction of its own. Where it raises, entries of the ledger are undone; rows of these
        tables stay as it wrote them."""
        return self.ledger.transact(run, alone=True)

    def transact_whole(self, run: Callable[[Batch], T]) -> T:
        """The same, and of what raises nothing stays: what is paid for and the rows that say so go together."""

        def whole(batch: Batch) -> T:
            with batch.connection.begin_nested():
                return run(batch)

        return self.transact(whole)


def require_leader(connection: Connection, name: str, holder: str, term: int) -> None:
    """Raise NotLeader unless `holder` has the lease `name` in `term`."""
    row = LeaseRow
    found = connection.execute(select(row.holder, row.term).where(row.name == name)).first()
    if found is None or tuple(found) != (holder, term):
        raise NotLeader(f"{holder} no longer has the lease {name}: {found[0] if found else 'nobody'} has")


def app_now(connection: Connection, app_id: str) -> App | None:
    """A deployment as a transaction of somebody else's finds it; None where it has ended."""
    row = connection.execute(_rows(AppRow).where(AppRow.id == app_id, AppRow.ended_at == 0)).mappings().first()
    return None if row is None else App.of(row)


def needed_specifications(connection: Connection, organisation_id: str) -> list[tuple[App, dict[str, Any]]]:
    """The deployments of an organisation that have not ended, by name, each with what a revision says that is needed:
    the wanted one, the one that it would go back to, and those of replicas that live."""
    row, replica = AppRevisionRow, AppReplicaRow
    living = select(replica.revision).where(
        replica.app_id == AppRow.id, replica.state.in_([str(state) for state in LIVING])
    )
    needed = or_(row.number == AppRow.revision, row.number == AppRow.good_revision, row.number.in_(living))
    wanted = select(AppRow.__table__, row.specification).join(row, row.app_id == AppRow.id).where(needed)
    mine = (AppRow.organisation_id == organisation_id, AppRow.ended_at == 0)
    found = []
    for one in connection.execute(wanted.where(*mine).order_by(AppRow.name, row.number)).mappings():
        columns = dict(one)
        specification = json.loads(columns.pop("specification"))
        found.append((App.of(columns), specification))
    return found


def replicas_now(connection: Connection, app_id: str) -> list[Replica]:
    """The replicas that a deployment has then."""
    mine = (AppReplicaRow.app_id == app_id, AppReplicaRow.ended_at == 0)
    return [Replica.of(row) for row in connection.execute(_rows(AppReplicaRow).where(*mine)).mappings()]


def add_replica(connection: Connection, one: NewReplica, *, at: int) -> Replica:
    """Add a replica and its event to a transaction of somebody else's."""
    row = _replica_row(one, at=at)
    connection.execute(insert(AppReplicaRow), [row])
    _add_events(connection, [_event_of(one.app.id, one.replica_id, at, "state", str(State.SCHEDULED), one.cause)])
    return Replica.of(row)


LEADER = "reconciler"
"""The name of the lease of whoever acts."""
_NETWORK = "network"


def write_event(connection: Connection, app: App, at: int, kind: str, cause: str) -> None:
    """Add an event of a deployment to a transaction of somebody else's."""
    _add_events(connection, [_event(app, at, kind, "", cause)])


def take_step(connection: Connection, step: Step, *, at: int) -> bool:
    """Write a step and its event in a transaction of somebody else's; False where it came too late."""
    if not _take(connection, step, at=at):
        return False
    _add_events(connection, [_event(step.subject, at, step.kind, str(step.to), step.cause)])
    return True


def _take(connection: Connection, step: Step, *, at: int) -> bool:
    subject = step.subject
    kind: str = "deployment" if isinstance(subject, App) else "replica"
    table: Any = AppRow if isinstance(subject, App) else AppReplicaRow
    if step.to is not subject.state:
        check_step(kind, subject.id, subject.state, step.to)
    changes = {"state": str(step.to), **step.changes}
    if step.to in (State.STOPPED, State.FAILED) and isinstance(subject, Replica):
        changes["ended_at"] = at
    if step.to is State.STOPPED and isinstance(subject, App) and subject.wish is Wish.DELETE:
        changes["ended_at"] = at
    mine = [table.id == subject.id, table.state == str(subject.state), table.ended_at == 0]
    if isinstance(subject, App):
        # What its owner wished meanwhile was not considered.
        mine += [AppRow.wish == str(subject.wish), AppRow.revision == subject.revision, AppRow.round == subject.round]
    if connection.execute(update(table).where(*mine).values(**changes)).rowcount != 1:
        return False
    if "ended_at" in changes and isinstance(subject, App):  # its hosts are to forget it
        connection.execute(update(AppPlaceRow).where(AppPlaceRow.app_id == subject.id).values(ended=True))
    return True


def _rows(table: Any) -> Any:
    return select(table.__table__)


def _replica_row(one: NewReplica, *, at: int) -> dict[str, Any]:
    numbers = ("started_at", "ready_at", "ended_at", "period", "period_at")
    return {
        "id": one.replica_id, "app_id": one.app.id, "revision": one.app.revision, "round": one.app.round,
        "host": one.host, "state": str(State.SCHEDULED), "outcome": "", "address": "", "created_at": at,
        **dict.fromkeys(numbers, 0), "metered": "",
    }  # fmt: skip


def _add_revision(
    connection: Connection, app: App, number: int, specification: Mapping[str, Any], digest: str, *, by: str, at: int
) -> None:
    row = {"app_id": app.id, "number": number, "specification": json.dumps(specification), "digest": digest}
    connection.execute(insert(AppRevisionRow), [{**row, "created_by": by, "created_at": at}])


def _event(subject: App | Replica, at: int, kind: str, state: str, cause: str) -> dict[str, Any]:
    if isinstance(subject, App):
        return _event_of(subject.id, "", at, kind, state, cause)
    return _event_of(subject.app_id, subject.id, at, kind, state, cause)


def _event_of(app_id: str, replica_id: str, at: int, kind: str, state: str, cause: str) -> dict[str, Any]:
    return {"app_id": app_id, "replica_id": replica_id, "at": at, "kind": kind, "state": state, "cause": cause}


def _add_events(connection: Connection, events: Sequence[dict[str, Any]]) -> None:
    if not events:
        return
    # All writers of all processes come one after the other, so the next number is known.
    last = connection.scalar(select(func.max(AppEventRow.seq))) or 0
    rows = [{"seq": last + place, **event} for place, event in enumerate(events, 1)]
    connection.execute(insert(AppEventRow), rows)
