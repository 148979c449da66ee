"""Forecasts and anomalies, on histories whose answer is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rios.services.reports.anomalies import KNOWN_MIN, anomalies
from rios.services.reports.forecast import forecast
from rios.services.reports.periods import DAY_US, parse_span
from tests.reports.ledgers import moment

LAST = moment("2026-11-20") // DAY_US
SPAN = parse_span("2026-11-20", at_us=moment("2026-11-21"))
MONTH = moment("2026-11-01")


def steady(amount: int, days: int = 28) -> dict[int, int]:
    return {LAST - back: amount for back in range(days)}


def test_a_steady_month_goes_on() -> None:
    found = forecast(steady(10**18), SPAN, MONTH)
    assert (found.month, found.days_left, found.days_known) == ("2026-11", 10, 28)
    assert int(found.spent_wei) == 20 * 10**18
    assert found.low_wei == found.expected_wei == found.high_wei == str(30 * 10**18)


def test_days_before_the_first_use_do_not_count() -> None:
    found = forecast(steady(10, days=4), SPAN, MONTH)
    assert (found.days_known, found.expected_wei) == (4, str(40 + 100))
    nothing = forecast({}, SPAN, MONTH)
    assert (nothing.days_known, nothing.spent_wei, nothing.expected_wei) == (0, "0", "0")


@given(st.dictionaries(st.integers(LAST - 60, LAST), st.integers(-(10**30), 10**30), max_size=70))
def test_low_is_not_above_high(daily: dict[int, int]) -> None:
    found = forecast(daily, SPAN, MONTH)
    assert int(found.low_wei) <= int(found.expected_wei) <= int(found.high_wei)


def found(daily: dict[int, int], whole: dict[int, int] | None = None) -> list[str]:
    return [one.key for one in anomalies({("all", ""): whole or daily, ("user", "ann"): daily}, SPAN)]


def test_ten_times_the_usual_stands_out_and_a_third_more_of_noise_does_not() -> None:
    noisy = {day: amount + (day % 5) * 10**16 for day, amount in steady(10**17).items()}
    assert found(noisy) == []
    assert found({**noisy, LAST: 10**18}) == ["ann", ""] or found({**noisy, LAST: 10**18}) == ["", "ann"]
    assert found({**noisy, LAST: 0}) != []


def test_what_is_little_of_all_does_not() -> None:
    assert found({**steady(100), LAST: 1000}, whole=steady(10**9)) == []


def test_too_little_is_known_at_first() -> None:
    assert found({**steady(100, days=KNOWN_MIN), LAST: 10**6}) == []
    assert "ann" in found({**steady(100, days=KNOWN_MIN + 1), LAST: 10**6})
