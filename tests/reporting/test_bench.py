"""The statistics of the performance report, on numbers whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest

from rios.reporting.bench import Machine, in_turn, median, quantile_ratio, rate_while_all_run, ratio, share
from rios.words.errors import InvalidRequest


def test_the_median_of_one_value_is_that_value() -> None:
    found = median([1.5])
    assert (found.median, found.low, found.high, found.count) == (1.5, 1.5, 1.5, 1)


def test_the_interval_encloses_the_median_and_narrows_with_the_count() -> None:
    few = median([1.0, 2.0, 3.0, 4.0, 5.0])
    many = median([1.0, 2.0, 3.0, 4.0, 5.0] * 40)
    assert few.low <= few.median == 3.0 <= few.high
    assert many.high - many.low < few.high - few.low


def test_one_bad_minute_does_not_move_the_median() -> None:
    assert median([1.0] * 19 + [100.0]).median == 1.0
    assert median([1.0] * 19 + [100.0]).high == 1.0


def test_equal_input_gives_equal_intervals() -> None:
    values = [1.0, 1.1, 0.9, 1.3, 1.05]
    assert median(values) == median(values)
    assert str(median([1.0, 1.0])) == "1.00 (1.00 to 1.00)"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    import numpy as np

    draws = np.random.default_rng(1).normal(2.0, 0.3, size=(100, 20))
    covered = sum((found := median(row.tolist())).low <= 2.0 <= found.high for row in draws)
    assert covered >= 85  # 95 of 100 in the long run; fewer than 85 in one of ten thousand such tests


def test_a_ratio_is_taken_pair_by_pair() -> None:
    # Both twice as slow in every second pair: the ratio of the medians of unpaired values would be off.
    assert ratio([2.0, 4.0, 2.0, 4.0], [1.0, 2.0, 1.0, 2.0]).median == 2.0


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_median_needs_finite_values(values: list[float]) -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        median(values)


def test_a_ratio_needs_pairs_above_zero() -> None:
    with pytest.raises(InvalidRequest, match="pairs"):
        ratio([1.0], [1.0, 2.0])
    with pytest.raises(InvalidRequest, match="above 0"):
        ratio([1.0], [0.0])


def test_a_quantile_is_taken_over_all_blocks() -> None:
    calm = [[1.0] * 50, [2.0] * 50]
    assert quantile_ratio([[2.0 * value for value in block] for block in calm], calm, q=0.99).median == 2.0
    # The tail is in one block of ten: that it might not have been drawn shows in the interval.
    found = quantile_ratio([[1.0] * 10] * 9 + [[5.0] * 10], [[1.0] * 10] * 10, q=0.99)
    assert (found.median, found.low, found.high, found.count) == (5.0, 1.0, 5.0, 100)


def test_a_share_is_of_the_sums() -> None:
    assert share([0, 3], [10, 20]).median == 0.1
    assert share([0, 0], [10, 20]).high == 0.0


def test_blocks_must_make_pairs() -> None:
    for numerators, denominators in (([], []), ([[1.0]], [[1.0], [2.0]]), ([[1.0]], [[]])):
        with pytest.raises(InvalidRequest, match="blocks"):
            quantile_ratio(numerators, denominators, q=0.5)


def test_contestants_run_in_turn_and_warm_up_is_thrown_away() -> None:
    calls: list[str] = []

    def contestant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    first, second = in_turn([lambda: contestant("a"), lambda: contestant("b")], pairs=2, warm_up=1)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert (first, second) == ([3.0, 6.0], [4.0, 5.0])


def test_at_least_one_pair() -> None:
    with pytest.raises(InvalidRequest, match="pairs is 0"):
        in_turn([lambda: 1.0], pairs=0)


def test_a_machine_is_described_without_its_name() -> None:
    here = Machine.here()
    assert here.cpu
    assert here.cores >= 1
    assert here.memory_gib >= 1


def test_a_rate_counts_the_moments_at_which_everybody_has_a_request() -> None:
    steady = [[(0.0, 0), (1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1), (5.0, 1), (6.0, 1)]]
    pausing = [[(0.0, 0), (1.0, 1), (2.0, 1)], [(4.0, 0), (5.0, 1), (6.0, 1), (7.0, 1)]]
    # From 1 to 6 without 2 to 4: three seconds, in which each gets three tokens.
    assert rate_while_all_run([steady, pausing]) == pytest.approx((3 + 3) / 3)
    whole = [list(itertools.chain(*requests)) for requests in (steady, pausing)]
    assert rate_while_all_run([[one] for one in whole]) == pytest.approx((5 + 3) / 5)


def test_a_token_that_comes_an_instant_after_another_client_ended_counts() -> None:
    late = [[(0.0, 0), (1.01, 1), (2.01, 1), (3.01, 1), (4.01, 1)]]
    ending = [[(0.0, 0), (1.0, 1), (2.0, 1)], [(2.5, 0), (3.0, 1), (4.0, 1)]]
    # From 1.01 to 4 without 2 to 2.5: a token a second of the first; of the second all but a hundredth of three.
    assert rate_while_all_run([late, ending]) == pytest.approx((2.49 + 2 + 0.99) / 2.49)


def test_a_rate_needs_a_moment_at_which_everybody_has_a_request() -> None:
    early, late = [[(0.0, 0), (1.0, 1), (2.0, 1)]], [[(2.5, 0), (3.0, 1), (4.0, 1)]]
    with pytest.raises(InvalidRequest, match="all 2 clients"):
        rate_while_all_run([early, late])
