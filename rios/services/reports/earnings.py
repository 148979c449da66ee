"""The report of a provider: what its hosts earned, with which work, and what it may claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rios.billing.ledger.accounts import earned
from rios.services.reports.columns import Group
from rios.services.reports.documents import Amount, Part, PinPart, SpanPart
from rios.services.reports.periods import Span
from rios.services.reports.reading import Pin, Reading, Used, day_name

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain

GROUPS = ("owner", "worker", "model", "resource", "day")


class EarnedRow(Part):
    """One owner, worker, model, resource or day."""

    key: str
    earned_wei: Amount
    before_wei: Amount
    rows: Amount
    """(token, expert) pairs."""
    measured_ns: Amount
    """As the hosts measured it, of expert work."""


class Due(Part):
    """What an owner had coming when the report was pinned."""

    owner: str
    balance_wei: Amount
    """Earned and not claimed, whether a root promises it yet or not."""
    claimable_wei: Amount
    """Of it, what the last root promises."""


class EarningsFacts(Part):
    """Whose earnings these are, and what was due."""

    owner: str | None
    due: tuple[Due, ...]


class EarningsReport(Part):
    """The earnings report."""

    format: Literal["rios-earnings-report/1"] = "rios-earnings-report/1"
    period: SpanPart
    before: SpanPart
    ledger: PinPart
    owner: str | None
    """Whose earnings alone; none for those of all."""
    earned_wei: Amount
    before_wei: Amount
    ledger_wei: Amount
    """The same by the ledger's entries."""
    by: dict[str, tuple[EarnedRow, ...]]
    due: tuple[Due, ...]


@dataclass(slots=True)
class _Tally:
    now: int = 0
    before: int = 0
    rows: int = 0
    ns: int = 0


def earnings_facts(
    ledger: Ledger, span: Span, pin: Pin, *, user: str | None, chain: NetworkChain | None
) -> EarningsFacts:
    """user: whose address it is about; a user without one has earned nothing."""
    owner = None if user is None else ledger.address_of(user)
    if user is not None and owner is None:
        return EarningsFacts(owner="", due=())
    names = None if owner is None else [earned(owner)]
    promised = ledger.claimable(owner)
    balances = {name: wei for name, wei in ledger.accounts(names).items() if name.startswith("worker:")}
    return EarningsFacts(
        owner=owner,
        due=tuple(
            Due(owner=name.split(":")[1], balance_wei=str(wei), claimable_wei=str(promised.get(name, 0)))
            for name, wei in sorted(balances.items())
            if name.endswith(":earned")
        ),
    )


def earnings_report(
    connection: Connection, span: Span, pin: Pin, *, facts: EarningsFacts, user: str | None = None
) -> EarningsReport:
    """What was earned in `span`, from the entries up to `pin`."""
    reading, before = Reading(connection, pin.height), span.before()
    found: Mapping[str, defaultdict[str, _Tally]] = {name: defaultdict(_Tally) for name in GROUPS}
    for number in span.days:
        found["day"][day_name(number)]  # a day without work is a row, too
    for used in reading.usage(
        before.since_us, span.until_us, keys=GROUPS[:-1], amounts=("worker_wei", "rows", "measured_ns")
    ):
        if facts.owner is not None:
            used = used.where(used.keys["owner"] == reading.number("owner", facts.owner))
        _add(found, used.within(span.since_us, span.until_us), reading)
        _add_before(found, used.within(before.since_us, span.since_us), reading)
    owners = found["owner"].values()
    return EarningsReport(
        period=SpanPart(**span.to_dict()),
        before=SpanPart(**before.to_dict()),
        ledger=PinPart(height=pin.height, head=pin.head),
        owner=facts.owner,
        earned_wei=str(sum(tally.now for tally in owners)),
        before_wei=str(sum(tally.before for tally in owners)),
        ledger_wei=str(reading.earned_wei(span.since_us, span.until_us, owner=facts.owner)),
        by={name: _rows(name, found[name]) for name in GROUPS},
        due=facts.due,
    )


def _add(found: Mapping[str, defaultdict[str, _Tally]], used: Used, reading: Reading) -> None:
    for name, tallies in found.items():
        group = Group(used.day if name == "day" else used.keys[name])
        sums = [group.sums(used.amounts[amount]) for amount in ("worker_wei", "rows", "measured_ns")]
        for key, wei, rows, ns in zip(reading.named(name, group.keys), *sums, strict=True):
            tally = tallies[key]
            tally.now += wei
            tally.rows += rows
            tally.ns += ns


def _add_before(found: Mapping[str, defaultdict[str, _Tally]], used: Used, reading: Reading) -> None:
    for name in GROUPS[:-1]:
        group = Group(used.keys[name])
        wei = group.sums(used.amounts["worker_wei"])
        for key, amount in zip(reading.named(name, group.keys), wei, strict=True):
            found[name][key].before += amount


def _rows(name: str, found: Mapping[str, _Tally]) -> tuple[EarnedRow, ...]:
    keys = sorted(found) if name == "day" else sorted(found, key=lambda key: (-found[key].now, key))
    return tuple(
        EarnedRow(
            key=key, earned_wei=str(found[key].now), before_wei=str(found[key].before), rows=str(found[key].rows),
            measured_ns=str(found[key].ns),
        )
        for key in keys
    )  # fmt: skip
