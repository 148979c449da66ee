"""What a month will cost, from what its days so far and the four weeks before cost. Whole numbers all the way."""

from __future__ import annotations

from collections.abc import Mapping

from rios.services.moments import moment_of, month
from rios.services.reports import documents as doc
from rios.services.reports.periods import DAY_US, Span

WINDOW = 28
"""Days that are looked back: four of each weekday, so that quiet weekends are in it in their share."""


def forecast(daily: Mapping[int, int], span: Span, month_start_us: int) -> doc.Forecast:
    """The month in which `span` ends. daily: day number to net wei.

    Each day that is left is taken for the mean of the last days that are known, at most four weeks from the first day
    of any use; low and high take their quartiles instead.
    """
    name = f"{moment_of(month_start_us):%Y-%m}"
    _, month_end_us = month(name)
    last = (span.until_us - 1) // DAY_US
    first_of_month, after_month = month_start_us // DAY_US, month_end_us // DAY_US
    spent = sum(amount for day, amount in daily.items() if first_of_month <= day <= last)
    first = min(daily, default=last + 1)
    known = sorted(daily.get(day, 0) for day in range(max(first, last - WINDOW + 1), last + 1))
    left = after_month - 1 - last
    mean = sum(known) // len(known) if known else 0
    low, high = (known[(len(known) - 1) * quarter // 4] if known else 0 for quarter in (1, 3))
    return doc.Forecast(
        month=name, spent_wei=str(spent), days_left=left, low_wei=str(spent + left * min(low, mean)),
        expected_wei=str(spent + left * mean), high_wei=str(spent + left * max(high, mean)), days_known=len(known),
    )  # fmt: skip
