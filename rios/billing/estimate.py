"""Prices before the work: the lowest, the expected and the highest of a request, and how far a stream's next hold goes.

The highest is a bound, not a guess. A request reads at most prompt + new - 1 positions, each of which is at most top-k
rows in each layer, whoever computes them; tokens are counted; bytes are priced up to a bound per row; no tier, class or
ask counts above those pinned in the terms; and every record is rounded down. So no routing over any hosts, and no
division into hold steps, can cost more than what was held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from rios.billing.books import BYTES, EXPERT, MINIMUM, TOKENS_IN, TOKENS_OUT
from rios.billing.pricing import Host, Terms
from rios.billing.split import BASIS_POINTS
from rios.billing.usage import Work
from rios.words.display import Shown
from rios.words.errors import InvalidRequest
from rios.words.money import NOTHING, Wei, format_ros

# Typical, for the expected price only: a row of 2-byte numbers, there and back.
_NUMBER_BYTES = 2
# The first hold of a stream covers this many new tokens and each further one as many as came before: a long stream then
# takes few holds and never has more than about twice held of what it has used.
STEP_TOKENS = 256
STEP_TOKENS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class EstimateLine(Shown):
    """One price line of an estimate. Quantities are in base units (`books.BASE_UNITS`)."""

    line: str
    """Key of the line; for expert work the classes that could serve: "expert:cpu,cuda"."""
    unit: str
    quantity_min: int
    quantity_max: int
    lowest_wei: Wei
    expected_wei: Wei
    highest_wei: Wei


@dataclass(frozen=True, slots=True)
class Estimate(Shown):
    """What a request will cost. `highest_wei` is a bound; the other two say what to expect."""

    lines: tuple[EstimateLine, ...]
    discount: str | None = None
    """The discount that the prices are with; None where none applies."""
    discount_wei: Wei = NOTHING
    """How much more the expected price were without it."""

    @property
    def lowest_wei(self) -> Wei:
        """For an answer that ends with its first token, on the cheapest hosts that could serve."""
        return Wei(sum(line.lowest_wei for line in self.lines))

    @property
    def expected_wei(self) -> Wei:
        """For an answer of the expected length, on the average of the hosts that could serve."""
        return Wei(sum(line.expected_wei for line in self.lines))

    @property
    def highest_wei(self) -> Wei:
        """What is held before the work: it cannot cost more."""
        return Wei(sum(line.highest_wei for line in self.lines))

    def __repr__(self) -> str:
        lowest, expected, highest = map(format_ros, (self.lowest_wei, self.expected_wei, self.highest_wei))
        less = f", {format_ros(self.discount_wei)} less by discount {self.discount}" if self.discount else ""
        return f"<Estimate {lowest} to {highest}, expected {expected}{less}>"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        found = [(line.line, line.lowest_wei, line.expected_wei, line.highest_wei) for line in self.lines]
        found.append(("total", self.lowest_wei, self.expected_wei, self.highest_wei))
        rows = [(name, *map(format_ros, prices)) for name, *prices in found]
        if self.discount is not None:
            rows.insert(-1, (f"discount {self.discount}, in these prices", "", format_ros(-self.discount_wei), ""))
        return ("line", "lowest", "expected", "highest"), rows


@dataclass(frozen=True, slots=True)
class HoldStep:
    """One hold of a stream."""

    tokens: int
    """New tokens covered when it is used up, counted from the first."""
    hold_wei: Wei
    """The most that reaching there can cost beyond the holds before."""


def estimate(
    work: Work,
    terms: Terms,
    *,
    prompt_tokens: int,
    max_new_tokens: int,
    hosts: Iterable[Host] = (),
    expected_new_tokens: int | None = None,
) -> Estimate:
    """The price of a request before it is made.

    hosts: who could serve, for the expected price; without them the classes of the terms count alike.
    expected_new_tokens: where answers usually end; without it the limit `max_new_tokens`.
    Raises InvalidRequest where a count of tokens is out of range. No new tokens cost nothing.
    """
    _check(prompt_tokens, max_new_tokens)
    if max_new_tokens == 0:
        return Estimate(())
    usual = max_new_tokens if expected_new_tokens is None else min(max(expected_new_tokens, 1), max_new_tokens)
    least, most = prompt_tokens, prompt_tokens + max_new_tokens - 1
    low = _lowest(work, terms, positions=least, tokens_in=prompt_tokens)
    serving = list(hosts)
    mid = _expected(work, terms, serving, prompt_tokens + usual - 1, prompt_tokens, usual)
    high = _highest(work, terms, positions=most, tokens_in=prompt_tokens, tokens_out=max_new_tokens)
    quantities = {
        EXPERT: (least * work.flops_per_position, most * work.flops_per_position),
        TOKENS_IN: (prompt_tokens, prompt_tokens),
        TOKENS_OUT: (1, max_new_tokens),
        BYTES: (0, most * work.rows_per_position * work.row_bytes_max),
    }
    lines = []
    for resource, (fewest, largest) in quantities.items():
        key, unit = resource, ""
        if resource == EXPERT:
            key, unit = f"{EXPERT}:{','.join(terms.served_by)}", "expert-second"
        else:
            unit = terms.book.line(resource).unit
        wei = low[resource], min(max(mid[resource], low[resource]), high[resource]), high[resource]
        lines.append(EstimateLine(key, unit, fewest, largest, *map(Wei, wei)))
    found = Estimate(tuple(lines) + _minimum(terms, lines))
    if not any(terms.off_bp(resource) for resource in quantities):
        return found
    full = estimate(
        work,
        replace(terms, discount=None),
        prompt_tokens=prompt_tokens,
        max_new_tokens=max_new_tokens,
        hosts=serving,
        expected_new_tokens=expected_new_tokens,
    )
    return replace(found, discount=terms.discount, discount_wei=Wei(full.expected_wei - found.expected_wei))


def hold_step(
    work: Work,
    terms: Terms,
    *,
    prompt_tokens: int,
    max_new_tokens: int,
    covered: int = 0,
    available_wei: int | None = None,
    step_tokens: int = STEP_TOKENS,
) -> HoldStep | None:
    """The next hold of a stream of which `covered` new tokens are held for; None where there is none to make.

    step_tokens: new tokens of the first step, and the fewest of a further one that is not the last.
    available_wei: where the whole step is more than that, the largest one that is not; None where even the next token
    is more. Whoever needs no steps holds `estimate(...).highest_wei`. Raises InvalidRequest as `estimate` does.
    """
    _check(prompt_tokens, max_new_tokens)
    tokens = min(max(step_tokens, min(covered, STEP_TOKENS_MAX)), max_new_tokens - covered)

    def hold(count: int) -> int:
        first = covered == 0
        positions = count + (prompt_tokens - 1 if first else 0)
        lines = _highest(work, terms, positions=positions, tokens_in=prompt_tokens if first else 0, tokens_out=count)
        # The book's minimum is due once, and the first hold has it.
        return max(sum(lines.values()), terms.book.minimum_wei if first else 0)

    if available_wei is not None and tokens > 0 and hold(tokens) > available_wei:
        fits, too_many = 0, tokens
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if hold(middle) <= available_wei else (fits, middle)
        tokens = fits
    return HoldStep(covered + tokens, Wei(hold(tokens))) if tokens > 0 else None


def _highest(work: Work, terms: Terms, *, positions: int, tokens_in: int, tokens_out: int) -> dict[str, int]:
    flops = positions * work.flops_per_position
    # A class that joins later is compared by its price in any tier, so where not all classes were foreseen, the tiers
    # beyond this request count as well.
    reach = flops if set(terms.served_by) == set(terms.book.classes) else None
    dearest = max(_flop_bounds(terms, name, reach)[1] for name in terms.served_by)
    found = {EXPERT: _wei(flops * dearest * terms.factor(EXPERT, terms.ask_max_bp))}
    carried = positions * work.rows_per_position * work.row_bytes_max
    for resource, quantity in ((TOKENS_IN, tokens_in), (TOKENS_OUT, tokens_out), (BYTES, carried)):
        # The dearest tier for all of it: records of other hosts and other hold steps begin in the same tier again.
        dearest = terms.book.line(resource).bounds(quantity, before=terms.before.get(resource, 0))[1]
        found[resource] = _wei(quantity * dearest * terms.factor(resource, terms.ask_max_bp))
    return found


def _lowest(work: Work, terms: Terms, *, positions: int, tokens_in: int) -> dict[str, int]:
    flops = positions * work.flops_per_position
    cheapest = min(_flop_bounds(terms, name, flops)[0] for name in terms.served_by)
    found = {EXPERT: _wei(flops * cheapest * terms.factor(EXPERT, terms.ask_min_bp)), BYTES: 0}
    for resource, quantity in ((TOKENS_IN, tokens_in), (TOKENS_OUT, 1)):
        cheapest = terms.book.line(resource).bounds(quantity, before=terms.before.get(resource, 0))[0]
        found[resource] = _wei(quantity * cheapest * terms.factor(resource, terms.ask_min_bp))
    return found


def _expected(
    work: Work, terms: Terms, hosts: list[Host], positions: int, tokens_in: int, tokens_out: int
) -> dict[str, int]:
    likely = [(host.device_class, terms.ask(host.ask_bp)) for host in hosts]
    likely = likely or [(name, min(max(BASIS_POINTS, terms.ask_min_bp), terms.ask_max_bp)) for name in terms.served_by]
    carried = positions * work.rows_per_position * 2 * _NUMBER_BYTES * work.hidden_size
    quantities = {
        EXPERT: positions * work.flops_per_position,
        TOKENS_IN: tokens_in,
        TOKENS_OUT: tokens_out,
        BYTES: carried,
    }
    found = {}
    for resource, quantity in quantities.items():
        prices = []
        for device_class, ask_bp in likely:
            key = terms.expert_line(device_class) if resource == EXPERT else resource
            price = terms.book.line(key).price(quantity, before=terms.before.get(key, 0))
            prices.append(price * terms.factor(resource, ask_bp))
        found[resource] = _wei(sum(prices, Fraction(0)) / len(prices))
    return found


def _minimum(terms: Terms, lines: list[EstimateLine]) -> tuple[EstimateLine, ...]:
    """What the book's minimum adds to each of the three prices."""
    sums = (sum(getattr(line, name) for line in lines) for name in ("lowest_wei", "expected_wei", "highest_wei"))
    missing = [Wei(max(terms.book.minimum_wei - total, 0)) for total in sums]
    return (EstimateLine(MINIMUM, "wei", missing[2], missing[0], *missing),) if any(missing) else ()


def _flop_bounds(terms: Terms, device_class: str, flops: int | None) -> tuple[Fraction, Fraction]:
    key = terms.expert_line(device_class)
    return terms.book.line(key).bounds(flops, before=terms.before.get(key, 0))


def _wei(exact: Fraction) -> int:
    return exact.numerator // exact.denominator


def _check(prompt_tokens: object, max_new_tokens: object) -> None:
    for name, value, least in (("prompt_tokens", prompt_tokens, 1), ("max_new_tokens", max_new_tokens, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**40:
            raise InvalidRequest(f"{name} is {value!r}; it is a whole number of at least {least}")
