"""Values for the tests of billing: books, hosts, models and events, fixed and drawn at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from rios.billing.books import BASE_UNITS, LINES, DeviceClass, Discount, Line, PriceBook, Tier, expert_key
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.usage import LayerWork, Request, Work
from rios.words.events import UsageEvent
from rios.words.ids import check_address
from rios.words.money import Wei

OWNERS = tuple(check_address(f"0x{number:040x}") for number in range(1, 9))
HOSTS = {
    name: Host(name, owner, device, ask)
    for name, owner, device, ask in zip(
        "abcdef",
        OWNERS,
        ("cpu", "cpu", "cuda", "cuda", "cpu", "quantum"),
        (10_000, 15_000, 10_000, 5_000, 7_000, 99_999),
        strict=False,
    )
}
# The demo model: 4 layers, 8 experts of 3 x 192 x 128 weights, of which each token takes 2.
DEMO = Work.of("demo", 192, [(2, 3 * 192 * 128)] * 4)


def book(**changes: Any) -> PriceBook:
    """The default book with some fields changed."""
    return dataclasses.replace(DEFAULT_BOOK, **changes)


def event(request_id: str, step: int, layer: int, host: str, rows: int, **more: int) -> UsageEvent:
    """A usage event as the engine makes them."""
    measured = {"compute_ns": 1_000 * rows, "wire_bytes": 900 * rows, **more}
    return UsageEvent(request_id, "demo", step, layer, host, rows, **measured)


@st.composite
def lines(draw: st.DrawFn, *, resource: bool = False) -> Line:
    """A line with up to four tiers, rising or falling."""
    ends = sorted(draw(st.sets(st.integers(1, 10**6), max_size=3)))
    prices = st.one_of(st.integers(0, 10**4), st.integers(0, 10**20))
    tiers = tuple(Tier(end, Wei(draw(prices))) for end in [*ends, None])
    minimum = draw(st.integers(0, 10**18)) if resource else 0
    return Line("unit", draw(st.sampled_from([1, 7, 1000, 10**9, 3_600 * 10**9])), tiers, Wei(minimum))


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    """Any book that holds together."""
    classes = draw(st.sets(st.sampled_from(["cpu", "cuda", "npu"]), min_size=1))
    discounted = st.lists(st.sampled_from(["expert", *LINES]), max_size=3, unique=True).map(tuple)
    return PriceBook(
        version=draw(st.integers(0, 9)),
        effective_from_s=draw(st.integers(0, 2**32)),
        classes={name: DeviceClass(draw(lines())) for name in sorted(classes)},
        lines={name: draw(lines(resource=name in ("memory", "cpu", "gpu", "storage"))) for name in LINES},
        discounts={"some": Discount(draw(st.integers(0, 10_000)), draw(discounted))},
        minimum_wei=Wei(draw(st.sampled_from([0, 1, 10**12, 10**18]))),
        ask_min_bp=draw(st.integers(1, 10_000)),
        ask_max_bp=draw(st.integers(10_000, 50_000)),
        platform_bp=draw(st.integers(0, 10_000)),
    )


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Any book, held for some of the hosts, for any host, with or without a discount and earlier use."""
    chosen = draw(books())
    hosts = draw(st.lists(st.sampled_from(sorted(HOSTS)), max_size=3, unique=True))
    keys = draw(st.lists(st.sampled_from(list(chosen.keys())), max_size=3, unique=True))
    before = {key: draw(st.one_of(st.integers(0, 100), st.integers(0, 10**16))) for key in keys}
    discount = draw(st.sampled_from([None, "some"]))
    return Terms.of(chosen, [HOSTS[name] for name in hosts], discount=discount, before=before)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Models of up to three layers, which need not be alike."""
    layer = st.builds(LayerWork, st.integers(1, 4), st.integers(1, 10**7))
    return Work("demo", draw(st.integers(1, 512)), tuple(draw(st.lists(layer, min_size=1, max_size=3))))


@st.composite
def events(draw: st.DrawFn, request: Request, work: Work, positions: int) -> list[UsageEvent]:
    """Events that an engine could make: at most top-k rows of each layer for each position, over any hosts.

    The prompt is read in one step, every later position in one of its own.
    """
    found = []
    steps = [(request.tokens_in, request.tokens_in)] if positions >= request.tokens_in else []
    steps += [(position, 1) for position in range(request.tokens_in + 1, positions + 1)]
    for step, read in steps:
        for index, layer in enumerate(work.layers):
            left = read * layer.top_k
            for host in draw(st.permutations(sorted(HOSTS)))[: draw(st.integers(1, 3))]:
                rows = draw(st.integers(0, left))
                left -= rows
                measured = {"compute_ns": draw(st.integers(0, 2**50)), "wire_bytes": draw(st.integers(0, 2**40))}
                found.append(event(request.request_id, step, index, host, rows, **measured))
    return found


def quantities(resource: str, records: Sequence[Any]) -> Mapping[str, int]:
    """Worker to quantity of `resource`."""
    assert resource in BASE_UNITS
    return {record.worker: record.quantity for record in records if record.resource == resource}


__all__ = ["DEFAULT_BOOK", "DEMO", "HOSTS", "OWNERS", "book", "event", "events", "expert_key", "quantities"]
