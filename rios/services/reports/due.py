"""For which periods a schedule is due: each once, also where the clocks of its zone change.

Periods are of UTC and cron expressions of a zone. So at 1:30 in Berlin `yesterday` is the day before the day before in
summer, and the day before in winter: when clocks go back a day is between two moments, and when they go forward two
moments have the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from itertools import takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo

from rios.services.moments import moment_of
from rios.services.reports.cron import dues
from rios.services.reports.periods import DAY_US, PARTS, Span, due_span
from rios.services.reports.values import Schedule

CAUGHT_UP_MAX = 400
"""Of one schedule that was asleep, so many are made; a yearly sleep of a daily report."""


class Due(NamedTuple):
    """A moment at which a schedule is due, and what it is due for."""

    at: int
    span: Span


def owed(schedule: Schedule, now: int, *, before: int | None) -> list[Due]:
    """What a schedule is due for until `now`, the first first. before: the last moment that was seen to.

    Raises InvalidRequest.
    """
    later = dues(schedule.cron, schedule.zone, after_us=schedule.next_at)
    # What was seen to is not seen to again, wherever a clock that was set back makes the schedule begin.
    missed = [at for at in (schedule.next_at, *takewhile(lambda at: at <= now, later)) if before is None or at > before]
    moments = missed[-CAUGHT_UP_MAX:] if schedule.catch_up else missed[-1:]
    if before is not None and moments and next(dues(schedule.cron, schedule.zone, after_us=before)) != moments[0]:
        before = None  # it rested in between, which is not made up for
    return list(_each_once(schedule, moments, before))


def _each_once(schedule: Schedule, moments: list[int], before: int | None) -> Iterator[Due]:
    for at in moments:
        span = due_span(schedule.period, at_us=at)
        drift = 0 if before is None or schedule.period in PARTS else _drift(schedule.zone, before, at)
        if before is None or drift == 0:
            yield Due(at, span)
        elif drift > 0:
            known = {due_span(schedule.period, at_us=before), span}
            for moment in range(at - drift * DAY_US, at, DAY_US):
                between = due_span(schedule.period, at_us=moment)
                if moment > before and between not in known:
                    yield Due(moment, between)
            yield Due(at, span)
        elif span != due_span(schedule.period, at_us=before) or _by_clock(schedule, before) == _by_clock(schedule, at):
            yield Due(at, span)
        before = at


def _drift(zone: str, before: int, at: int) -> int:
    """By how many midnights more UTC went on between two moments than the zone, whose clocks changed; 0 without."""
    first, second = (moment_of(one).astimezone(ZoneInfo(zone)) for one in (before, at))
    if first.utcoffset() == second.utcoffset():
        return 0
    return at // DAY_US - before // DAY_US - (second.date() - first.date()).days


def _by_clock(schedule: Schedule, at: int) -> Span:
    """What its period would be if the zone's days counted."""
    shown = moment_of(at).astimezone(ZoneInfo(schedule.zone)).replace(tzinfo=UTC)
    return due_span(schedule.period, at_us=int(shown.timestamp()) * 10**6)
