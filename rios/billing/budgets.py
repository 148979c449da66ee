"""Budgets: which period a moment lies in, what room is left, and which alerts a change sets off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from rios.billing.split import BASIS_POINTS
from rios.words.errors import BudgetExceeded, InvalidRequest
from rios.words.money import Wei, check_wei, format_ros, parse_ros

BUDGET_ALERTS_BP = (5_000, 7_500, 9_000)
"""Shares of a budget at whose use somebody is told: 50, 75 and 90 %."""
LOW_BALANCE_BP = (2_000, 1_000, 500)
"""Shares of the balance after the last deposit below which somebody is told: 20, 10 and 5 %."""


class Period(StrEnum):
    """How long a budget lasts. Periods follow each other without gap or overlap, in UTC."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"

    @classmethod
    def parse(cls, name: str) -> Period:
        """The period called `name`, or InvalidRequest."""
        try:
            return cls(name)
        except ValueError as error:
            raise InvalidRequest(f"{name!r} is no period; it is one of {', '.join(cls)}") from error


@dataclass(frozen=True, slots=True)
class Span:
    """The moments of one period: from `start`, itself included, to `end`, itself excluded; None has no end."""

    start: datetime | None
    end: datetime | None

    def __contains__(self, moment: datetime) -> bool:
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)


def span(period: Period, moment: datetime) -> Span:
    """The period around `moment` (with a time zone, else InvalidRequest): days and months of UTC, weeks from Monday."""
    if moment.tzinfo is None:
        raise InvalidRequest(f"the moment {moment.isoformat()} has no time zone; use datetime.now(UTC)")
    if period is Period.TOTAL:
        return Span(None, None)
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.DAY:
        return Span(day, day + timedelta(days=1))
    if period is Period.WEEK:
        monday = day - timedelta(days=day.weekday())
        return Span(monday, monday + timedelta(days=7))
    first = day.replace(day=1)
    return Span(first, (first + timedelta(days=31)).replace(day=1))


def room_wei(limit_wei: int, *, spent_wei: int, held_wei: int) -> Wei:
    """What a budget leaves: its limit less what was spent and what is held in its period, and never below 0."""
    return Wei(max(limit_wei - spent_wei - held_wei, 0))


def check_room(hold_wei: int, limit_wei: int, *, period: Period, spent_wei: int, held_wei: int) -> None:
    """Raise BudgetExceeded unless a hard budget has room for `hold_wei` more."""
    room = room_wei(limit_wei, spent_wei=spent_wei, held_wei=held_wei)
    if hold_wei > room:
        whole = "in total" if period is Period.TOTAL else f"a {period}"
        raise BudgetExceeded(
            f"up to {format_ros(hold_wei)} would be needed, and the budget of {format_ros(limit_wei)} {whole} has room "
            f"for {format_ros(room)}: {format_ros(spent_wei)} are spent and {format_ros(held_wei)} held; "
            "ask for less, raise the budget, or wait for the next period"
        )


def asked_for(limit: str | int | None, alerts: Sequence[float | str]) -> tuple[Wei | None, tuple[int, ...]]:
    """What a budget may be in wei, and at which shares of it somebody is told, as somebody writes both.

    Without shares they are the usual ones. Raises InvalidAmount, InvalidRequest.
    """
    return None if limit is None else parse_ros(limit, name="the budget"), shares_bp(alerts) or BUDGET_ALERTS_BP


def shares_bp(shares: Iterable[float | str]) -> tuple[int, ...]:
    """Shares of a whole such as 0.5, "0.75" or "90%" in basis points, ascending, each once.

    Raises InvalidRequest unless each is above 0, at most 1, and a whole number of basis points.
    """
    found = set()
    for share in shares:
        text = str(share).strip()
        try:
            exact = Fraction(text.removesuffix("%")) * (BASIS_POINTS // 100 if text.endswith("%") else BASIS_POINTS)
        except (ValueError, ZeroDivisionError) as error:
            raise InvalidRequest(f"the share {share!r} is no number; give one such as 0.75") from error
        if isinstance(share, bool) or exact.denominator != 1 or not 0 < exact <= BASIS_POINTS:
            raise InvalidRequest(f"the share {share!r} is not from 0.0001 to 1 in steps of 0.0001")
        found.add(exact.numerator)
    return tuple(sorted(found))


def used_alerts(
    before_wei: int, after_wei: int, limit_wei: int, *, alerts_bp: Collection[int] = BUDGET_ALERTS_BP
) -> tuple[int, ...]:
    """The alerts (basis points) that spending from `before_wei` to `after_wei` of a budget reaches, ascending.

    `before_wei` is the most that was spent in the period so far: so each alert comes once, though a refund lowers what
    is spent and it grows again.
    """
    check_wei(limit_wei, name="the budget", minimum=1)
    return tuple(
        bp for bp in sorted(alerts_bp) if before_wei * BASIS_POINTS < bp * limit_wei <= after_wei * BASIS_POINTS
    )


def low_alerts(
    before_wei: int, after_wei: int, full_wei: int, *, alerts_bp: Collection[int] = LOW_BALANCE_BP
) -> tuple[int, ...]:
    """The alerts (basis points) below which a balance falls from `before_wei` to `after_wei`, descending.

    `full_wei` is the balance after the last deposit, and `before_wei` the least since: so each alert comes once between
    two deposits, though released holds let the balance rise and it falls again.
    """
    check_wei(full_wei, name="the balance after the last deposit")
    return tuple(
        bp
        for bp in sorted(alerts_bp, reverse=True)
        if after_wei * BASIS_POINTS < bp * full_wei <= before_wei * BASIS_POINTS
    )
