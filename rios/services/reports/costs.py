"""The cost report: sums of what was used, each an exact integer, and what they say about the days to come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from rios.billing.books import TOKENS_IN, TOKENS_OUT
from rios.services.moments import moment_of
from rios.services.reports import documents as doc
from rios.services.reports.anomalies import DAYS, anomalies
from rios.services.reports.forecast import forecast
from rios.services.reports.periods import DAY_US, Span
from rios.services.reports.reading import REFUND, USAGE, Pin, Reading, Refunded, Used, day_name

GROUPS = ("user", "model", "worker", "deployment", "resource")
SHARED = ("worker", "resource")
"""What several records of one request are about."""
ALL = "all"


@dataclass(slots=True)
class Tally:
    """What one key adds up to."""

    cost: int = 0
    refunds: int = 0
    records: int = 0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def net(self) -> int:
        """Cost less refunds."""
        return self.cost - self.refunds


@dataclass(slots=True)
class Sums:
    """The sums of one period."""

    span: Span
    by: dict[str, defaultdict[str, Tally]] = field(
        default_factory=lambda: {name: defaultdict(Tally) for name in (*GROUPS, "day")}
    )
    cells: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    whole: Tally = field(default_factory=Tally)
    workers: int = 0
    records: int = 0
    seen: set[str] = field(default_factory=set)

    def use(self, one: Used) -> None:
        """Add a usage record."""
        self.records += 1
        self.workers += one.worker_wei
        new = one.request not in self.seen
        if new:
            self.seen.add(one.request)
        amount, resource, quantity = one.amount_wei, one.resource, one.quantity
        for tally in self._tallies(one):
            tally.cost += amount
            tally.records += 1
            tally.requests += new
            if resource == TOKENS_IN:
                tally.tokens_in += quantity
            elif resource == TOKENS_OUT:
                tally.tokens_out += quantity
        self.cells[one.user, one.model] += amount

    def give_back(self, one: Refunded) -> None:
        """Add a refund."""
        for tally in self._tallies(one):
            tally.refunds += one.amount_wei
        self.cells[one.user, one.model] -= one.amount_wei

    def _tallies(self, one: Used | Refunded) -> tuple[Tally, ...]:
        by = self.by
        return (
            self.whole, by["user"][one.user], by["model"][one.model], by["worker"][one.worker],
            by["deployment"][one.deployment], by["resource"][one.resource], by["day"][day_name(one.at // DAY_US)],
        )  # fmt: skip

    def totals(self) -> doc.Totals:
        """As the report says it."""
        whole = self.whole
        return doc.Totals(
            cost_wei=str(whole.cost), refunds_wei=str(whole.refunds), net_wei=str(whole.net),
            workers_wei=str(self.workers), platform_wei=str(whole.cost - self.workers), records=self.records,
            requests=whole.requests, tokens_in=str(whole.tokens_in), tokens_out=str(whole.tokens_out),
        )  # fmt: skip


class Daily:
    """Net cost by day and watched key, for as many days before the period as forecasts and anomalies look back."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], defaultdict[int, int]] = {}

    def add(self, one: Used | Refunded, amount: int) -> None:
        """Add what was used, or (below 0) given back."""
        day = one.at // DAY_US
        for key in ((ALL, ""), ("user", one.user), ("model", one.model), ("worker", one.worker)):
            days = self.found.get(key)
            if days is None:
                days = self.found[key] = defaultdict(int)
            days[day] += amount


def cost_report(
    connection: Connection, span: Span, pin: Pin, *, facts: doc.Facts, user: str | None = None
) -> doc.CostReport:
    """The report on what `user`, or everybody, used in `span`, from the entries up to `pin`.

    facts: what is not in the ledger, or changes there; the report has it as it is given.
    """
    reading = Reading(connection, pin.height, user=user)
    before = span.before()
    now_sums, before_sums, daily = Sums(span), Sums(before), Daily()
    month_start = _month_start(span)
    start = min(before.since_us, span.since_us - DAYS * DAY_US, month_start)
    for used in reading.usage(start, span.until_us):
        daily.add(used, used.amount_wei)
        for sums in (now_sums, before_sums):
            if sums.span.since_us <= used.at < sums.span.until_us:
                sums.use(used)
    for refund in reading.refunds(start, span.until_us):
        daily.add(refund, -refund.amount_wei)
        for sums in (now_sums, before_sums):
            if sums.span.since_us <= refund.at < sums.span.until_us:
                sums.give_back(refund)
    for number in span.days:
        now_sums.by["day"][day_name(number)]  # a day without use is a row, too
    posted = reading.posted_wei(USAGE, span.since_us, span.until_us)
    given = reading.posted_wei(REFUND, span.since_us, span.until_us)
    allocated = sum(tally.cost for tally in now_sums.by["user"].values())
    return doc.CostReport(
        period=doc.SpanPart(**span.to_dict()),
        before=doc.SpanPart(**before.to_dict()),
        ledger=doc.PinPart(height=pin.height, head=pin.head),
        user=user,
        totals=now_sums.totals(),
        totals_before=before_sums.totals(),
        check=doc.Check(
            allocated_wei=str(allocated),
            unallocated_wei=str(posted - allocated),
            ledger_wei=str(posted),
            refunds_allocated_wei=str(now_sums.whole.refunds),
            refunds_ledger_wei=str(given),
        ),
        by={name: tuple(_rows(name, now_sums.by[name], before_sums.by[name])) for name in now_sums.by},
        history=tuple(_history(daily.found.get((ALL, ""), {}), span)),
        user_models=tuple(
            doc.Cell(user=key[0], model=key[1], net_wei=str(amount)) for key, amount in sorted(now_sums.cells.items())
        ),
        unit_costs=tuple(_unit_costs(now_sums.by["model"], before_sums.by["model"])),
        forecast=forecast(daily.found.get((ALL, ""), {}), span, month_start),
        budgets=facts.budgets,
        anomalies=tuple(anomalies(daily.found, span)),
        reconciliation=facts.reconciliation,
        samples=facts.samples,
    )


def _month_start(span: Span) -> int:
    first = moment_of(span.until_us - 1).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * 10**6


def _history(daily: Mapping[int, int], span: Span) -> Iterable[doc.Day]:
    last, first = span.days[-1], span.days[0] - DAYS
    return [doc.Day(day=day_name(day), net_wei=str(daily.get(day, 0))) for day in range(first, last + 1)]


def _rows(name: str, now: Mapping[str, Tally], before: Mapping[str, Tally]) -> Iterable[doc.Row]:
    """Days in their order; all else by what it costs, the most first. What cost something before is a row, too."""
    days = name == "day"
    keys = set(now) if days else set(now) | set(before)
    none = Tally()
    order: Any = (lambda key: key) if days else (lambda key: (-now.get(key, none).net, key))
    for key in sorted(keys, key=order):
        tally, past = now.get(key, none), before.get(key, none)
        yield doc.Row(
            key=key, cost_wei=str(tally.cost), refunds_wei=str(tally.refunds), net_wei=str(tally.net),
            before_wei=str(past.net), records=tally.records,
            requests=None if name in SHARED else tally.requests, tokens_in=str(tally.tokens_in),
            tokens_out=str(tally.tokens_out),
        )  # fmt: skip


def _unit_costs(now: Mapping[str, Tally], before: Mapping[str, Tally]) -> Iterable[doc.UnitCost]:
    for model in sorted(now):
        tally = now[model]
        tokens = tally.tokens_in + tally.tokens_out
        if tokens:
            price, past = _per_thousand(tally), _per_thousand(before.get(model, Tally()))
            yield doc.UnitCost(
                model=model, tokens=str(tokens), net_wei=str(tally.net), per_thousand_wei=price,
                before_per_thousand_wei=past,
            )  # fmt: skip


def _per_thousand(tally: Tally) -> str | None:
    tokens = tally.tokens_in + tally.tokens_out
    return str(tally.net * 1000 // tokens) if tokens else None
