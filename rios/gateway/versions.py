"""How a route is taken out of use: for a stated time it says since when not to use it, until when it works, and what to
use instead, by the headers `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

from fastapi import Response

NOTICE = timedelta(days=180)
"""No route goes sooner than this after it was said."""


def deprecated(*, since: date, sunset: date, instead: str) -> Callable[[Response], None]:
    """A dependency for a route, beside `deprecated=True`, which the OpenAPI document says."""
    assert sunset - since >= NOTICE, f"a route goes {NOTICE.days} days after it was said at the soonest"
    headers = {
        "Deprecation": f"@{int(_midnight(since).timestamp())}",
        "Sunset": format_datetime(_midnight(sunset), usegmt=True),
        "Link": f'<{instead}>; rel="successor-version"',
    }

    def say(response: Response) -> None:
        response.headers.update(headers)

    return say


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
