"""Moments as people write them: "2026-11-01", "2026-11", a datetime, to microseconds of UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from rios.words.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_moment(value: str | date | datetime, *, name: str) -> int:
    """Microseconds since 1970 of a date (its first moment in UTC) or a time; one without a zone is of UTC.

    Raises InvalidRequest, which calls the value `name`.
    """
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidRequest(f'{name} is {value!r}; write "2026-11-01" or "2026-11-01T12:00:00+00:00"') from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def month(period: str) -> tuple[int, int]:
    """First moment of a month written "2026-11", and of the next. Raises InvalidRequest."""
    try:
        first = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f'{period!r} is no month; write "2026-11"') from error
    after = (first + timedelta(days=31)).replace(day=1)
    return parse_moment(first, name="the month"), parse_moment(after, name="the month")


def moment_of(at_us: int) -> datetime:
    """The datetime in UTC of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=at_us)
