"""When a schedule is due: cron expressions in a time zone, as Debian's cron reads them (the library cronsim).

Where clocks go forward, what was to be done in the hour that is missing is done right after it; where they go back,
what has a fixed hour is done once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from rios.services.moments import moment_of
from rios.words.errors import InvalidRequest


def check_cron(cron: str, zone: str) -> None:
    """Raise InvalidRequest for what is no cron expression that is ever due, or no time zone."""
    next(dues(cron, zone, after_us=0))


def dues(cron: str, zone: str, *, after_us: int) -> Iterator[int]:
    """The moments after `after_us` at which it is due, in microseconds of UTC. Raises as `check_cron`."""
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f"{zone!r} is no time zone; write such as Europe/Berlin, or UTC") from error
    try:
        found = CronSim(cron, moment_of(after_us).astimezone(place))
        for moment in found:
            yield int(moment.astimezone(UTC).timestamp()) * 10**6
    except CronSimError as error:
        raise InvalidRequest(
            f"{cron!r} is no cron expression: {error}; write minute, hour, day, month and weekday, such as '0 6 * * *'"
        ) from error
    raise InvalidRequest(f"{cron!r} is never due")
