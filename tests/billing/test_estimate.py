"""The highest price is a bound: nothing that an engine can do under the terms of a hold costs more."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.books import DeviceClass, Line, Tier
from rios.billing.estimate import STEP_TOKENS, STEP_TOKENS_MAX, estimate, hold_step
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.rating import rate_request, total_wei
from rios.billing.usage import Request, Work
from rios.words.errors import InvalidRequest
from rios.words.money import WEI_PER_ROS, Wei
from tests.billing import make
from tests.billing.make import DEMO, HOSTS

TRIAL_WEI = 10 * WEI_PER_ROS


def test_the_trial_credit_is_enough_for_a_thousand_demo_generations() -> None:
    highest = estimate(DEMO, Terms.of(DEFAULT_BOOK), prompt_tokens=64, max_new_tokens=64).highest_wei
    assert 1000 * highest < TRIAL_WEI
    long = estimate(DEMO, Terms.of(DEFAULT_BOOK), prompt_tokens=500, max_new_tokens=200)
    assert 0 < long.lowest_wei < long.expected_wei < long.highest_wei < WEI_PER_ROS // 100
    assert [line.line for line in long.lines] == ["expert:cpu,cuda", "tokens_in", "tokens_out", "bytes"]


def test_a_large_model_is_priced_as_the_market_does() -> None:
    """A million new tokens of a model with 1 billion active parameters (OLMoE) cost a few ROS, not thousands."""
    olmoe = Work.of("olmoe", 2048, [(8, 3 * 2048 * 1024)] * 16)
    price = estimate(olmoe, Terms.of(DEFAULT_BOOK), prompt_tokens=1, max_new_tokens=10**6).expected_wei
    assert WEI_PER_ROS // 10 < price < 10 * WEI_PER_ROS


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Terms, Work, Request, list[object], int]:
    work = draw(make.works())
    asked = draw(st.integers(1, 5))
    got = draw(st.integers(0, asked))
    tokens_in = draw(st.integers(1, 9))
    request = Request(
        request_id="r", model="demo", trunk=draw(st.sampled_from("abc")), tokens_in=tokens_in, tokens_out=got
    )
    positions = draw(st.integers(0, tokens_in + max(got, 1) - 1))
    return draw(make.terms()), work, request, draw(make.events(request, work, positions)), asked


@settings(max_examples=100, deadline=None)
@given(_cases(), st.booleans())
def test_no_routing_costs_more_than_the_highest_price(
    case: tuple[Terms, Work, Request, list[object], int], ended: bool
) -> None:
    terms, work, request, events, asked = case
    found = estimate(work, terms, prompt_tokens=request.tokens_in, max_new_tokens=asked)
    charges = rate_request(request, events, work=work, hosts=HOSTS, terms=terms, ended=ended)  # type: ignore[arg-type]
    assert total_wei(charges) <= found.highest_wei
    assert found.lowest_wei <= found.expected_wei <= found.highest_wei


@settings(max_examples=100, deadline=None)
@given(_cases(), st.data())
def test_no_division_into_steps_costs_more_than_their_holds(
    case: tuple[Terms, Work, Request, list[object], int], data: st.DataObject
) -> None:
    terms, work, request, events, asked = case
    covered, holds = 0, []
    while covered < max(request.tokens_out, 1):
        until = data.draw(st.integers(covered + 1, asked))
        step = hold_step(work, terms, prompt_tokens=request.tokens_in, max_new_tokens=until, covered=covered)
        assert step is not None
        assert step.tokens == until
        holds.append(step)
        covered = until
    request = dataclasses.replace(request, hold_tokens=tuple(step.tokens for step in holds))
    charges = rate_request(request, events, work=work, hosts=HOSTS, terms=terms)  # type: ignore[arg-type]
    assert total_wei(charges) <= sum(step.hold_wei for step in holds)
    for number, step in enumerate(holds):
        mine = [c for c in charges if c.record.hold_step == number and c.line != "minimum"]
        assert total_wei(mine) <= step.hold_wei


def test_the_bound_is_reached() -> None:
    """All rows on the dearest class at the highest ask, and bytes padded: nothing is held for no reason."""
    terms = Terms.of(DEFAULT_BOOK, [HOSTS["b"]])
    request = Request(request_id="r", model="demo", trunk="b", tokens_in=5, tokens_out=3)
    events = [
        make.event("r", step, layer, "b", 2 * read, wire_bytes=2**40)
        for step, read in ((5, 5), (6, 1), (7, 1))
        for layer in range(4)
    ]
    found = estimate(DEMO, terms, prompt_tokens=5, max_new_tokens=3, hosts=[HOSTS["b"]])
    assert total_wei(rate_request(request, events, work=DEMO, hosts=HOSTS, terms=terms)) == found.highest_wei


def test_the_expected_price_is_that_of_the_hosts() -> None:
    hosts = [HOSTS["a"], HOSTS["d"]]  # asks of 100 % and 50 % at the same price per FLOP
    terms = Terms.of(DEFAULT_BOOK, hosts)
    found = {line.line: line for line in estimate(DEMO, terms, prompt_tokens=5, max_new_tokens=3, hosts=hosts).lines}
    flops = 7 * DEMO.flops_per_position
    assert found["expert:cpu,cuda"].expected_wei == flops * 1000 * 3 // 4
    assert found["expert:cpu,cuda"].highest_wei == flops * 1000
    shorter = estimate(DEMO, terms, prompt_tokens=5, max_new_tokens=3, hosts=hosts, expected_new_tokens=1)
    assert shorter.expected_wei < sum(line.expected_wei for line in found.values())


def test_the_minimum_is_a_line() -> None:
    terms = Terms(make.book(minimum_wei=Wei(10**18)))
    found = estimate(DEMO, terms, prompt_tokens=5, max_new_tokens=3)
    assert found.lines[-1].line == "minimum"
    assert found.lowest_wei == found.expected_wei == found.highest_wei == 10**18
    first = hold_step(DEMO, terms, prompt_tokens=5, max_new_tokens=3)
    later = hold_step(DEMO, terms, prompt_tokens=5, max_new_tokens=3, covered=2)
    assert first is not None
    assert later is not None
    assert first.hold_wei == 10**18 > later.hold_wei


def test_nothing_new_costs_nothing() -> None:
    assert estimate(DEMO, Terms(DEFAULT_BOOK), prompt_tokens=5, max_new_tokens=0).highest_wei == 0
    assert hold_step(DEMO, Terms(DEFAULT_BOOK), prompt_tokens=5, max_new_tokens=0) is None
    assert hold_step(DEMO, Terms(DEFAULT_BOOK), prompt_tokens=5, max_new_tokens=9, covered=9) is None


def test_steps_grow_with_what_came_before() -> None:
    covered, sizes = 0, []
    while step := hold_step(DEMO, Terms(DEFAULT_BOOK), prompt_tokens=5, max_new_tokens=20_000, covered=covered):
        sizes.append(step.tokens - covered)
        covered = step.tokens
    assert sizes[:5] == [STEP_TOKENS, STEP_TOKENS, 512, 1024, 2048]
    assert max(sizes) == STEP_TOKENS_MAX
    assert covered == 20_000


@settings(max_examples=60, deadline=None)
@given(make.terms(), st.integers(0, 300), st.integers(0, 2**70))
def test_a_step_is_as_long_as_the_balance_lasts(terms: Terms, covered: int, available: int) -> None:
    ask = {"prompt_tokens": 7, "max_new_tokens": 600, "covered": covered}
    whole = hold_step(DEMO, terms, **ask)
    found = hold_step(DEMO, terms, available_wei=available, **ask)
    assert whole is not None
    if found is None:
        next_one = hold_step(DEMO, terms, **{**ask, "max_new_tokens": covered + 1})
        assert next_one is not None
        assert next_one.hold_wei > available
        return
    assert found.hold_wei <= available
    if found != whole:
        longer = hold_step(DEMO, terms, **{**ask, "max_new_tokens": found.tokens + 1})
        assert longer is not None
        assert longer.hold_wei > available


@pytest.mark.parametrize(
    ("prompt", "new", "says"),
    [
        (0, 1, "prompt_tokens is 0"),
        (1, -1, "max_new_tokens is -1"),
        (True, 1, "prompt"),
        (1, 1.5, "new"),
        (2**40, 1, "at"),
    ],
)
def test_counts_out_of_range_are_refused(prompt: int, new: int, says: str) -> None:
    for ask in (estimate, hold_step):
        with pytest.raises(InvalidRequest, match=says):
            ask(DEMO, Terms(DEFAULT_BOOK), prompt_tokens=prompt, max_new_tokens=new)  # type: ignore[operator]


def test_tiers_bound_by_the_dearest_that_can_be_reached() -> None:
    falling = Line("expert-second", 10**9, (Tier(1, Wei(10**12)), Tier(None, Wei(10**10))))
    rising = Line("expert-second", 10**9, (Tier(1, Wei(10**10)), Tier(None, Wei(10**12))))
    for line, before, per_flop in ((falling, 0, 1000), (falling, 10**9, 10), (rising, 0, 10), (rising, 10**9, 1000)):
        book = make.book(classes={"cpu": DeviceClass(line)}, ask_max_bp=10_000)
        found = estimate(DEMO, Terms.of(book, before={"expert:cpu": before}), prompt_tokens=1, max_new_tokens=1)
        assert found.lines[0].highest_wei == DEMO.flops_per_position * per_flop


def test_shown() -> None:
    found = estimate(DEMO, Terms.of(make.book(minimum_wei=Wei(10**17))), prompt_tokens=5, max_new_tokens=3)
    assert repr(found) == "<Estimate 0.1 ROS to 0.1 ROS, expected 0.1 ROS>"
    assert found._repr_html_().count("<tr>") == 7
    assert "0.1 ROS" in found._repr_html_()


def test_an_estimate_says_what_a_discount_takes_off() -> None:
    full, less = (
        estimate(DEMO, Terms.of(DEFAULT_BOOK, discount=name), prompt_tokens=20, max_new_tokens=9)
        for name in (None, "research")
    )
    assert (full.discount, full.discount_wei) == (None, 0)
    assert less.discount == "research"
    assert less.expected_wei + less.discount_wei == full.expected_wei
    assert abs(less.discount_wei * 5 - full.expected_wei) < 50, "a fifth, each line rounded down"
    assert less.highest_wei < full.highest_wei
    assert "less by discount research" in repr(less)
    assert "discount research, in these prices" in less._repr_html_()
    assert "discount" not in full._repr_html_()
