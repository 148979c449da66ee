"""Periods of reports: half open, in UTC, written as people say them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rios.services.moments import moment_of, month, parse_moment
from rios.words.errors import InvalidRequest

DAY_US = 86_400 * 10**6
WORDS = ("yesterday", "today", "last-week", "last-month", "this-month")
"""Periods that depend on the moment at which they are asked for."""
PARTS = {"today": "yesterday", "this-month": "last-month"}
"""Those that go on, and what each becomes when it has ended."""
_MONTH = re.compile(r"\d{4}-\d{2}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAYS_MAX = 400
_HELP = (
    f'write one of {", ".join(WORDS)}, a day such as "2026-11-27", a month such as "2026-11", or two days such as '
    '"2026-11-01/2026-11-15", of which the second is not in it'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`since_us` <= moment < `until_us`, in microseconds of UTC since 1970; `label` is also a good name of a file."""

    label: str
    since_us: int
    until_us: int

    @property
    def days(self) -> list[int]:
        """The days in it, as whole numbers since 1970."""
        return list(range(self.since_us // DAY_US, -(-self.until_us // DAY_US)))

    def before(self) -> Span:
        """The period before: the month before a month, else as long a time."""
        if _MONTH.fullmatch(self.label):
            first = moment_of(self.since_us) - timedelta(days=1)
            return _month(f"{first:%Y-%m}")
        length = self.until_us - self.since_us
        since = self.since_us - length
        return Span(label=_label(since, self.since_us), since_us=since, until_us=self.since_us)

    def to_dict(self) -> dict[str, str]:
        """Label and both ends, as ISO 8601."""
        ends = {"since": moment_of(self.since_us), "until": moment_of(self.until_us)}
        return {"label": self.label, **{name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in ends.items()}}


def parse_span(text: str, *, at_us: int) -> Span:
    """The period that `text` means at the moment `at_us`. Raises InvalidRequest, also for one that has not begun."""
    found = _parse(text.strip(), at_us)
    if found.since_us >= found.until_us or found.since_us >= at_us:
        raise InvalidRequest(f"the period {text!r} has no past in it; {_HELP}")
    if found.until_us - found.since_us > _DAYS_MAX * DAY_US:
        raise InvalidRequest(f"the period {text!r} is longer than {_DAYS_MAX} days; make a report for each part of it")
    return found


def due_span(text: str, *, at_us: int) -> Span:
    """The period that a schedule means by `text` when it is due at `at_us`. Raises InvalidRequest.

    As `parse_span`, but at midnight the day or the month that has just ended is meant: nothing of the next has passed.
    """
    if text in PARTS:
        found = _parse(text, at_us)
        text = PARTS[text] if found.since_us == found.until_us else text
    return parse_span(text, at_us=at_us)


def check_words(text: str) -> str:
    """`text` if it is a period that goes on with time, as a schedule needs, else InvalidRequest."""
    if text not in WORDS:
        raise InvalidRequest(
            f"a schedule is for {', '.join(WORDS)}, not for {text!r}, which would be the same each time"
        )
    return text


def _parse(text: str, at_us: int) -> Span:
    today = at_us // DAY_US
    if text == "yesterday":
        return _days(today - 1, today)
    if text == "today":
        # To the last full minute: what is asked for twice in a minute is the same.
        return _part(today * DAY_US, at_us)
    if text == "last-week":
        monday = today - (today + 3) % 7  # the first day of 1970 was a Thursday
        return _days(monday - 7, monday)
    now = moment_of(at_us)
    if text == "this-month":
        return _part(month(f"{now:%Y-%m}")[0], at_us)
    if text == "last-month":
        return _month(f"{now.replace(day=1) - timedelta(days=1):%Y-%m}")
    if _MONTH.fullmatch(text):
        return _month(text)
    first, slash, second = text.partition("/")
    if not all(_DAY.fullmatch(one) for one in ((first, second) if slash else (first,))):
        raise InvalidRequest(f"{text!r} is no period; {_HELP}")
    since = parse_moment(first, name="the period")
    until = parse_moment(second, name="the end of the period") if slash else since + DAY_US
    return Span(label=_label(since, until), since_us=since, until_us=until)


def _part(since_us: int, at_us: int) -> Span:
    until = at_us // 60_000_000 * 60_000_000
    return Span(label=f"{_day(since_us)}_{moment_of(until):%Y-%m-%dT%H%M}", since_us=since_us, until_us=until)


def _days(first: int, after: int) -> Span:
    return Span(label=_label(first * DAY_US, after * DAY_US), since_us=first * DAY_US, until_us=after * DAY_US)


def _month(text: str) -> Span:
    since, until = month(text)
    return Span(label=text, since_us=since, until_us=until)


def _label(since_us: int, until_us: int) -> str:
    return _day(since_us) if until_us - since_us == DAY_US else f"{_day(since_us)}_{_day(until_us)}"


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 10**6, UTC).date().isoformat()
