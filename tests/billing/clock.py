"""A clock for tests."""

from __future__ import annotations

from datetime import UTC, datetime

START_US = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()) * 10**6
SECOND_US = 10**6
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US


class Clock:
    """Microseconds of UTC that stand still until `now_us` is set."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us
