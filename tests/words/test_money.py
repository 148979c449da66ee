"""Amounts as people write them: exact both ways, and nothing that is not one passes."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.words.errors import InvalidAmount
from rios.words.money import WEI_MAX, WEI_PER_ROS, check_wei, format_ros, parse_ros

AMOUNTS = st.one_of(
    st.integers(0, WEI_MAX),
    st.integers(0, 1000),
    st.integers(0, 10**9).map(lambda ros: ros * WEI_PER_ROS),
    st.sampled_from([1, WEI_PER_ROS - 1, WEI_PER_ROS, WEI_PER_ROS + 1, 10**9 * WEI_PER_ROS, WEI_MAX]),
)


@pytest.mark.parametrize(
    ("written", "wei"),
    [
        ("25 ROS", 25 * 10**18),
        ("25", 25 * 10**18),
        ("0.5 ROS", 5 * 10**17),
        ("  0.5ros ", 5 * 10**17),
        ("7 wei", 7),
        ("0.000000000000000001", 1),
        ("1.500000000000000000000 ROS", 15 * 10**17),  # zeros beyond the 18th decimal say nothing
        ("1000000000 ROS", 10**27),
        ("0", 0),
        (7, 7),
        (0, 0),
        (WEI_MAX, WEI_MAX),
        (Decimal("0.1"), 10**17),
        (Decimal("1E-18"), 1),
        (Decimal("1E+9"), 10**27),
        (Decimal(0), 0),
    ],
)
def test_written_amounts(written: str | int | Decimal, wei: int) -> None:
    assert parse_ros(written) == wei


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0.5, "type float"),
        (25.0, "type float"),
        (float("nan"), "type float"),
        (True, "type bool"),
        (False, "type bool"),
        (None, "type NoneType"),
        (b"1", "type bytes"),
        (np.int64(5), "type int64"),
        (np.float64(5), "type float64"),
        (-1, "negative"),
        ("-1 ROS", "negative"),
        ("- 1", "negative"),
        (Decimal("-0.1"), "negative"),
        (Decimal("NaN"), "not a number"),
        (Decimal("Infinity"), "not a number"),
        (Decimal("1E-19"), "19 decimals"),
        (Decimal("1E+999999"), "2\\^256"),
        (Decimal("1E-999999"), "2\\^256"),
        ("0.0000000000000000001", "19 decimals"),
        ("0.5 wei", "fraction of a wei"),
        ("1.0 wei", "fraction of a wei"),
        ("", "not an amount"),
        ("ROS", "not an amount"),
        ("1,000 ROS", "not an amount"),
        ("1_000", "not an amount"),
        ("1e3", "not an amount"),
        ("0x10", "not an amount"),
        (".5", "not an amount"),
        ("5.", "not an amount"),
        ("5 EUR", "not an amount"),
        ("nan", "not an amount"),
        ("٣ ROS", "not an amount"),
        ("1" * 5000, "not an amount"),
        (WEI_MAX + 1, "at most"),
        (10**1000, "1,024 bits"),
        (f"{WEI_MAX + 1} wei", "at most"),
        ("115792089237316195423570985008687907853269984665640564039458", "at most"),
    ],
)
def test_what_is_no_amount_is_refused(value: object, says: str) -> None:
    with pytest.raises(InvalidAmount, match=says) as caught:
        parse_ros(value, name="the deposit")  # type: ignore[arg-type]
    assert str(caught.value).startswith("the deposit ")
    assert len(str(caught.value)) < 250


@settings(deadline=None)
@given(AMOUNTS)
def test_round_trip(wei: int) -> None:
    shown = format_ros(wei)
    assert parse_ros(shown) == parse_ros(format_ros(wei, unit=False)) == parse_ros(f"{wei} wei") == wei
    assert parse_ros(Decimal(shown.removesuffix(" ROS"))) == wei
    assert json.loads(json.dumps(shown)) == shown
    assert "." not in shown or not shown.removesuffix(" ROS").endswith("0")


@settings(deadline=None)
@given(AMOUNTS.filter(bool))
def test_negative_amounts_are_shown(wei: int) -> None:
    assert format_ros(-wei) == f"-{format_ros(wei)}"


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        wei = parse_ros(text)
    except InvalidAmount:
        return
    assert parse_ros(format_ros(wei)) == wei


def test_shown_amounts() -> None:
    assert format_ros(24_731 * 10**15) == "24.731 ROS"
    assert format_ros(0) == "0 ROS"
    assert format_ros(1) == "0.000000000000000001 ROS"
    assert format_ros(10**27, unit=False) == "1000000000"
    with pytest.raises(InvalidAmount, match="type float"):
        format_ros(1.0)  # type: ignore[arg-type]


def test_bounds_are_named() -> None:
    assert check_wei(3, name="the hold", minimum=3, maximum=3) == 3
    with pytest.raises(InvalidAmount, match=r"the hold 2 must be at least 3 wei"):
        check_wei(2, name="the hold", minimum=3)
    with pytest.raises(InvalidAmount, match=r"the hold 4 may be at most 3 wei"):
        check_wei(4, name="the hold", maximum=3)
    with pytest.raises(ValueError, match="bool"):
        check_wei(True, name="the hold")
