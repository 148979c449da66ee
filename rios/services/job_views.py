"""What the gateways of a network tell each other of the generations that they run, so that each can list those of all.

A row each, written when a generation begins and when it ends, in one transaction for all of half a second, so that no
request waits for it; and as it goes on while somebody looks at another gateway. Rows are numbered in the order of their
transactions, of which no two write at the same time, so whoever has read up to a number has missed nothing before it.
A gateway that has said nothing for six seconds has died: another ends its rows as lost.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from rios.services.job_records import FOLLOWED_S, LOST, RENEW_S, SECOND
from rios.services.jobs import KEPT, Jobs, JobView
from rios.services.sweeping import LEASE_S, Sweeper
from rios.storage.gateway_models import JobRow, JobViewRow
from rios.storage.models import UsageRow
from rios.words.errors import NotFound, RiosError
from rios.words.money import format_ros

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping, Select

    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

KEPT_S = 24 * 3600
# A look at the list asks for its jobs of other gateways for so long; who waits for changes looks four times a second.
_LOOKED_S = 3.0
_PAGE = 1000


class JobViews:
    """From one gateway: what it tells of its jobs, and what it hears. Used by one thread, but for `cancel`."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: Jobs,
        *,
        gateway: str,
        url: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """jobs: those of this process, which those of the others join. gateway: what this one is called."""
        self._ledger = ledger
        self._jobs = jobs
        self._gateway = gateway
        self._place = f"{gateway} at {url}" if url else gateway
        self._clock = clock
        self._told = self._heard = 0
        self._behind: dict[str, JobView] = {}
        """What changed here since it was written."""
        self._live: set[str] = set()
        """Those of this gateway whose rows have not ended."""
        self._asked: dict[str, float] = {}
        self._sweeper = Sweeper(ledger, gone=self._gone, lose=self._lose, forget=_forget, clock=clock)
        self._renewed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<JobViews of {self._gateway}>"

    def look(self) -> None:
        """Do what others want of the jobs here, tell how these are, hear how theirs are. Raises LedgerUnavailable."""
        try:
            followed = self._wishes()
            self.tell(followed)
            self._sweeper.sweep()
            self._hear()
            self._follow()
        except RiosError:
            self._sweeper.was_away()
            raise

    def tell(self, followed: frozenset[str] = frozenset()) -> None:
        """Write what has begun, what has ended, and how those are that are followed."""
        prices = self._prices(self._jobs.unpriced())
        self._told, found = self._jobs.own(self._told, followed=followed, prices=prices)
        self._behind |= {view.id: view for view in found}
        chosen = [
            view for view in self._behind.values() if not view.live or view.id not in self._live or view.id in followed
        ]
        for start in range(0, len(chosen), _PAGE):
            self._write(chosen[start : start + _PAGE])
        if self._live and self._clock() - self._renewed_at > RENEW_S:
            row = JobViewRow
            mine = (row.gateway == self._gateway, row.ended_at.is_(None))
            longer = update(row).where(*mine).values(lease_until=self._ledger.now() + _us(LEASE_S))
            self._ledger.transact(lambda batch: batch.connection.execute(longer), alone=True)
            self._renewed_at = self._clock()

    def cancel(self, job_id: str) -> None:
        """Have the gateway of a job cancel it, within a second or two. No error where it has ended."""
        row = JobViewRow
        changed = update(row).where(row.id == job_id, row.ended_at.is_(None)).values(cancel=True)
        self._ledger.transact(lambda batch: batch.connection.execute(changed), alone=True)

    # --- of the jobs here ------------------------------------------------------------------------------------

    def _wishes(self) -> frozenset[str]:
        """Cancel what others want cancelled; what they follow."""
        if not self._live:
            return frozenset()
        now, row = self._ledger.now(), JobViewRow
        mine = (row.gateway == self._gateway, row.ended_at.is_(None))
        with self._ledger.database.reading() as connection:
            found = connection.execute(select(row.id, row.followed_until, row.cancel).where(*mine)).all()
        for one in found:
            if one.cancel:
                self._cancel_here(one.id)
        if taken := self._live.difference(one.id for one in found):  # another took this one for dead, and it is not
            self._live -= taken
            self._behind |= {view.id: view for view in self._jobs.own(0)[1] if view.id in taken}
        return frozenset(one.id for one in found if one.followed_until > now)

    def _cancel_here(self, job_id: str) -> None:
        try:
            self._jobs.cancel(job_id)
        except NotFound:
            log.debug("a job that is to be cancelled is forgotten", extra={"job": job_id})

    def _write(self, views: Sequence[JobView]) -> None:
        now = self._ledger.now()
        rows = [
            {
                "id": view.id, "gateway": self._gateway, "record": self._record(view),
                "ended_at": None if view.live else now, "lease_until": now + _us(LEASE_S), "followed_until": 0,
                "cancel": False,
            }
            for view in views
        ]  # fmt: skip
        self._ledger.transact(lambda batch: _put(batch.connection, rows), alone=True)
        for view in views:
            if self._behind.get(view.id) is view:
                del self._behind[view.id]
            (self._live.add if view.live else self._live.discard)(view.id)

    def _prices(self, names: Sequence[str]) -> dict[str, int]:
        """What was posted for these, in wei: in one question for all that ended meanwhile."""
        row, found = UsageRow, dict.fromkeys(names, 0)
        for start in range(0, len(names), _PAGE):
            wanted = select(row.request_id, row.amount_wei, row.refunded_wei)
            with self._ledger.database.reading() as connection:
                for one in connection.execute(wanted.where(row.request_id.in_(names[start : start + _PAGE]))):
                    found[one.request_id] += one.amount_wei - one.refunded_wei
        return found

    def _record(self, view: JobView) -> str:
        return json.dumps({"view": view.to_dict(), "place": self._place})

    # --- of those elsewhere ----------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Have gateways write how the jobs go on that somebody looks at here."""
        clock = self._clock()
        watched = self._jobs.watched(_LOOKED_S)
        wanted = [one for one in watched if clock - self._asked.get(one, float("-inf")) > FOLLOWED_S / 2]
        if not wanted:
            return
        row = JobViewRow
        until = self._ledger.now() + _us(FOLLOWED_S)
        longer = update(row).where(row.id.in_(wanted), row.ended_at.is_(None)).values(followed_until=until)
        self._ledger.transact(lambda batch: batch.connection.execute(longer), alone=True)
        asked = self._asked | dict.fromkeys(wanted, clock)
        self._asked = {one: asked[one] for one in watched}

    def _hear(self) -> None:
        row, more = JobViewRow, True
        while more:
            newer = (row.version > self._heard, row.gateway != self._gateway)
            wanted = select(row.version, row.record).where(*newer).order_by(row.version).limit(_PAGE)
            with self._ledger.database.reading() as connection:
                found = connection.execute(wanted).all()
            self._jobs.put([said for one in found if (said := _read(one.record)) is not None], self.cancel)
            if found:
                self._heard = found[-1].version
            more = len(found) == _PAGE

    def _gone(self, now: int) -> Select[*tuple[Any, ...]]:
        """The record of a job ends first: then it is known what it costs."""
        row = JobViewRow
        goes_on = exists().where(JobRow.id == row.id, JobRow.ended_at.is_(None))
        return select(row.__table__).where(
            row.ended_at.is_(None), row.lease_until < now, row.gateway != self._gateway, ~goes_on
        )

    def _lose(self, row: RowMapping) -> None:
        said = _read(row["record"])
        if said is None:  # it ends as it is: those that can be read come next
            self._end(row, row["record"])
            return
        view, place = said
        with self._ledger.database.reading() as connection:
            known = connection.execute(select(JobRow.state, JobRow.record).where(JobRow.id == view.id)).first()
        usage = self._ledger.usage(request_id=view.id, user=view.owner)
        cost_wei = sum(one.amount_wei - one.refunded_wei for one in usage)
        state, tokens = LOST, view.tokens
        cost = format_ros(cost_wei)
        why = f"{place}, which ran it, has ended; {tokens} tokens of it were told, and it has cost {cost}"
        if known is not None:  # it may have ended before its gateway did
            record = json.loads(known.record)
            state, tokens, error = known.state, record["tokens"], record.get("error")
            why = "" if error is None or state == "cancelled" else error["detail"]
        # Without a record it may be asked for again by its Idempotency-Key, and what it cost is given back then.
        new = replace(
            view, state=state, tokens=tokens, ended_at=self._ledger.now() / SECOND, cost_wei=cost_wei,
            posted=known is not None, error=why,
        )  # fmt: skip
        if self._end(row, json.dumps({"view": new.to_dict(), "place": place})):
            log.info("a job of a gateway that died is shown as ended", extra={"job": view.id, "state": state})

    def _end(self, row: RowMapping, record: str) -> bool:
        """Whether this was the one that ended it."""
        same = (JobViewRow.id == row["id"], JobViewRow.ended_at.is_(None), JobViewRow.lease_until == row["lease_until"])
        values = {"record": record, "ended_at": self._ledger.now()}

        def run(connection: Connection) -> bool:
            changed = update(JobViewRow).where(*same).values(**values, version=_next(connection))
            return connection.execute(changed).rowcount == 1

        return bool(self._ledger.transact(lambda batch: run(batch.connection), alone=True))


def _put(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, or replace what they say; what others want of them stays."""
    first = _next(connection)
    numbered = [{**row, "version": first + place} for place, row in enumerate(rows)]
    make = insert_sqlite if connection.dialect.name == "sqlite" else insert_postgres
    new = make(JobViewRow)
    said = ("gateway", "version", "record", "ended_at", "lease_until")
    put = new.on_conflict_do_update(index_elements=["id"], set_={name: new.excluded[name] for name in said})
    connection.execute(put, numbered)


def _next(connection: Connection) -> int:
    """A number greater than those of all rows."""
    return int(connection.scalar(select(func.max(JobViewRow.version))) or 0) + 1


def _forget(connection: Connection, now: int) -> None:
    """Delete what ended a day ago, and what is older than the last ten thousand that ended."""
    row = JobViewRow
    newest = row.ended_at.desc()
    oldest = connection.scalar(
        select(row.ended_at).where(row.ended_at.is_not(None)).order_by(newest).offset(KEPT).limit(1)
    )
    until = max(now - _us(KEPT_S), oldest or 0)
    # The row of the greatest number stays: were it gone, that number would be given again.
    connection.execute(delete(row).where(row.ended_at <= until, row.version < _next(connection) - 1))


def _read(record: str) -> tuple[JobView, str] | None:
    """A job and its gateway; None where another version of rios wrote what this one does not understand."""
    try:
        said = json.loads(record)
        return JobView.from_dict(said["view"]), str(said["place"])
    except (KeyError, TypeError, ValueError) as error:
        log.warning("what another gateway says of a job cannot be read", extra={"reason": str(error)})
        return None


def _us(seconds: float) -> int:
    return int(seconds * SECOND)
