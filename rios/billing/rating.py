"""Rating: a usage record times a price gives wei, exactly, with one rounding for each record.

All arithmetic is rational. A price is rounded down, to the payer's favour, by less than 1 wei: so no record costs more
than its exact price, and dividing work over more hosts cannot make it cost more. The highest price that is held before
the work rests on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from rios.billing.books import EXPERT, MINIMUM, RESOURCE_LINES
from rios.billing.pricing import Host, Terms
from rios.billing.split import BASIS_POINTS, split
from rios.billing.usage import Request, UsageRecord, Work, fold, minimum_record
from rios.words.events import UsageEvent
from rios.words.money import NOTHING, Wei, check_wei


@dataclass(frozen=True, slots=True)
class Charge:
    """One rated record: `amount_wei` is what the user pays, `worker_wei + platform_wei` the same amount."""

    record: UsageRecord
    line: str
    """Key of the price line: "expert:cpu", "tokens_in" ..., or "minimum"."""
    unit: str
    """What `units` counts, as people read it: "expert-second", "GB-hour"."""
    units: Fraction
    """The quantity in units of the line."""
    price_wei: Fraction
    """For one unit, after tiers, the worker's ask and the discount."""
    amount_wei: Wei
    worker_wei: Wei
    platform_wei: Wei
    discount: str | None = None
    """The discount that took something off; None where none did."""
    discount_wei: Wei = NOTHING
    """What it took off: the price without it, rounded as `amount_wei` is, is the two together."""


def rate(record: UsageRecord, terms: Terms) -> Charge:
    """The charge for one record under the terms pinned at its hold.

    Raises PriceBookError where the book has no line for the record's resource.
    """
    book = terms.book
    if record.resource == MINIMUM:
        return _charge(record, MINIMUM, "wei", Fraction(record.quantity), Fraction(record.quantity), book.platform_bp)
    key = terms.expert_line(record.device_class) if record.resource == EXPERT else record.resource
    line = book.line(key)
    ask_bp = terms.ask(record.ask_bp)
    worked = line.price(record.quantity, before=terms.before.get(key, 0))
    least = Fraction(line.minimum_wei if record.quantity and record.resource in RESOURCE_LINES else 0)
    exact = max(worked * terms.factor(record.resource, ask_bp), least)
    charge = _charge(record, key, line.unit, Fraction(record.quantity, line.size), exact, book.platform_bp)
    if not terms.off_bp(record.resource):
        return charge
    full = max(worked * Fraction(ask_bp, BASIS_POINTS), least)
    return replace(charge, discount=terms.discount, discount_wei=Wei(_wei(full) - charge.amount_wei))


def rate_request(
    request: Request,
    events: Iterable[UsageEvent],
    *,
    work: Work,
    hosts: Mapping[str, Host],
    terms: Terms,
    ended: bool = True,
) -> tuple[Charge, ...]:
    """The charges of a request: its folded records, and what is missing to the book's minimum.

    ended: False while a stream goes on, and for a request that failed or was cancelled: these pay no minimum.
    A request that used nothing costs nothing. Raises what `fold` and `rate` raise.
    """
    charges = [rate(record, terms) for record in fold(request, events, work=work, hosts=hosts)]
    missing = terms.book.minimum_wei - total_wei(charges)
    if ended and charges and missing > 0:
        charges.append(rate(minimum_record(request, hosts[request.trunk], missing), terms))
    return tuple(charges)


def total_wei(charges: Iterable[Charge]) -> Wei:
    """The sum of the amounts."""
    return Wei(sum(charge.amount_wei for charge in charges))


def _charge(record: UsageRecord, key: str, unit: str, units: Fraction, exact: Fraction, platform_bp: int) -> Charge:
    amount = check_wei(_wei(exact), name=f"the price of {record.usage_id}")
    shares = split(amount, platform_bp)
    price = exact / units if units else Fraction(0)
    return Charge(record, key, unit, units, price, amount, shares.worker_wei, shares.platform_wei)


def _wei(exact: Fraction) -> int:
    return exact.numerator // exact.denominator
