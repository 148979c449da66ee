"""The throughput report: how much a network did, for whom, when, and how fast its hosts were."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal

from rios.billing.books import TOKENS_IN, TOKENS_OUT
from rios.services.reports.columns import Group, firsts
from rios.services.reports.documents import Amount, Part, PinPart, SpanPart
from rios.services.reports.periods import DAY_US, Span
from rios.services.reports.reading import Pin, Reading, day_name

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain

_HOUR_US = 3600 * 10**6


class Work(Part):
    """What one model or worker did."""

    key: str
    requests: int | None
    tokens_in: Amount
    tokens_out: Amount
    rows: Amount
    measured_ns: Amount
    rows_per_s: int | None
    """Rows for each second that hosts measured, rounded down."""


class Slot(Part):
    """What was asked for in one day, or one hour of the day, of UTC."""

    key: str
    requests: int
    tokens_out: Amount


class ThroughputReport(Part):
    """The throughput report."""

    format: Literal["rios-throughput-report/1"] = "rios-throughput-report/1"
    period: SpanPart
    ledger: PinPart
    requests: int
    tokens_in: Amount
    tokens_out: Amount
    models: tuple[Work, ...]
    workers: tuple[Work, ...]
    days: tuple[Slot, ...]
    hours: tuple[Slot, ...]
    busiest_hour: str | None
    busiest_tokens_out: Amount


class Nothing(Part):
    """No facts: all of it is in the ledger."""


def no_facts(ledger: Ledger, span: Span, pin: Pin, *, user: str | None, chain: NetworkChain | None) -> Nothing:
    """Nothing."""
    return Nothing()


def throughput_report(
    connection: Connection, span: Span, pin: Pin, *, facts: Nothing, user: str | None = None
) -> ThroughputReport:
    """How much was done in `span`, from the entries up to `pin`."""
    works: dict[str, defaultdict[str, Counter[str]]] = {name: defaultdict(Counter) for name in ("model", "worker")}
    days: defaultdict[str, Counter[str]] = defaultdict(Counter)
    hours: defaultdict[int, Counter[str]] = defaultdict(Counter)
    seen: set[int] = set()
    reading = Reading(connection, pin.height, user=user)
    for number in span.days:
        days[day_name(number)]
    for used in reading.usage(
        span.since_us, span.until_us, keys=("model", "worker", "resource", "request"),
        amounts=("quantity", "rows", "measured_ns"),
    ):  # fmt: skip
        new = firsts(used.keys["request"], seen)
        tokens = {name: used.keys["resource"] == reading.number("resource", name) for name in (TOKENS_IN, TOKENS_OUT)}
        for what, found in works.items():
            group = Group(used.keys[what])
            said = {
                "requests": group.counts(new), "rows": group.sums(used.amounts["rows"]),
                "ns": group.sums(used.amounts["measured_ns"]),
                **{name: group.sums(used.amounts["quantity"], where) for name, where in tokens.items()},
            }  # fmt: skip
            for place, key in enumerate(reading.named(what, group.keys)):
                found[key].update({name: column[place] for name, column in said.items()})
        for unit_us, slot_of in ((DAY_US, lambda number: days[day_name(number)]), (_HOUR_US, hours.__getitem__)):
            group = Group(used.at // unit_us)
            asked, written = group.counts(new), group.sums(used.amounts["quantity"], tokens[TOKENS_OUT])
            for number, requests, tokens_out in zip(group.keys, asked, written, strict=True):
                slot_of(number).update({"requests": requests, TOKENS_OUT: tokens_out})
    whole: Counter[str] = sum(works["model"].values(), Counter())
    by_hour: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number in range(24):
        by_hour[f"{number:02d}"]
    for number, slot in hours.items():
        by_hour[f"{number % 24:02d}"] += slot
    busiest = max(hours, key=lambda number: (hours[number][TOKENS_OUT], -number), default=None)
    return ThroughputReport(
        period=SpanPart(**span.to_dict()),
        ledger=PinPart(height=pin.height, head=pin.head),
        requests=len(seen),
        tokens_in=str(whole[TOKENS_IN]),
        tokens_out=str(whole[TOKENS_OUT]),
        models=tuple(_work(key, found, shared=False) for key, found in sorted(works["model"].items())),
        workers=tuple(_work(key, found, shared=True) for key, found in sorted(works["worker"].items())),
        days=tuple(_slot(key, days[key]) for key in sorted(days)),
        hours=tuple(_slot(key, by_hour[key]) for key in sorted(by_hour)),
        busiest_hour=None if busiest is None else f"{day_name(busiest // 24)} {busiest % 24:02d}:00",
        busiest_tokens_out=str(0 if busiest is None else hours[busiest][TOKENS_OUT]),
    )


def _work(key: str, found: Counter[str], *, shared: bool) -> Work:
    return Work(
        key=key, requests=None if shared else found["requests"], tokens_in=str(found[TOKENS_IN]),
        tokens_out=str(found[TOKENS_OUT]), rows=str(found["rows"]), measured_ns=str(found["ns"]),
        rows_per_s=found["rows"] * 10**9 // found["ns"] if found["ns"] else None,
    )  # fmt: skip


def _slot(key: str, found: Counter[str]) -> Slot:
    return Slot(key=key, requests=found["requests"], tokens_out=str(found[TOKENS_OUT]))
