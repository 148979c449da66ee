"""Parts that add up to the whole."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.split import parts, split
from rios.words.errors import InvalidAmount
from rios.words.money import WEI_MAX

TOTALS = st.one_of(st.integers(0, 100), st.integers(0, WEI_MAX))
WEIGHTS = st.lists(st.one_of(st.integers(0, 5), st.integers(0, WEI_MAX)), min_size=1, max_size=30).filter(any)


@settings(deadline=None)
@given(TOTALS, WEIGHTS)
def test_parts_add_up(total: int, weights: list[int]) -> None:
    found = parts(total, weights)
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert sum(found) == total
    assert all(part - int(share) in (0, 1) for part, share in zip(found, exact, strict=True))
    # Who got a wei more had no smaller fraction than who did not; of equals it is the earlier.
    up = [(-(share % 1), place) for place, share in enumerate(exact) if found[place] > int(share)]
    down = [(-(share % 1), place) for place, share in enumerate(exact) if found[place] == int(share)]
    assert not up or not down or max(up) < min(down)


@settings(deadline=None)
@given(TOTALS, st.integers(0, 10_000))
def test_worker_and_platform_add_up(amount: int, platform_bp: int) -> None:
    found = split(amount, platform_bp)
    assert found.worker_wei + found.platform_wei == amount
    assert abs(found.platform_wei - Fraction(amount * platform_bp, 10_000)) < 1


def test_known_splits() -> None:
    assert parts(100, (1, 1, 1)) == (34, 33, 33)
    assert parts(10, (0, 3, 0)) == (0, 10, 0)
    assert parts(0, (1, 2)) == (0, 0)
    assert parts(1, (1, 1)) == (1, 0)
    assert split(10**18, 1_000).worker_wei == 9 * 10**17
    assert split(5, 1_000) == split(5, 1_000).__class__(5, 0)  # 4.5 and 0.5: the odd wei is the worker's
    assert split(7, 10_000).worker_wei == 0


@pytest.mark.parametrize(
    ("total", "weights", "says"),
    [
        (-1, (1,), "negative"),
        (1.0, (1,), "float"),
        (True, (1,), "bool"),
        (1, (), "nobody"),
        (1, (0, 0), "nobody"),
        (1, (1, -1), "weight 1"),
        (1, (0.5,), "weight 0"),
    ],
)
def test_what_cannot_be_divided_is_refused(total: int, weights: tuple[int, ...], says: str) -> None:
    with pytest.raises(InvalidAmount, match=says):
        parts(total, weights)


@pytest.mark.parametrize("platform_bp", [-1, 10_001])
def test_a_share_beyond_the_whole_is_refused(platform_bp: int) -> None:
    with pytest.raises(InvalidAmount, match="basis points"):
        split(1, platform_bp)
