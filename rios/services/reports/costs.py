"""The cost report: sums of what was used, each an exact integer, and what they say about the days to come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection

from rios.billing.books import TOKENS_IN, TOKENS_OUT
from rios.services.moments import moment_of
from rios.services.reports import documents as doc
from rios.services.reports.anomalies import DAYS, anomalies
from rios.services.reports.columns import Group, firsts, total
from rios.services.reports.forecast import forecast
from rios.services.reports.periods import DAY_US, Span
from rios.services.reports.reading import REFUND, USAGE, Pin, Reading, Refunded, Used, day_name

GROUPS = ("user", "model", "worker", "deployment", "resource")
SHARED = ("worker", "resource")
"""What several records of one request are about."""
WATCHED = ("user", "model", "worker")
"""Of which single days may stand out."""
AMOUNTS = ("amount_wei", "worker_wei", "quantity")
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


class Sums:
    """The sums of one period."""

    def __init__(self, span: Span, reading: Reading) -> None:
        self.span = span
        self.by: dict[str, defaultdict[str, Tally]] = {name: defaultdict(Tally) for name in (*GROUPS, "day")}
        self.cells: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.workers = 0
        self._reading = reading
        self._seen: set[int] = set()

    def use(self, found: Used) -> None:
        """Add usage records, those of the period."""
        found = found.within(self.span.since_us, self.span.until_us)
        if not len(found):
            return
        amount, quantity = found.amounts["amount_wei"], found.amounts["quantity"]
        new = firsts(found.keys["request"], self._seen)
        token = [found.keys["resource"] == self._reading.number("resource", name) for name in (TOKENS_IN, TOKENS_OUT)]
        self.workers += total(found.amounts["worker_wei"])
        for name, tallies in self.by.items():
            group = Group(found.day if name == "day" else found.keys[name])
            sums = zip(
                self._reading.named(name, group.keys), group.sums(amount), group.counts(), group.counts(new),
                *(group.sums(quantity, one) for one in token), strict=True,
            )  # fmt: skip
            for key, cost, records, requests, tokens_in, tokens_out in sums:
                tally = tallies[key]
                tally.cost += cost
                tally.records += records
                tally.requests += requests
                tally.tokens_in += tokens_in
                tally.tokens_out += tokens_out
        group = Group(found.keys["user"], found.keys["model"])
        users, models = self._reading.named("user", group.keys), self._reading.named("model", group.others)
        for user, model, cost in zip(users, models, group.sums(amount), strict=True):
            self.cells[user, model] += cost

    def give_back(self, one: Refunded) -> None:
        """Add a refund, where it is of the period."""
        if not self.span.since_us <= one.at < self.span.until_us:
            return
        keys = {
            "user": one.user, "model": one.model, "worker": one.worker, "deployment": one.deployment,
            "resource": one.resource, "day": day_name(one.at // DAY_US),
        }  # fmt: skip
        for name, key in keys.items():
            self.by[name][key].refunds += one.amount_wei
        self.cells[one.user, one.model] -= one.amount_wei

    @property
    def whole(self) -> Tally:
        """All users together."""
        found = Tally()
        for one in self.by["user"].values():
            for name in fields(Tally):
                setattr(found, name.name, getattr(found, name.name) + getattr(one, name.name))
        return found

    def totals(self) -> doc.Totals:
        """As the report says it."""
        whole = self.whole
        return doc.Totals(
            cost_wei=str(whole.cost), refunds_wei=str(whole.refunds), net_wei=str(whole.net),
            workers_wei=str(self.workers), platform_wei=str(whole.cost - self.workers), records=whole.records,
            requests=whole.requests, tokens_in=str(whole.tokens_in), tokens_out=str(whole.tokens_out),
        )  # fmt: skip


class Daily:
    """Net cost by day and watched key, for as many days before the period as forecasts and anomalies look back."""

    def __init__(self, reading: Reading) -> None:
        self.found: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._reading = reading

    def use(self, found: Used) -> None:
        """Add usage records."""
        amount = found.amounts["amount_wei"]
        group = Group(found.day)
        for day, cost in zip(group.keys, group.sums(amount), strict=True):
            self.found[ALL, ""][day] += cost
        for name in WATCHED:
            group = Group(found.day, found.keys[name])
            rows = zip(group.keys, self._reading.named(name, group.others), group.sums(amount), strict=True)
            for day, key, cost in rows:
                self.found[name, key][day] += cost

    def give_back(self, one: Refunded) -> None:
        """Add a refund."""
        for key in ((ALL, ""), ("user", one.user), ("model", one.model), ("worker", one.worker)):
            self.found[key][one.at // DAY_US] -= one.amount_wei


def cost_report(
    connection: Connection, span: Span, pin: Pin, *, facts: doc.Facts, user: str | None = None
) -> doc.CostReport:
    """The report on what `user`, or everybody, used in `span`, from the entries up to `pin`.

    facts: what is not in the ledger, or changes there; the report has it as it is given.
    """
    reading = Reading(connection, pin.height, user=user)
    before = span.before()
    now_sums, before_sums, daily = Sums(span, reading), Sums(before, reading), Daily(reading)
    month_start = _month_start(span)
    start = min(before.since_us, span.since_us - DAYS * DAY_US, month_start)
    for used in reading.usage(start, span.until_us, keys=(*GROUPS, "request"), amounts=AMOUNTS):
        for sums in (daily, now_sums, before_sums):
            sums.use(used)
    for refund in reading.refunds(start, span.until_us):
        for sums in (daily, now_sums, before_sums):
            sums.give_back(refund)
    for number in span.days:
        now_sums.by["day"][day_name(number)]  # a day without use is a row, too
    ledger = reading.posted_wei(span.since_us, span.until_us)
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
            unallocated_wei=str(ledger[USAGE] - allocated),
            ledger_wei=str(ledger[USAGE]),
            refunds_allocated_wei=str(now_sums.whole.refunds),
            refunds_ledger_wei=str(ledger[REFUND]),
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
