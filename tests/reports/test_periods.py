"""Periods: half open, in UTC."""

from __future__ import annotations

import pytest

from rios.services.reports.periods import DAY_US, check_words, due_span, parse_span
from rios.words.errors import InvalidRequest
from tests.reports.ledgers import moment

NOW = moment("2026-11-28T06:30") + 59_999_999


@pytest.mark.parametrize(
    ("text", "since", "until", "label"),
    [
        ("yesterday", "2026-11-27", "2026-11-28", "2026-11-27"),
        ("today", "2026-11-28", "2026-11-28T06:30", "2026-11-28_2026-11-28T0630"),
        ("last-week", "2026-11-16", "2026-11-23", "2026-11-16_2026-11-23"),
        ("last-month", "2026-10-01", "2026-11-01", "2026-10"),
        ("this-month", "2026-11-01", "2026-11-28T06:30", "2026-11-01_2026-11-28T0630"),
        ("2024-02", "2024-02-01", "2024-03-01", "2024-02"),
        ("2024-02-29", "2024-02-29", "2024-03-01", "2024-02-29"),
        ("2026-11-01/2026-11-15", "2026-11-01", "2026-11-15", "2026-11-01_2026-11-15"),
    ],
)
def test_words_and_dates(text: str, since: str, until: str, label: str) -> None:
    found = parse_span(text, at_us=NOW)
    assert (found.since_us, found.until_us, found.label) == (moment(since), moment(until), label)


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2026-13", "2026-02-30", "2027-01", "2026-11-28/2026-11-27", "2020-01-01/2026-01-01", "../x"],
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_span(text, at_us=NOW)


def test_the_period_before_ends_where_this_one_begins() -> None:
    for text in ("yesterday", "today", "last-week", "last-month", "2024-03", "2026-11-01/2026-11-15"):
        span = parse_span(text, at_us=NOW)
        before = span.before()
        assert before.until_us == span.since_us, text
        if span.label != "2024-03":  # a month has not the length of the month before it
            assert text.endswith("month") or before.until_us - before.since_us == span.until_us - span.since_us
    assert parse_span("2024-03", at_us=NOW).before().label == "2024-02"


def test_a_span_knows_its_days() -> None:
    assert len(parse_span("2024-02", at_us=NOW).days) == 29
    assert parse_span("yesterday", at_us=NOW).days == [moment("2026-11-27") // DAY_US]


def test_a_schedule_takes_words_alone() -> None:
    assert check_words("yesterday") == "yesterday"
    with pytest.raises(InvalidRequest, match="the same each time"):
        check_words("2026-11")


def test_at_midnight_a_part_is_what_has_just_ended() -> None:
    first, later = moment("2026-11-01"), moment("2026-11-01T00:01")
    assert due_span("today", at_us=first) == parse_span("2026-10-31", at_us=first)
    assert due_span("this-month", at_us=first) == parse_span("2026-10", at_us=first)
    for word in ("today", "this-month", "yesterday"):
        assert due_span(word, at_us=later) == parse_span(word, at_us=later)
