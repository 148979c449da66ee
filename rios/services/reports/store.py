"""Schedules, runs and their history in the database. Every verb here is one transaction that no other writer shares.

So two schedulers cannot take the same run: one finds it taken. Who took it has a lease and a name of its own, `holder`;
who has lost the lease can finish nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, tuple_, update

from rios.accounts.store import logins_of
from rios.services.reports.cron import dues
from rios.services.reports.due import owed
from rios.services.reports.files import published
from rios.services.reports.values import ENDED, Identity, Line, Made, Past, Run, RunState, Schedule
from rios.storage import report_models as m
from rios.words.errors import InvalidRequest, NotFound
from rios.words.ids import derived_id

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

Row = RowMapping | Mapping[str, Any]
T = TypeVar("T")
Tell = Callable[["Batch", Schedule, Run, int], None]
"""Puts what came of a run into the outbox, for the moment at which a schedule was due."""


_LAST = (2**53, "")
"""After every moment and every number."""


class Store:
    """The tables of reports."""

    def __init__(self, ledger: Ledger, tell: Tell) -> None:
        self._ledger = ledger
        self._tell = tell

    # --- schedules -------------------------------------------------------------------------------------------

    def add_schedule(self, schedule: Schedule) -> None:
        """Keep a new schedule."""
        row = {**asdict(schedule), "emails": json.dumps(schedule.emails), "webhooks": json.dumps(schedule.webhooks)}
        self._write(lambda batch: batch.connection.execute(insert(m.ReportScheduleRow), [row]))

    def schedules(
        self, owner: str | None = None, *, after: tuple[int, str] = (-1, ""), limit: int | None = None
    ) -> list[Schedule]:
        """The schedules that were not deleted, oldest first; those after a moment and id."""
        row = m.ReportScheduleRow
        wanted = [row.closed_at.is_(None), tuple_(row.created_at, row.id) > after]
        wanted += [] if owner is None else [row.owner == owner]
        query = select(row.__table__).where(*wanted).order_by(row.created_at, row.id).limit(limit)
        with self._ledger.database.reading() as connection:
            return [_schedule(found) for found in connection.execute(query).mappings()]

    def schedule(self, name: str) -> Schedule:
        """A schedule that was not deleted. Raises NotFound."""
        row = m.ReportScheduleRow
        with self._ledger.database.reading() as connection:
            found = connection.execute(select(row.__table__).where(row.id == name, row.closed_at.is_(None))).mappings()
            one = found.one_or_none()
        if one is None:
            raise NotFound(f"there is no schedule {name!r}; `rios report list` shows all")
        return _schedule(one)

    def change_schedule(self, name: str, **changes: Any) -> None:
        """Change columns of a schedule."""
        row = m.ReportScheduleRow
        self._write(lambda batch: batch.connection.execute(update(row).where(row.id == name).values(changes)))

    def tick(self, now: int) -> int:
        """Have a run for each moment at which a schedule was due until `now`; how many moments there were."""

        def run(batch: Batch) -> int:
            row, count = m.ReportScheduleRow, 0
            wanted = select(row.__table__).where(row.next_at <= now, row.paused_at.is_(None), row.closed_at.is_(None))
            for found in batch.connection.execute(wanted).mappings().all():
                count += self._due(batch, _schedule(found), now)
            return count

        row = m.ReportScheduleRow
        with self._ledger.database.reading() as connection:  # most often there is nothing, and nobody need wait
            first = select(row.id).where(row.next_at <= now, row.paused_at.is_(None), row.closed_at.is_(None)).limit(1)
            if connection.scalar(first) is None:
                return 0
        return self._write(run)

    def _due(self, batch: Batch, schedule: Schedule, now: int) -> int:
        row, due = m.ReportScheduleRow, m.ReportDueRow
        before = batch.connection.scalar(select(func.max(due.due_at)).where(due.schedule_id == schedule.id))
        try:
            next_at = next(dues(schedule.cron, schedule.zone, after_us=now))
        except InvalidRequest as error:  # its zone may be known on another machine; the other schedules are due here
            log.warning("a schedule waits", extra={"schedule": schedule.id, "reason": str(error)})
            return 0
        try:
            found = owed(schedule, now, before=before)
        except InvalidRequest as error:
            log.warning("a schedule was not seen to", extra={"schedule": schedule.id, "reason": str(error)})
            found = []
        for at, span in found:
            identity = Identity(schedule.name, schedule.subject, schedule.parameters, span)
            run = self._wanted(batch.connection, identity, owner=schedule.owner, now=now)
            batch.connection.execute(
                insert(due), [{"schedule_id": schedule.id, "due_at": at, "run_id": run.id, "told": False}]
            )
            if run.state in ENDED:
                self._tell_all(batch, run)
        batch.connection.execute(update(row).where(row.id == schedule.id).values(next_at=next_at))
        return len(found)

    # --- runs ------------------------------------------------------------------------------------------------

    def want(self, identity: Identity, *, owner: str) -> Run:
        """The run of this identity; a new one where there was none."""
        now = self._ledger.now()
        return self._write(lambda batch: self._wanted(batch.connection, identity, owner=owner, now=now))

    def _wanted(self, connection: Connection, identity: Identity, *, owner: str, now: int) -> Run:
        row, span = m.ReportRunRow, identity.span
        known = select(row.__table__).where(row.identity == identity.digest)
        found = connection.execute(known).mappings().one_or_none()
        if found is not None:
            return _run(found)
        new: dict[str, Any] = {
            "id": derived_id("report", identity.digest), "identity": identity.digest, "owner": owner,
            "subject": identity.subject, "name": identity.name, "parameters": identity.parameters, "label": span.label,
            "since_us": span.since_us, "until_us": span.until_us, "state": RunState.QUEUED, "created_at": now,
            "not_before": now, "attempts": 0, "holder": None, "lease_until": None, "height": None, "head": None,
            "facts": None, "version": None,
        }  # fmt: skip
        connection.execute(insert(row), [new])
        return Run(**new)

    def run(self, run_id: str) -> Run:
        """A run. Raises NotFound."""
        row = m.ReportRunRow
        with self._ledger.database.reading() as connection:
            found = connection.execute(select(row.__table__).where(row.id == run_id)).mappings().one_or_none()
        if found is None:
            raise NotFound(f"there is no report {run_id!r}; `rios report history` shows all")
        return _run(found)

    def take(self, holder: str, *, lease_us: int, run_id: str | None = None, ended: bool = False) -> Run | None:
        """Take what is to be made next, or the run `run_id`; None where nothing is, or somebody makes it now.

        ended: take also what has ended, or is to be tried later, to make it now.
        """
        now, row = self._ledger.now(), m.ReportRunRow
        ready = or_(
            and_(row.state == RunState.QUEUED, row.not_before <= now),
            and_(row.state == RunState.RUNNING, row.lease_until < now),
            # Nobody's lease ends later than this: what seems to was taken before the clock was set back.
            and_(row.state == RunState.RUNNING, row.lease_until > now + 2 * lease_us),
        )
        if run_id is not None:
            ready = and_(row.id == run_id, or_(ready, row.state.in_((RunState.QUEUED, *ENDED))) if ended else ready)

        def run(batch: Batch) -> Run | None:
            wanted = select(row.__table__).where(ready).order_by(row.not_before, row.id).limit(1)
            found = batch.connection.execute(wanted).mappings().one_or_none()
            if found is None:
                return None
            changes = {
                "state": RunState.RUNNING, "holder": holder, "lease_until": now + lease_us,
                "attempts": found["attempts"] + 1,
            }  # fmt: skip
            batch.connection.execute(update(row).where(row.id == found["id"]).values(changes))
            batch.connection.execute(delete(m.ReportLineRow).where(m.ReportLineRow.run_id == found["id"]))
            return _run({**found, **changes})

        with self._ledger.database.reading() as connection:
            if connection.scalar(select(row.id).where(ready).limit(1)) is None:
                return None
        return self._write(run)

    def renew(self, run_id: str, holder: str, *, lease_us: int) -> bool:
        """Go on making a run; False where somebody else does now."""
        until = self._ledger.now() + lease_us
        return self._held(run_id, holder, {"lease_until": until})

    def let_go(self, run_id: str, holder: str) -> bool:
        """End no attempt, but have the run made by whoever looks next; False as `renew`."""
        return self._held(run_id, holder, {"state": RunState.QUEUED, "holder": None, "lease_until": None})

    def pin(self, run_id: str, holder: str, *, height: int, head: str, facts: str) -> bool:
        """Keep up to which entry a run counts, and what was true besides."""
        return self._held(run_id, holder, {"height": height, "head": head, "facts": facts})

    def _held(self, run_id: str, holder: str, values: Mapping[str, Any]) -> bool:
        row = m.ReportRunRow
        wanted = update(row).where(row.id == run_id, row.holder == holder, row.state == RunState.RUNNING).values(values)
        return self._write(lambda batch: batch.connection.execute(wanted).rowcount == 1)

    def say(self, run: Run, holder: str, first: int, lines: Sequence[Line]) -> bool:
        """Keep what the attempt of `holder` has written, as its lines from number `first` on; False as `renew`."""
        row = m.ReportRunRow
        mine = select(row.id).where(row.id == run.id, row.holder == holder, row.state == RunState.RUNNING)
        new = [{"run_id": run.id, "seq": first + place, **asdict(line)} for place, line in enumerate(lines)]

        def write(batch: Batch) -> bool:
            if batch.connection.scalar(mine) is None:
                return False
            batch.connection.execute(insert(m.ReportLineRow), new)
            return True

        return self._write(write)

    def lines(self, run_id: str, *, after: int = -1, limit: int | None = None) -> list[tuple[int, Line]]:
        """What the last attempt at a run has written, in its order, each with its number; those after a number."""
        row = m.ReportLineRow
        wanted = select(row.seq, row.attempt, row.at, row.text).where(row.run_id == run_id, row.seq > after)
        with self._ledger.database.reading() as connection:
            found = connection.execute(wanted.order_by(row.seq).limit(limit))
            return [(one.seq, Line(attempt=one.attempt, at=one.at, text=one.text)) for one in found]

    def finish(
        self,
        run: Run,
        holder: str,
        past: Mapping[str, Any],
        *,
        again_at: int | None = None,
        bill: Callable[[Batch], int] = lambda _: 0,
    ) -> bool:
        """End an attempt: history, state, its own price and the messages about it in one transaction.

        past: the columns of the history but its number, run and price. again_at: when to try again, instead of an end.
        bill: posts what it cost, and returns that. False where another holder has it: then nothing is written.
        """
        row = m.ReportRunRow

        def write(batch: Batch) -> bool:
            version = past["version"] if past["state"] == RunState.OK else run.version
            state = RunState.QUEUED if again_at is not None else past["state"]
            changes = {"state": state, "holder": None, "lease_until": None, "version": version}
            if again_at is not None:
                changes["not_before"] = again_at
            mine = (row.id == run.id, row.holder == holder, row.state == RunState.RUNNING)
            if batch.connection.execute(update(row).where(*mine).values(changes)).rowcount != 1:
                return False
            seq = (batch.connection.scalar(select(func.max(m.ReportHistoryRow.seq))) or 0) + 1
            entry = {**past, "seq": seq, "run_id": run.id, "cost_wei": bill(batch)}
            batch.connection.execute(insert(m.ReportHistoryRow), [entry])
            published(batch.connection, past["folder"], json.loads(past["files"]))
            if again_at is None:
                self._tell_all(batch, _run({**asdict(run), **changes}))
            return True

        return self._write(write)

    def _tell_all(self, batch: Batch, run: Run) -> None:
        row, other = m.ReportDueRow, m.ReportScheduleRow
        wanted = select(row.schedule_id, row.due_at).where(row.run_id == run.id, row.told.is_(False))
        for schedule_id, due_at in batch.connection.execute(wanted).all():
            found = batch.connection.execute(select(other.__table__).where(other.id == schedule_id)).mappings().one()
            self._tell(batch, _schedule(found), run, due_at)
            mine = and_(row.schedule_id == schedule_id, row.due_at == due_at)
            batch.connection.execute(update(row).where(mine).values(told=True))

    def again(self, run_id: str) -> None:
        """Have a run that has ended, or is to be tried later, made by whoever looks next; one that goes on is left as
        it is."""
        row, now = m.ReportRunRow, self._ledger.now()
        later = and_(row.state == RunState.QUEUED, row.not_before > now)
        wanted = update(row).where(row.id == run_id, or_(row.state.in_(ENDED), later))
        self._write(lambda batch: batch.connection.execute(wanted.values(state=RunState.QUEUED, not_before=now)))

    def made(
        self,
        *,
        user: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        after: tuple[int, str] | None = None,
    ) -> list[Made]:
        """Runs with what came of them, the last first; those that a user asked for or is the subject of, or all. A user
        is told the logins of its organisation alone.

        after: moment and id of the last one before these.
        """
        row, past = m.ReportRunRow, m.ReportHistoryRow
        wanted: list[ColumnElement[bool]] = [tuple_(row.created_at, row.id) < (after or _LAST)]
        wanted += [] if user is None else [or_(row.owner == user, row.subject == user)]
        wanted += [] if run_id is None else [row.id == run_id]
        query = select(row.__table__).where(*wanted).order_by(row.created_at.desc(), row.id.desc()).limit(limit)
        with self._ledger.database.reading() as connection:
            runs = [_run(found) for found in connection.execute(query).mappings()]
            ids = [run.id for run in runs]
            attempts = select(past.__table__).where(past.run_id.in_(ids)).order_by(past.seq)
            pasts = [_past(found) for found in connection.execute(attempts).mappings()] if ids else []
        users = {name for run in runs for name in (run.owner, run.subject)}
        logins = logins_of(self._ledger.database, users, seen_by=user) if users else {}
        return [_made(run, [one for one in pasts if one.run_id == run.id], logins) for run in runs]

    # --- the history -----------------------------------------------------------------------------------------

    def history(
        self,
        *,
        name: str | None = None,
        run_id: str | None = None,
        user: str | None = None,
        limit: int = 100,
        after: int = 0,
    ) -> list[Past]:
        """Attempts, the last first; those of what a user asked for or is the subject of, or all.

        after: the number of the last one before these; 0 for the first ones.
        """
        row = m.ReportHistoryRow
        wanted: list[ColumnElement[bool]] = [row.seq < (after or _LAST[0])]
        if name is not None:
            wanted.append(row.name == name)
        if run_id is not None:
            wanted.append(row.run_id == run_id)
        if user is not None:
            run = m.ReportRunRow
            wanted.append(row.run_id.in_(select(run.id).where(or_(run.owner == user, run.subject == user))))
        query = select(row.__table__).where(*wanted).order_by(row.seq.desc()).limit(limit)
        with self._ledger.database.reading() as connection:
            return [_past(found) for found in connection.execute(query).mappings()]

    def waiting(self) -> Iterator[Run]:
        """Runs that have not ended, oldest first."""
        row = m.ReportRunRow
        query = select(row.__table__).where(row.state.not_in(ENDED)).order_by(row.created_at)
        with self._ledger.database.reading() as connection:
            yield from [_run(found) for found in connection.execute(query).mappings()]

    def _write(self, run: Callable[[Batch], T]) -> T:
        return self._ledger.transact(run, alone=True)


def _schedule(row: Row) -> Schedule:
    lists = {name: tuple(json.loads(row[name])) for name in ("emails", "webhooks")}
    return Schedule(**{**row, **lists})


def _past(row: Row) -> Past:
    return Past(**{**row, "files": json.loads(row["files"]), "state": RunState(row["state"])})


def _made(run: Run, pasts: list[Past], logins: Mapping[str, str]) -> Made:
    last = pasts[-1] if pasts else None
    return Made(
        id=run.id, name=run.name, label=run.label, owner=run.owner, owner_login=logins.get(run.owner, run.owner),
        subject=run.subject, subject_login=logins.get(run.subject, run.subject), state=RunState(run.state),
        attempts=run.attempts, created_at=run.created_at, ended_at=last.ended_at if last else 0,
        cost_wei=sum(one.cost_wei for one in pasts), version=last.version if last else None,
        folder=last.folder if last else "", files=tuple(sorted(last.files)) if last else (),
        runtime=last.runtime if last else "", error=last.error if last else "",
    )  # fmt: skip


def _run(row: Row) -> Run:
    return Run(**{**row, "state": RunState(row["state"])})
