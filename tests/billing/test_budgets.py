"""Periods without gap or overlap, room that is never below zero, alerts that come once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.budgets import Period, Span, check_room, low_alerts, room_wei, shares_bp, span, used_alerts
from rios.words.errors import BudgetExceeded, InvalidAmount, InvalidRequest

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
AMOUNTS = st.one_of(st.integers(0, 100), st.integers(0, 10**27))


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", "2028-02-29", "2028-03-01"),
        ("week", "2028-02-28", "2028-03-06"),  # a Monday
        ("month", "2028-02-01", "2028-03-01"),
    ],
)
def test_known_periods(period: str, start: str, end: str) -> None:
    assert span(Period.parse(period), _at("2028-02-29T23:59:59.999999")) == Span(_at(start), _at(end))
    assert span(Period.parse("total"), _at("2028-02-29")) == Span(None, None)


@settings(max_examples=200, deadline=None)
@given(MOMENTS, st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]))
def test_periods_follow_each_other(moment: datetime, period: Period) -> None:
    found = span(period, moment)
    assert found.start is not None
    assert found.end is not None
    assert moment in found
    assert found.start in found
    assert found.end not in found
    assert span(period, found.start) == found
    assert span(period, found.end).start == found.end
    assert span(period, found.start - timedelta(microseconds=1)).end == found.start
    assert found.end.day == 1 or period is not Period.MONTH
    assert found.start.weekday() == 0 or period is not Period.WEEK


def test_periods_are_of_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert span(Period.DAY, datetime(2026, 12, 1, 8, tzinfo=tokyo)).start == _at("2026-11-30")
    assert datetime(2026, 12, 1, 8, tzinfo=tokyo) in span(Period.MONTH, _at("2026-11-01"))
    assert _at("2026-11-01") in Span(None, None)
    with pytest.raises(InvalidRequest, match="no time zone"):
        span(Period.DAY, datetime(2026, 12, 1))  # noqa: DTZ001
    with pytest.raises(InvalidRequest, match="'year' is no period; it is one of day, week, month, total"):
        Period.parse("year")


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
@settings(deadline=None)
def test_a_hard_budget_is_never_exceeded(hold: int, limit: int, spent: int, held: int) -> None:
    room = room_wei(limit, spent_wei=spent, held_wei=held)
    assert room >= 0
    if hold <= room:
        check_room(hold, limit, period=Period.MONTH, spent_wei=spent, held_wei=held)
        assert hold == 0 or hold + spent + held <= limit
    else:
        assert hold + spent + held > limit
        with pytest.raises(BudgetExceeded, match="a month has room for"):
            check_room(hold, limit, period=Period.MONTH, spent_wei=spent, held_wei=held)


def test_alerts_of_use() -> None:
    assert used_alerts(0, 49, 100) == ()
    assert used_alerts(49, 50, 100) == (5_000,)
    assert used_alerts(50, 51, 100) == ()
    assert used_alerts(0, 200, 100) == (5_000, 7_500, 9_000)
    assert used_alerts(0, 1, 3, alerts_bp=(3_333, 3_334)) == (3_333,)
    with pytest.raises(InvalidAmount, match="the budget 0 must be at least 1"):
        used_alerts(0, 1, 0)


def test_alerts_of_a_low_balance() -> None:
    assert low_alerts(100, 20, 100) == ()
    assert low_alerts(20, 19, 100) == (2_000,)
    assert low_alerts(19, 11, 100) == ()
    assert low_alerts(100, 0, 100) == (2_000, 1_000, 500)
    assert low_alerts(0, 0, 0) == ()


@settings(max_examples=200, deadline=None)
@given(st.lists(AMOUNTS, min_size=1, max_size=20), AMOUNTS.filter(bool), st.sets(st.integers(1, 10_000), max_size=5))
def test_each_alert_comes_once_however_spending_goes(amounts: list[int], limit: int, alerts: set[int]) -> None:
    seen: list[int] = []
    most = 0
    for spent in amounts:  # up and down: refunds lower what was spent
        after = max(most, spent)
        seen += used_alerts(most, after, limit, alerts_bp=alerts)
        most = after
    assert sorted(seen) == sorted(bp for bp in alerts if max(amounts) * 10_000 >= bp * limit)
    low: list[int] = []
    least = limit
    for balance in amounts:
        after = min(least, balance)
        low += low_alerts(least, after, limit, alerts_bp=alerts)
        least = after
    assert sorted(low) == sorted(bp for bp in alerts if min(*amounts, limit) * 10_000 < bp * limit)


def test_shares() -> None:
    assert shares_bp((0.5, 0.75, 0.9)) == (5_000, 7_500, 9_000)
    assert shares_bp(("90%", "0.5", 1, "12.34 %", 0.5)) == (1_234, 5_000, 9_000, 10_000)
    assert shares_bp(()) == ()


@pytest.mark.parametrize("share", [0, 1.01, -0.5, True, float("nan"), float("inf"), "", "half", "1/0", 0.12345, 1e-9])
def test_what_is_no_share_is_refused(share: float | str) -> None:
    with pytest.raises(InvalidRequest, match="the share"):
        shares_bp((share,))
