"""Price books: what each thing costs from when on, as values that two parties can compare by a digest.

A book is data: version, moment from which it holds, one line per thing that has a price, discounts, what a worker may
ask, and the platform's share. Quantities are whole numbers of a base unit (FLOP, tokens, bytes, byte-seconds,
nanoseconds); a line says how many of them make the unit that its price is for, so that all arithmetic stays exact.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rios.billing.split import BASIS_POINTS
from rios.words.canonical import canonical, digest
from rios.words.display import Shown
from rios.words.errors import InvalidAmount, InvalidRequest, PriceBookError
from rios.words.money import NOTHING, WEI_MAX, Wei, check_wei, format_ros
from rios.words.reading import read_decimal, read_list, read_mapping, read_object, read_text

FORMAT = "rios-price-book/1"
EXPERT = "expert"
TOKENS_IN, TOKENS_OUT, BYTES, MINIMUM = "tokens_in", "tokens_out", "bytes", "minimum"
REQUEST_LINES = (TOKENS_IN, TOKENS_OUT, BYTES)
"""Lines of a request, besides the expert work. A request is served by hosts that nobody knows before, so none of these
has a minimum of its own: the book has one for the whole request."""
RESOURCE_LINES = ("memory", "cpu", "gpu", "storage")
"""Lines of what is rented by time."""
LINES = REQUEST_LINES + RESOURCE_LINES
BASE_UNITS = {
    EXPERT: "FLOP",
    TOKENS_IN: "token",
    TOKENS_OUT: "token",
    BYTES: "byte",
    "memory": "byte-second",
    "cpu": "core-nanosecond",
    "gpu": "GPU-nanosecond",
    "storage": "byte-second",
    MINIMUM: "wei",
}
"""What the quantity of a usage record counts."""


def expert_key(device_class: str) -> str:
    """The key of the line for expert work on `device_class`: "expert:cpu"."""
    return f"{EXPERT}:{device_class}"


@dataclass(frozen=True, slots=True)
class Tier(Shown):
    """A price that holds up to a quantity."""

    up_to: int | None
    """In units of the line; None for the last tier, which has no end."""
    price_wei: Wei
    """For one unit of the line."""


@dataclass(frozen=True, slots=True)
class Line(Shown):
    """The price of one thing. Tiers are graduated: each price holds for the part of the quantity inside its tier."""

    unit: str
    """As people read it: "expert-second", "GB-hour"."""
    size: int
    """How many base units make one unit. For expert work that is the device class's speed in FLOP/s."""
    tiers: tuple[Tier, ...]
    minimum_wei: Wei = NOTHING
    """What a record costs at least once its quantity is above 0; only lines of rented resources may have one."""

    @classmethod
    def flat(cls, unit: str, size: int, price_wei: int, *, minimum_wei: int = 0) -> Line:
        """A line with one price."""
        return cls(unit, size, (Tier(None, Wei(price_wei)),), Wei(minimum_wei))

    def price(self, quantity: int, *, before: int = 0) -> Fraction:
        """The exact price in wei of `quantity` base units that follow `before` earlier ones in the tiers."""
        total, start, end = 0, before, before + quantity
        for tier in self.tiers:
            stop = end if tier.up_to is None else min(end, tier.up_to * self.size)
            if stop > start:
                total += (stop - start) * tier.price_wei
                start = stop
        return Fraction(total, self.size)

    def bounds(self, quantity: int | None = None, *, before: int = 0) -> tuple[Fraction, Fraction]:
        """Lowest and highest price in wei of one base unit, among those from `before` to `before + quantity`.

        quantity: None for however many may come.
        """
        found = []
        start = 0
        for tier in self.tiers:
            reached = quantity is None or start < before + max(quantity, 1)
            left = tier.up_to is None or tier.up_to * self.size > before
            if reached and left:
                found.append(tier.price_wei)
            start = 0 if tier.up_to is None else tier.up_to * self.size
        return Fraction(min(found), self.size), Fraction(max(found), self.size)


@dataclass(frozen=True, slots=True)
class DeviceClass(Shown):
    """Expert work on one kind of device: `line.size` is its speed, pinned here and not measured on any host."""

    line: Line

    @property
    def speed_flops(self) -> int:
        """FLOP per second that a normalised expert-second of this class stands for."""
        return self.line.size


@dataclass(frozen=True, slots=True)
class Discount(Shown):
    """Basis points off the price of some lines."""

    off_bp: int
    lines: tuple[str, ...] = ()
    """Names of lines ("expert", "tokens_in" ...); empty for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook(Shown):
    """What everything costs from a moment on. Raises PriceBookError, naming the place, where it contradicts itself."""

    version: int
    """Counts up from 1 as published; 0 is the book that comes with rios."""
    effective_from_s: int
    """Seconds since 1970 (UTC) from which it holds, itself included."""
    classes: Mapping[str, DeviceClass]
    lines: Mapping[str, Line]
    discounts: Mapping[str, Discount] = field(default_factory=dict)
    minimum_wei: Wei = NOTHING
    """What a request costs at least once it has cost anything; not discounted."""
    ask_min_bp: int = BASIS_POINTS
    ask_max_bp: int = BASIS_POINTS
    """What a worker may ask, in basis points of the book's prices: from `ask_min_bp` to `ask_max_bp`."""
    platform_bp: int = 1_000
    """The platform's share of each charge in basis points; the rest is the worker's."""

    def __post_init__(self) -> None:
        check_whole("version", self.version, 0, 2**63 - 1)
        check_whole("effective_from_s", self.effective_from_s, 0, 2**53)
        check_whole("ask_min_bp", self.ask_min_bp, 1, BASIS_POINTS)
        check_whole("ask_max_bp", self.ask_max_bp, BASIS_POINTS, 100 * BASIS_POINTS)
        check_whole("platform_bp", self.platform_bp, 0, BASIS_POINTS)
        _money("minimum_wei", self.minimum_wei)
        if not self.classes:
            raise PriceBookError("classes is empty: expert work needs the price of at least one device class")
        for name, device in self.classes.items():
            _name("classes", name)
            _check_line(f"classes.{name}", device.line, minimum=False)
        if set(self.lines) != set(LINES):
            wrong = sorted(set(self.lines) ^ set(LINES))
            raise PriceBookError(f"lines: {wrong[0]!r} is {'missing' if wrong[0] in LINES else 'unknown'}")
        for name, line in self.lines.items():
            _check_line(f"lines.{name}", line, minimum=name in RESOURCE_LINES)
        for name, discount in self.discounts.items():
            _name("discounts", name)
            check_whole(f"discounts.{name}.off_bp", discount.off_bp, 0, BASIS_POINTS)
            for line_name in discount.lines:
                if line_name not in (EXPERT, *LINES):
                    raise PriceBookError(f"discounts.{name}.lines: there is no line {line_name!r}")

    def __repr__(self) -> str:
        return f"<PriceBook version {self.version}, {len(self.classes)} device classes, {self.digest[:12]}>"

    def _table(self) -> tuple[tuple[str, str, str], list[tuple[str, str, str]]]:
        rows = []
        for key in self.keys():
            line, start = self.line(key), 0
            for tier in line.tiers:
                end = "" if tier.up_to is None else f"{tier.up_to:,}"
                span = "" if not start and tier.up_to is None else f"{start:,} to {end}" if end else f"from {start:,}"
                rows.append((key, f"{format_ros(tier.price_wei)} for each {line.unit}", span))
                start = tier.up_to or 0
        return (f"price book {self.version}", "price", "quantity"), rows

    def line(self, key: str) -> Line:
        """The line of a key ("expert:cpu", "tokens_in"), or PriceBookError."""
        resource, _, device = key.partition(":")
        found = self.lines.get(key)
        if resource == EXPERT and device in self.classes:
            found = self.classes[device].line
        if found is None:
            raise PriceBookError(
                f"price book {self.version} has no line {key!r}; its lines are {', '.join(self.keys())}"
            )
        return found

    def keys(self) -> Iterator[str]:
        """The keys of all lines."""
        yield from (expert_key(name) for name in self.classes)
        yield from self.lines

    def off_bp(self, discount: str | None, resource: str) -> int:
        """Basis points that the discount named `discount` takes off `resource`; PriceBookError where it has none."""
        if discount is None:
            return 0
        found = self.discounts.get(discount)
        if found is None:
            known = ", ".join(sorted(self.discounts)) or "none"
            raise PriceBookError(f"price book {self.version} has no discount {discount!r}; it has {known}")
        return found.off_bp if not found.lines or resource in found.lines else 0

    def check_ask(self, ask_bp: int) -> int:
        """`ask_bp` if a worker may ask it, else PriceBookError with the bounds."""
        return check_whole("a worker's price in basis points of the book's", ask_bp, self.ask_min_bp, self.ask_max_bp)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex: what is pinned at a hold and published on the chain."""
        return _digest(self)

    def __hash__(self) -> int:
        return hash((self.version, self.effective_from_s))

    def to_dict(self) -> dict[str, Any]:
        """The document, of text, ints, lists and mappings alone; amounts and sizes are decimal text."""
        return {
            "format": FORMAT,
            "version": self.version,
            "effective_from_s": self.effective_from_s,
            "classes": {name: _line_to(device.line) for name, device in self.classes.items()},
            "lines": {name: _line_to(line) for name, line in self.lines.items()},
            "discounts": {
                name: {"off_bp": discount.off_bp, "lines": list(discount.lines)}
                for name, discount in self.discounts.items()
            },
            "minimum_wei": str(self.minimum_wei),
            "ask_min_bp": self.ask_min_bp,
            "ask_max_bp": self.ask_max_bp,
            "platform_bp": self.platform_bp,
        }

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, raw: Any) -> PriceBook:
        """The book that `to_dict` wrote. Raises PriceBookError, naming the place, for anything else."""
        try:
            return _book_from(raw)
        except InvalidRequest as error:
            raise PriceBookError(str(error)) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> PriceBook:
        """The book that `to_json` wrote. Raises PriceBookError, naming the place, for anything else."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PriceBookError(f"a price book is a JSON document: {error}") from error
        return cls.from_dict(raw)


@functools.lru_cache(maxsize=64)
def _digest(book: PriceBook) -> str:
    return digest(book.to_dict())


def in_force(books: Sequence[PriceBook], at_s: int) -> PriceBook:
    """The book that holds at `at_s`: of those in effect the one that took effect last, of these the highest version.

    Raises PriceBookError where none is in effect yet.
    """
    started = [book for book in books if book.effective_from_s <= at_s]
    if not started:
        raise PriceBookError(f"no price book of {len(books)} is in force at {at_s} s since 1970; publish one")
    return max(started, key=lambda book: (book.effective_from_s, book.version))


def _check_line(place: str, line: Line, *, minimum: bool) -> None:
    _name(f"{place}.unit", line.unit)
    check_whole(f"{place}.size", line.size, 1, 2**128)
    _money(f"{place}.minimum_wei", line.minimum_wei)
    if line.minimum_wei and not minimum:
        raise PriceBookError(
            f"{place}.minimum_wei is {line.minimum_wei}: a line of requests has no minimum of its own, because the "
            "number of hosts is not known before; use the book's minimum_wei"
        )
    if not line.tiers:
        raise PriceBookError(f"{place}.tiers is empty: give at least one price")
    start = 0
    for number, tier in enumerate(line.tiers):
        here = f"{place}.tiers[{number}]"
        _money(f"{here}.price_wei", tier.price_wei)
        last = number == len(line.tiers) - 1
        if (tier.up_to is None) is not last:
            raise PriceBookError(f"{here}.up_to is {tier.up_to!r}: the last tier, and no other, has none")
        if tier.up_to is not None:
            start = check_whole(f"{here}.up_to", tier.up_to, start + 1, 2**128)


def check_whole(place: str, value: object, low: int, high: int) -> int:
    """`value` if it is an int from `low` to `high`, else PriceBookError naming the place."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PriceBookError(f"{place} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def _money(place: str, value: object) -> None:
    try:
        # A price times any quantity that can be counted must stay a number that a contract can hold.
        check_wei(value, name=place, maximum=WEI_MAX >> 128)
    except InvalidAmount as error:
        raise PriceBookError(str(error)) from error


def _name(place: str, value: object) -> None:
    if not isinstance(value, str) or not value or not value.isascii() or ":" in value or len(value) > 64:
        raise PriceBookError(f"{place} has the name {value!r}: names are 1 to 64 ASCII characters without a colon")


def _line_to(line: Line) -> dict[str, Any]:
    tiers = [
        {"up_to": None if tier.up_to is None else str(tier.up_to), "price_wei": str(tier.price_wei)}
        for tier in line.tiers
    ]
    return {"unit": line.unit, "size": str(line.size), "tiers": tiers, "minimum_wei": str(line.minimum_wei)}


def _book_from(raw: Any) -> PriceBook:
    found = read_object("the book", raw, {*PriceBook.__dataclass_fields__, "format"})
    if found["format"] != FORMAT:
        raise InvalidRequest(f"format is {found['format']!r}; this version of rios reads {FORMAT!r}")
    classes, lines, discounts = (read_mapping(name, found[name]) for name in ("classes", "lines", "discounts"))
    return PriceBook(
        version=found["version"],
        effective_from_s=found["effective_from_s"],
        classes={name: DeviceClass(_line_from(f"classes.{name}", item)) for name, item in classes.items()},
        lines={name: _line_from(f"lines.{name}", item) for name, item in lines.items()},
        discounts={name: _discount_from(f"discounts.{name}", item) for name, item in discounts.items()},
        minimum_wei=Wei(read_decimal("minimum_wei", found["minimum_wei"])),
        ask_min_bp=found["ask_min_bp"],
        ask_max_bp=found["ask_max_bp"],
        platform_bp=found["platform_bp"],
    )


def _line_from(place: str, raw: Any) -> Line:
    found = read_object(place, raw, Line.__dataclass_fields__)
    tiers = []
    for here, item in read_list(f"{place}.tiers", found["tiers"]):
        tier = read_object(here, item, Tier.__dataclass_fields__)
        up_to = None if tier["up_to"] is None else read_decimal(f"{here}.up_to", tier["up_to"])
        tiers.append(Tier(up_to, Wei(read_decimal(f"{here}.price_wei", tier["price_wei"]))))
    size, minimum = (read_decimal(f"{place}.{name}", found[name]) for name in ("size", "minimum_wei"))
    return Line(found["unit"], size, tuple(tiers), Wei(minimum))


def _discount_from(place: str, raw: Any) -> Discount:
    found = read_object(place, raw, Discount.__dataclass_fields__)
    return Discount(found["off_bp"], tuple(read_text(*item) for item in read_list(f"{place}.lines", found["lines"])))
