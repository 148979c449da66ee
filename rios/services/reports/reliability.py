"""The reliability report: what became of requests and went wrong with them, what was given back, what nobody took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ColumnElement, func, select

from rios.dmoe.faults import STALLED
from rios.services.reports.documents import Part, PinPart, SpanPart
from rios.services.reports.periods import DAY_US, Span
from rios.services.reports.reading import Pin, Reading, day_name
from rios.storage import models as m
from rios.storage.report_models import ReportHistoryRow, RequestFaultRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain


class Fate(Part):
    """What became of the requests of one day or user. Open and paused ones had not ended yet."""

    key: str
    posted: int
    """Answered, and paid."""
    released: int
    """Ended before they had used anything: refused, failed or cancelled."""
    expired: int
    """Their process died, or nobody paid on."""
    live: int
    answered_bp: int | None
    """Posted, of all that ended, in basis points."""


class Counted(Part):
    """How often something was."""

    key: str
    count: int


class Waiting(Part):
    """Messages that nobody took yet."""

    topic: str
    count: int
    attempts_max: int
    error: str


class Faulty(Part):
    """What went wrong on the way of requests that ended in the period, of one kind: made good, but for `failed`."""

    kind: str
    """trunk lost, host failed, hedged (a host was so late that others were asked too), or failed."""
    about: str
    """Which host, or which error."""
    requests: int
    count: int
    """Of hosts, in how many steps of these requests."""


class Stalled(Part):
    """Answers of one day that stood still between two tokens for longer than RIOS_STALL_S."""

    key: str
    requests: int
    count: int
    longest_us: int


class ReliabilityReport(Part):
    """The reliability report: what was known when it was pinned."""

    format: Literal["rios-reliability-report/1"] = "rios-reliability-report/1"
    period: SpanPart
    ledger: PinPart
    total: Fate
    by_day: tuple[Fate, ...]
    by_user: tuple[Fate, ...]
    faults: tuple[Faulty, ...] = ()
    stalls: tuple[Stalled, ...] = ()
    """Of the days that have some. Of what was pinned before these were counted, both are empty."""
    refunds: tuple[Counted, ...]
    """By reason."""
    waiting: tuple[Waiting, ...]
    reports: tuple[Counted, ...]
    """Attempts to make reports, by what came of them."""
    transactions: tuple[Counted, ...]
    """Of the chain, by state; all that there ever were."""


def reliability_facts(
    ledger: Ledger, span: Span, pin: Pin, *, user: str | None, chain: NetworkChain | None
) -> ReliabilityReport:
    """All of the report: what it counts changes, and is kept with the pin."""
    with ledger.database.reading() as connection:
        days, users = _fates(connection, span, user)
        whole: Counter[str] = sum(days.values(), Counter())
        given = Reading(connection, pin.height, user=user).refunds(span.since_us, span.until_us)
        return ReliabilityReport(
            period=SpanPart(**span.to_dict()),
            ledger=PinPart(height=pin.height, head=pin.head),
            total=_fate("all", whole),
            by_day=tuple(_fate(key, days[key]) for key in sorted(days)),
            by_user=tuple(_fate(key, users[key]) for key in sorted(users)),
            faults=tuple(_faults(connection, span, user)),
            stalls=tuple(_stalls(connection, span, user)),
            refunds=tuple(_counted(Counter(one.reason for one in given))),
            waiting=() if user is not None else tuple(_waiting(connection)),
            reports=() if user is not None else tuple(_grouped(
                connection, ReportHistoryRow.state, ReportHistoryRow.ended_at >= span.since_us,
                ReportHistoryRow.ended_at < span.until_us,
            )),
            transactions=() if user is not None else tuple(_grouped(connection, m.ChainIntentRow.state)),
        )  # fmt: skip


def reliability_report(
    connection: Connection, span: Span, pin: Pin, *, facts: ReliabilityReport, user: str | None = None
) -> ReliabilityReport:
    """As it was."""
    return facts


def _fates(
    connection: Connection, span: Span, user: str | None
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    row = m.HoldRow
    day = (row.created_at - row.created_at % DAY_US) / DAY_US
    wanted = select(day, row.user_id, row.state, func.count()).where(
        row.created_at >= span.since_us, row.created_at < span.until_us
    )
    if user is not None:
        wanted = wanted.where(row.user_id == user)
    days: dict[str, Counter[str]] = {day_name(number): Counter() for number in span.days}
    users: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number, name, state, count in connection.execute(wanted.group_by(day, row.user_id, row.state)):
        days[day_name(int(number))][state] += count
        users[name][state] += count
    return days, users


def _fate(key: str, found: Counter[str]) -> Fate:
    posted, released, expired = (found[state] for state in ("posted", "released", "expired"))
    ended = posted + released + expired
    return Fate(
        key=key, posted=posted, released=released, expired=expired, live=found["open"] + found["paused"],
        answered_bp=posted * 10_000 // ended if ended else None,
    )  # fmt: skip


def _faults(connection: Connection, span: Span, user: str | None) -> Iterator[Faulty]:
    row = RequestFaultRow
    wanted = select(row.kind, row.about, func.count(), func.sum(row.count)).where(
        *_ended(span, user), row.kind != STALLED
    )
    for kind, about, requests, count in connection.execute(
        wanted.group_by(row.kind, row.about).order_by(row.kind, row.about)
    ):
        yield Faulty(kind=kind, about=about, requests=requests, count=int(count))


def _stalls(connection: Connection, span: Span, user: str | None) -> Iterator[Stalled]:
    row = RequestFaultRow
    day = (row.at - row.at % DAY_US) / DAY_US
    wanted = select(day, func.count(), func.sum(row.count), func.max(row.longest_us)).where(
        *_ended(span, user), row.kind == STALLED
    )
    for number, requests, count, longest_us in connection.execute(wanted.group_by(day).order_by(day)):
        yield Stalled(key=day_name(int(number)), requests=requests, count=int(count), longest_us=longest_us)


def _ended(span: Span, user: str | None) -> tuple[ColumnElement[bool], ...]:
    row = RequestFaultRow
    within = (row.at >= span.since_us, row.at < span.until_us)
    return within if user is None else (*within, row.user_id == user)


def _waiting(connection: Connection) -> Iterator[Waiting]:
    row = m.OutboxRow
    wanted = select(row.topic, func.count(), func.max(row.attempts), func.max(row.error)).where(
        row.delivered_at.is_(None)
    )
    for topic, count, attempts, error in connection.execute(wanted.group_by(row.topic).order_by(row.topic)):
        yield Waiting(topic=topic, count=count, attempts_max=attempts, error=error or "")


def _grouped(connection: Connection, column: Any, *where: Any) -> Iterator[Counted]:
    wanted = select(column, func.count()).where(*where).group_by(column).order_by(column)
    return (Counted(key=key, count=count) for key, count in connection.execute(wanted))


def _counted(found: Counter[str]) -> Iterator[Counted]:
    return (Counted(key=key, count=count) for key, count in sorted(found.items(), key=lambda one: (-one[1], one[0])))
