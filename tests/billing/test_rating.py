"""Rating: exact, rounded once and down, divided without remainder."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.books import DeviceClass, Discount, Line, Tier
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.rating import rate, rate_request, total_wei
from rios.billing.usage import Request, UsageRecord, fold, resource_record
from rios.words.errors import PriceBookError
from rios.words.events import UsageEvent
from rios.words.money import Wei
from tests.billing import make
from tests.billing.make import DEMO, HOSTS, event
from tests.billing.test_usage import EVENTS, REQUEST

TERMS = Terms(DEFAULT_BOOK)


def _records(terms: Terms = TERMS) -> dict[tuple[str, str], UsageRecord]:
    return {(r.worker, r.resource): r for r in fold(REQUEST, EVENTS, work=DEMO, hosts=HOSTS)}


def test_expert_work_costs_its_flops_at_the_class_of_the_book() -> None:
    charge = rate(_records()["c", "expert"], TERMS)
    flops = 28 * 2 * 3 * 192 * 128
    assert (charge.line, charge.unit) == ("expert:cuda", "expert-second")
    assert charge.units == Fraction(flops, 400 * 10**9)
    assert charge.price_wei == 4 * 10**14
    assert charge.amount_wei == flops * 1000
    assert (charge.worker_wei, charge.platform_wei) == (flops * 900, flops * 100)


@settings(max_examples=150, deadline=None)
@given(make.terms(), st.sampled_from(sorted(HOSTS)), st.integers(0, 10**18), st.data())
def test_rounded_down_by_less_than_a_wei(terms: Terms, host: str, quantity: int, data: st.DataObject) -> None:
    resource = data.draw(st.sampled_from(["expert", "tokens_in", "bytes", "memory", "gpu"]))
    record = dataclasses.replace(resource_record("d", HOSTS[host], "cpu", quantity, period=0), resource=resource)
    charge = rate(record, terms)
    line = terms.book.line(charge.line)
    exact = line.price(quantity, before=terms.before.get(charge.line, 0))
    exact *= Fraction(terms.ask(HOSTS[host].ask_bp), 10_000)
    exact *= 1 - Fraction(terms.book.off_bp(terms.discount, resource), 10_000)
    if quantity:
        exact = max(exact, Fraction(line.minimum_wei))
    assert 0 <= exact - charge.amount_wei < 1
    assert charge.worker_wei + charge.platform_wei == charge.amount_wei
    assert charge.units * charge.price_wei == exact


@settings(max_examples=150, deadline=None)
@given(make.terms(), st.sampled_from(sorted(HOSTS)), st.integers(0, 10**18), st.data())
def test_what_a_discount_takes_off_is_said_to_the_wei(
    terms: Terms, host: str, quantity: int, data: st.DataObject
) -> None:
    resource = data.draw(st.sampled_from(["expert", "tokens_in", "bytes", "memory", "gpu"]))
    record = dataclasses.replace(resource_record("d", HOSTS[host], "cpu", quantity, period=0), resource=resource)
    charge, full = rate(record, terms), rate(record, dataclasses.replace(terms, discount=None))
    assert charge.amount_wei + charge.discount_wei == full.amount_wei
    assert charge.discount_wei >= 0
    assert charge.discount == (terms.discount if terms.off_bp(resource) else None)
    assert (full.discount, full.discount_wei) == (None, 0)


@settings(max_examples=100, deadline=None)
@given(make.terms(), st.permutations(EVENTS), st.lists(st.sampled_from(EVENTS), max_size=3))
def test_neither_the_order_of_events_nor_their_repetition_changes_a_price(
    terms: Terms, events: list[UsageEvent], again: list[UsageEvent]
) -> None:
    wanted = rate_request(REQUEST, EVENTS, work=DEMO, hosts=HOSTS, terms=terms)
    assert rate_request(REQUEST, [*events, *again], work=DEMO, hosts=HOSTS, terms=terms) == wanted


@pytest.mark.parametrize(
    ("before", "quantity", "wei"),
    [
        (0, 10, 100), (0, 11, 107), (9, 1, 10), (9, 2, 17), (10, 1, 7), (10, 20, 140), (29, 2, 10), (30, 1, 3),
        (31, 5, 15), (0, 31, 243), (10**30, 2, 6),
    ],
)  # fmt: skip
def test_each_tier_is_for_the_part_inside_it(before: int, quantity: int, wei: int) -> None:
    tiered = Line("token", 1, (Tier(10, Wei(10)), Tier(30, Wei(7)), Tier(None, Wei(3))))
    terms = Terms(make.book(lines={**DEFAULT_BOOK.lines, "tokens_out": tiered}), before={"tokens_out": before})
    record = dataclasses.replace(_records()[REQUEST.trunk, "tokens_out"], quantity=quantity)
    assert rate(record, terms).amount_wei == wei


def test_asks_count_within_bounds() -> None:
    expert = _records()["a", "expert"]
    amounts = {
        ask: rate(dataclasses.replace(expert, ask_bp=ask), Terms(DEFAULT_BOOK, ask_max_bp=12_000)).amount_wei
        for ask in (0, 5_000, 8_000, 12_000, 15_000, 10**9)
    }
    base = rate(expert, TERMS).amount_wei
    assert [Fraction(amount, base) for amount in amounts.values()] == [
        Fraction(5, 10), Fraction(5, 10), Fraction(8, 10), Fraction(12, 10), Fraction(12, 10), Fraction(12, 10)
    ]  # fmt: skip


def test_a_dearer_class_that_joins_later_costs_what_was_foreseen() -> None:
    dear = DeviceClass(Line.flat("expert-second", 10**9, 9 * 10**12))
    book = make.book(classes={**DEFAULT_BOOK.classes, "npu": dear})
    record = dataclasses.replace(_records()["a", "expert"], device_class="npu")
    assert rate(record, Terms(book)).amount_wei == 9 * rate(record, Terms(book, classes=("cpu",))).amount_wei


def test_neither_the_host_nor_its_report_changes_the_price() -> None:
    slow = [dataclasses.replace(e, compute_ns=10**12) for e in EVENTS]
    charges = rate_request(REQUEST, slow, work=DEMO, hosts=HOSTS, terms=TERMS)
    assert total_wei(charges) == total_wei(rate_request(REQUEST, EVENTS, work=DEMO, hosts=HOSTS, terms=TERMS))


def test_a_minimum_is_reached_and_not_exceeded() -> None:
    plain = total_wei(rate_request(REQUEST, EVENTS, work=DEMO, hosts=HOSTS, terms=TERMS))
    for minimum in (plain - 1, plain, plain + 1, 10**18):
        terms = Terms(make.book(minimum_wei=Wei(minimum)), discount=None)
        charges = rate_request(REQUEST, EVENTS, work=DEMO, hosts=HOSTS, terms=terms)
        assert total_wei(charges) == max(plain, minimum)
        assert ("minimum" in {charge.line for charge in charges}) == (minimum > plain)
        going = rate_request(REQUEST, EVENTS, work=DEMO, hosts=HOSTS, terms=terms, ended=False)
        assert total_wei(going) == plain
    last = charges[-1]
    assert (last.record.worker, last.record.quantity, last.price_wei) == (REQUEST.trunk, 10**18 - plain, 1)
    # Who used nothing pays nothing, not even the minimum.
    nothing = Request(request_id="r1", model="demo", trunk="a", tokens_in=0, tokens_out=0)
    assert rate_request(nothing, [], work=DEMO, hosts=HOSTS, terms=terms) == ()


def test_rented_resources_have_a_minimum_of_their_own() -> None:
    hour = Line.flat("core-hour", 3600 * 10**9, 36 * 10**15, minimum_wei=10**14)
    terms = Terms(
        make.book(lines={**DEFAULT_BOOK.lines, "cpu": hour}, discounts={"half": Discount(5_000)}), discount="half"
    )
    amounts = [
        rate(resource_record("d", HOSTS["a"], "cpu", seconds * 10**9, period=0), terms).amount_wei
        for seconds in (0, 1, 20, 3600)
    ]
    assert amounts == [0, 10**14, 10**14, 18 * 10**15]


def test_a_resource_without_a_line_is_refused() -> None:
    record = dataclasses.replace(_records()["a", "expert"], resource="tea")
    with pytest.raises(PriceBookError, match="no line 'tea'"):
        rate(record, TERMS)


@settings(max_examples=80, deadline=None)
@given(make.terms(), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_dividing_work_never_makes_it_dearer(terms: Terms, shares: list[int]) -> None:
    """Flat prices: the same class and ask, one host or six."""
    book = dataclasses.replace(
        terms.book,
        classes={
            name: DeviceClass(dataclasses.replace(d.line, tiers=d.line.tiers[-1:]))
            for name, d in terms.book.classes.items()
        },
    )
    terms = dataclasses.replace(terms, book=book)
    hosts = {name: dataclasses.replace(HOSTS["a"], name=name) for name in HOSTS}
    request = Request(request_id="r", model="demo", trunk="a", tokens_in=0, tokens_out=0)

    def price(events: list[object]) -> int:
        charges = rate_request(request, events, work=DEMO, hosts=hosts, terms=terms, ended=False)  # type: ignore[arg-type]
        return sum(charge.amount_wei for charge in charges if charge.record.resource == "expert")

    divided = [event("r", 1, 0, host, rows) for host, rows in zip(sorted(HOSTS), shares, strict=False)]
    assert price(divided) <= price([event("r", 1, 0, "a", sum(shares))])
    assert price([event("r", 1, 0, "a", sum(shares))]) - price(divided) < len(shares)
