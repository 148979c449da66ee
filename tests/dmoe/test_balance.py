"""Dividing a step over hosts, and the cost model that it goes by."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.balance import HostCost, Rates, divide
from rios.words.errors import InvalidRequest

EVEN: Rates = (3e-4, 1e-4, 2e-5)


def last_end(chosen: tuple[int, ...] | list[int], rows: list[int], rates: list[Rates], busy_s: list[float]) -> float:
    ends: dict[int, float] = {}
    for group, host in enumerate(chosen):
        per_call, per_group, per_row = rates[host]
        ends[host] = ends.get(host, busy_s[host] + per_call) + per_group + per_row * rows[group]
    return max(ends.values())


@st.composite
def steps(draw: st.DrawFn, groups: int) -> tuple[list[int], list[list[int]], list[Rates], list[float]]:
    hosts = draw(st.integers(2, 3))
    count = draw(st.integers(1, groups))
    rows = [draw(st.sampled_from([1, 1, 2, 3, 8, 30])) for _ in range(count)]
    anywhere = st.permutations(range(hosts)).flatmap(lambda order: st.integers(1, hosts).map(lambda n: list(order[:n])))
    candidates = [draw(anywhere) for _ in range(count)]
    rate = st.tuples(
        st.sampled_from([0.0, 1e-4, 5e-4]), st.sampled_from([1e-5, 1e-4, 3e-4]), st.sampled_from([1e-6, 2e-5, 1e-4])
    )
    rates = [draw(rate) for _ in range(hosts)]
    busy_s = [draw(st.sampled_from([0.0, 2e-4, -2e-4, 1e-3])) for _ in range(hosts)]
    return rows, candidates, rates, busy_s


@given(steps(groups=5))
@settings(max_examples=1000, deadline=None)
def test_within_a_third_of_the_best(step: tuple[list[int], list[list[int]], list[Rates], list[float]]) -> None:
    rows, candidates, rates, busy_s = step
    chosen = divide(rows, candidates, rates, busy_s)
    assert all(host in hosts for host, hosts in zip(chosen, candidates, strict=True))
    assert divide(rows, candidates, rates, busy_s) == chosen
    start = min(busy_s)
    took = last_end(chosen, rows, rates, busy_s) - start
    least = min(last_end(other, rows, rates, busy_s) for other in itertools.product(*candidates)) - start
    assert took <= 4 / 3 * least + 1e-12


@pytest.mark.parametrize("groups", [2, 3, 6, 8, 10])
def test_on_like_hosts_close_to_the_best(groups: int) -> None:
    rng = random.Random(groups)
    for _ in range(20):
        rows = [rng.choice([1, 1, 2, 4, 9]) for _ in range(groups)]
        rates = [EVEN, (4e-4, 1.2e-4, 2.2e-5)]
        busy_s = [0.0, rng.choice([0.0, 2e-4])]
        chosen = divide(rows, [[0, 1]] * groups, rates, busy_s)
        least = min(last_end(c, rows, rates, busy_s) for c in itertools.product((0, 1), repeat=groups))
        assert last_end(chosen, rows, rates, busy_s) <= 1.12 * least


@pytest.mark.parametrize("groups", [16, 64])
def test_many_groups_end_at_the_same_time(groups: int) -> None:
    rng = random.Random(groups)
    rows = [rng.randint(1, 5) for _ in range(groups)]
    rates = [EVEN, (3e-4, 3e-4, 6e-5)]
    chosen = divide(rows, [[0, 1]] * groups, rates, [0.0, 0.0])
    ends = [
        sum(rates[h][1] + rates[h][2] * count for count, host in zip(rows, chosen, strict=True) if host == h)
        for h in (0, 1)
    ]
    assert max(ends) <= 1.15 * min(ends)
    assert 2 <= chosen.count(0) / chosen.count(1) <= 4


def test_ties_go_to_the_host_listed_first() -> None:
    assert divide([1], [[0, 1]], [EVEN, EVEN], [0.0, 0.0]) == [0]
    assert divide([1], [[1, 0]], [EVEN, EVEN], [0.0, 0.0]) == [1]
    assert divide([1, 1], [[1, 0], [1, 0]], [EVEN, EVEN], [0.0, 0.0]) == [1, 0]
    assert divide([3, 3, 3, 3], [[0, 1]] * 4, [EVEN, EVEN], [0.0, 0.0]).count(0) == 2


def test_a_call_that_costs_more_than_it_saves_is_not_made() -> None:
    local, remote = (1e-6, 1e-4, 1e-6), (1e-3, 1e-4, 1e-6)
    assert divide([1, 1], [[0, 1], [0, 1]], [local, remote], [0.0, 0.0]) == [0, 0]
    assert 1 in divide([1] * 30, [[0, 1]] * 30, [local, remote], [0.0, 0.0])


def test_a_call_that_is_made_anyway_takes_more_groups() -> None:
    remote = (1e-3, 1e-5, 1e-6)
    local = (0.0, 1e-3, 1e-6)
    # The first group is only on host 1, so its fixed cost is paid: the second joins it.
    assert divide([1, 1], [[1], [0, 1]], [local, remote], [2e-3, 0.0]) == [1, 1]


def test_a_busy_host_gets_less_and_a_head_start_more() -> None:
    rows, both = [1] * 8, [[0, 1]] * 8
    even = divide(rows, both, [EVEN, EVEN], [0.0, 0.0])
    busy = divide(rows, both, [EVEN, EVEN], [3e-4, 0.0])
    ahead = divide(rows, both, [EVEN, EVEN], [-3e-4, 0.0])
    assert busy.count(0) < even.count(0) == 4 < ahead.count(0)


def test_what_only_one_host_holds_goes_there_however_busy() -> None:
    assert divide([9, 1], [[1], [0, 1]], [EVEN, EVEN], [0.0, 1.0]) == [1, 0]


def test_avoided_hosts_get_only_what_nobody_else_holds() -> None:
    rows = [4, 3, 2, 1]
    candidates = [[0, 1], [1, 0], [0], [0, 1]]
    assert divide(rows, candidates, [EVEN, EVEN], [0.0, 5.0], avoid={0}) == [1, 1, 0, 1]
    assert divide([1], [[0, 1]], [EVEN, EVEN], [0.0, 0.0], avoid={0, 1}) == [0]
    assert candidates == [[0, 1], [1, 0], [0], [0, 1]]


def test_nothing_to_divide() -> None:
    assert divide([], [], [EVEN], [0.0]) == []


# HostCost


def seconds(groups: int, rows: int, rates: Rates = (5e-4, 1.5e-4, 4e-5)) -> float:
    return rates[0] + rates[1] * groups + rates[2] * rows


def expected_s(cost: HostCost, groups: int, rows: int) -> float:
    """What a call should take now, by the rates that calls are divided by."""
    return seconds(groups, rows, cost.rates)


def used_to(cost: HostCost, calls: int, *, seed: int = 0, slower: float = 1.0, noise: float = 0.1) -> None:
    """Calls as decoding makes them, with a prefill now and then."""
    rng = random.Random(seed)
    for _ in range(calls):
        groups = rng.randint(1, 8)
        rows = groups * rng.randint(10, 40) if rng.random() < 0.1 else groups + rng.randint(0, 8)
        cost.observe(groups, rows, seconds(groups, rows) * slower * rng.uniform(1 - noise, 1 + noise))


@pytest.mark.parametrize("calls", [40, 400])
def test_it_learns_what_calls_cost(calls: int) -> None:
    cost = HostCost()
    used_to(cost, calls)
    for groups, rows in ((1, 1), (2, 4), (8, 12), (6, 200)):
        assert expected_s(cost, groups, rows) == pytest.approx(seconds(groups, rows), rel=0.2)
    assert not cost.slow
    assert cost.factor == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("guess", [(3e-2, 2e-2, 2e-3), (1e-6, 1e-6, 1e-7)])
def test_a_guess_that_is_far_off_is_soon_forgotten(guess: Rates) -> None:
    cost = HostCost(guess)
    used_to(cost, 60)
    assert expected_s(cost, 2, 4) == pytest.approx(seconds(2, 4), rel=0.25)
    assert not cost.slow


def test_calls_of_one_kind_only_are_predicted_and_do_not_spoil_the_rest() -> None:
    cost = HostCost()
    for _ in range(300):
        cost.observe(1, 1, 1e-3)
    assert expected_s(cost, 1, 1) == pytest.approx(1e-3, rel=0.05)
    assert all(rate > 0 for rate in cost.rates)


def test_a_first_prefill_is_not_taken_for_slowness() -> None:
    cost = HostCost()
    for _ in range(50):
        cost.observe(2, 2, 4e-4)
    for rows in (500, 510, 480, 500, 505, 490):
        cost.observe(8, rows, rows * 2e-4)
        assert not cost.slow
    assert expected_s(cost, 8, 500) == pytest.approx(0.1, rel=0.3)


def test_ten_times_slower_is_noticed_within_twenty_calls_and_forgiven_after_good_ones() -> None:
    cost = HostCost()
    used_to(cost, 200)
    usual = expected_s(cost, 2, 4)
    noticed = 0
    while not cost.slow:
        cost.observe(2, 4, 10 * seconds(2, 4))
        noticed += 1
    assert noticed <= 10
    used_to(cost, 100, seed=2, slower=10.0)
    assert cost.slow
    assert expected_s(cost, 2, 4) == pytest.approx(10 * usual, rel=0.3)
    # Such a host gets nothing that another holds.
    other = HostCost()
    used_to(other, 50)
    hosts = [cost, other]
    avoid = [h for h, host in enumerate(hosts) if host.slow]
    chosen = divide([1] * 6, [[0, 1]] * 6, [h.rates for h in hosts], [0.0, 0.0], avoid=avoid)
    assert chosen == [1] * 6
    probes = 0
    while cost.slow:
        cost.observe(1, 1, seconds(1, 1))
        probes += 1
    assert probes <= 10
    used_to(cost, 30, seed=3)
    assert expected_s(cost, 2, 4) == pytest.approx(usual, rel=0.2)


def test_slow_has_hysteresis() -> None:
    cost = HostCost()
    used_to(cost, 200, noise=0.0)
    used_to(cost, 40, slower=3.0, noise=0.0)
    assert not cost.slow
    used_to(cost, 40, slower=8.0, noise=0.0)
    assert cost.slow
    used_to(cost, 40, slower=3.0, noise=0.0)
    assert cost.slow
    used_to(cost, 40, noise=0.0)
    assert not cost.slow


def test_one_outlier_changes_little() -> None:
    cost = HostCost()
    used_to(cost, 200)
    before, hedge = expected_s(cost, 2, 4), cost.hedge_after_s(2, 4, floor_s=0.0)
    cost.observe(2, 4, 3.0)
    assert not cost.slow
    assert expected_s(cost, 2, 4) < 2 * before
    used_to(cost, 20, seed=5)
    assert expected_s(cost, 2, 4) == pytest.approx(before, rel=0.1)
    assert cost.hedge_after_s(2, 4, floor_s=0.0) == pytest.approx(hedge, rel=0.2)


def test_a_host_that_becomes_faster_is_known_as_such() -> None:
    cost = HostCost()
    used_to(cost, 200, slower=10.0)
    used_to(cost, 100, seed=1)
    assert expected_s(cost, 2, 4) == pytest.approx(seconds(2, 4), rel=0.25)
    assert cost.factor == pytest.approx(1.0, rel=0.3)
    for _ in range(20):
        cost.observe(2, 4, 10 * seconds(2, 4))
    assert cost.slow


def test_the_hedge_waits_for_the_usual_95th_percentile() -> None:
    cost = HostCost()
    rng = random.Random(3)
    late = 0
    for call in range(2000):
        groups = rng.randint(1, 6)
        took = seconds(groups, 2 * groups) * rng.lognormvariate(0.0, 0.25)
        if call >= 1000:
            late += took > cost.hedge_after_s(groups, 2 * groups, floor_s=0.0)
        cost.observe(groups, 2 * groups, took)
    assert 0.02 <= late / 1000 <= 0.10


def test_the_hedge_has_a_floor_and_does_not_wait_for_a_host_that_became_slow() -> None:
    cost = HostCost()
    assert cost.hedge_after_s(1, 1) >= 0.002
    assert HostCost((1.0, 1e-6, 1e-6)).hedge_after_s(1, 1) == pytest.approx(3.0, rel=1e-3)
    used_to(cost, 200)
    assert cost.hedge_after_s(1, 1) == 0.002
    assert cost.hedge_after_s(1, 1, floor_s=0.5) == 0.5
    used_to(cost, 100, slower=30.0)
    assert cost.slow
    assert cost.hedge_after_s(2, 4, floor_s=0.0) <= 4.5 * seconds(2, 4)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 2000), st.floats(1e-7, 100.0)), max_size=120))
@settings(max_examples=150, deadline=None)
def test_whatever_is_observed_the_rates_stay_usable(calls: list[tuple[int, int, float]]) -> None:
    cost = HostCost()
    for groups, rows, took in calls:
        cost.observe(groups, rows, took)
        assert all(math.isfinite(rate) and rate > 0 for rate in cost.rates)
        assert expected_s(cost, groups, rows) > 0
        assert cost.hedge_after_s(groups, rows) >= 0.002
    assert cost.observations == len(calls)


@pytest.mark.parametrize("took", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_cannot_be_is_refused(took: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0"):
        HostCost().observe(1, 1, took)


def test_a_guess_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="guess"):
        HostCost((0.0, 1.0, 1.0))


def test_repr_is_one_line() -> None:
    assert repr(HostCost()) == ("<HostCost 300 us a call, 200 a group, 20.0 a row, now 1.0 times that, 0 observations>")
