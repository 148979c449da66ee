"""When a schedule is due: across changes of clocks and leap days."""

from __future__ import annotations

from itertools import islice

import pytest

from rios.services.moments import moment_of
from rios.services.reports.cron import check_cron, dues
from rios.words.errors import InvalidRequest
from tests.reports.ledgers import moment


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    return [f"{moment_of(at):%m-%d %H:%M}" for at in islice(dues(cron, zone, after_us=moment(after)), count)]


def test_six_in_berlin_is_another_hour_of_utc_in_summer() -> None:
    assert times("0 6 * * *", "Europe/Berlin", "2026-03-27T12:00", 4) == [
        "03-28 05:00", "03-29 04:00", "03-30 04:00", "03-31 04:00",
    ]  # fmt: skip
    assert times("0 6 * * *", "Europe/Berlin", "2026-10-23T12:00", 4) == [
        "10-24 04:00", "10-25 05:00", "10-26 05:00", "10-27 05:00",
    ]  # fmt: skip


def test_an_hour_that_is_missing_is_not_missed() -> None:
    # On 29 March 2026 there is no 2:30 in Berlin: it is done right after the change, and the next day as ever.
    assert times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_an_hour_that_is_there_twice_counts_once() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    found = times("0 * * * *", "Europe/Berlin", "2026-10-24T22:30", 4)
    assert len(set(found)) == len(found)


def test_a_leap_day_is_a_day() -> None:
    assert times("0 6 29 2 *", "UTC", "2026-01-01", 2) == ["02-29 06:00", "02-29 06:00"]
    assert times("0 6 * * *", "UTC", "2028-02-28T07:00", 2) == ["02-29 06:00", "03-01 06:00"]


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("", "UTC"), ("61 * * * *", "UTC"), ("0 6 30 2 *", "UTC"), ("0 6 * * *", "Mars/X"), ("0 6 * * *", "../etc")],
)
def test_what_is_never_due_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(InvalidRequest):
        check_cron(cron, zone)
