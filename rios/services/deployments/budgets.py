"""What a deployment may cost in a day (`budget` of its specification): posted, held, and what is left for how many.

Days are of UTC, as those of users' budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from rios.billing.budgets import Period, room_wei
from rios.billing.ledger.holds import LIVE
from rios.billing.ledger.spending import start_of
from rios.deploy.deciding import SECOND
from rios.storage.deployment_models import AppPlaceRow, AppReplicaRow, AppSpendRow
from rios.storage.models import HoldRow
from rios.words.errors import BudgetExceeded
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.values import App

_DAY_US = 86_400 * SECOND


def spend(connection: Connection, app_id: str, amount_wei: int, *, at: int) -> None:
    """Count what was posted for a deployment, in all and in the day of `at`."""
    row, day = AppSpendRow, start_of(Period.DAY, at)
    found = connection.execute(select(row.amount_wei, row.day, row.day_wei).where(row.app_id == app_id)).one()
    today = amount_wei + (found.day_wei if found.day == day else 0)
    values = {"amount_wei": found.amount_wei + amount_wei, "day": day, "day_wei": today}
    connection.execute(update(row).where(row.app_id == app_id).values(**values))


def spent_today_wei(connection: Connection, app_id: str, *, at: int) -> int:
    """What was posted for a deployment in the day of `at`."""
    row = AppSpendRow
    found = connection.execute(select(row.day, row.day_wei).where(row.app_id == app_id)).first()
    return 0 if found is None or found.day != start_of(Period.DAY, at) else int(found.day_wei)


def held_wei(connection: Connection, app_id: str, *, besides: str = "") -> int:
    """What is held for the periods of its replicas that go on and of its volumes, without the hold `besides`."""
    row = AppReplicaRow
    wanted = select(row.id, row.period).where(row.app_id == app_id, row.ended_at == 0, row.period > 0)
    names = {hold_id(*found) for found in connection.execute(wanted)} - {besides}
    place = AppPlaceRow
    rooms = select(place.app_id, place.host, place.period).where(place.app_id == app_id, place.period > 0)
    names |= {room_hold_id(*found) for found in connection.execute(rooms)}
    live = HoldRow.state.in_([str(state) for state in LIVE])
    return sum(connection.scalars(select(HoldRow.amount_wei).where(HoldRow.id.in_(names), live)))


def room_of(
    connection: Connection, app: App, specification: Mapping[str, Any], *, at: int, besides: str = ""
) -> Wei | None:
    """What the deployment's budget of the day leaves to be held, in wei; None where it has none.

    besides: a hold of its own that ends in the same transaction.
    """
    limit = specification["budget"]
    if limit is None:
        return None
    spent, held = spent_today_wei(connection, app.id, at=at), held_wei(connection, app.id, besides=besides)
    return room_wei(limit, spent_wei=spent, held_wei=held)


def check(
    connection: Connection,
    app: App,
    specification: Mapping[str, Any],
    hold_wei: int,
    *,
    at: int,
    besides: str = "",
) -> None:
    """Raise BudgetExceeded where a hold of `hold_wei` more is beyond the deployment's budget of the day.

    besides: a hold of its own that ends in the same transaction.
    """
    room = room_of(connection, app, specification, at=at, besides=besides)
    if room is not None and hold_wei > room:
        limit = format_ros(Wei(specification["budget"]))
        raise BudgetExceeded(
            f"the budget of {app.name}, {limit} a day, has room for {format_ros(room)}, and "
            f"{format_ros(Wei(hold_wei))} are needed; it goes on tomorrow, or with a larger budget: "
            f'update(budget="... ROS")'
        )


def replicas_paid(
    connection: Connection,
    app: App,
    specification: Mapping[str, Any],
    price: Callable[[int], int],
    rent: Callable[[int], int],
    *,
    reserve_us: int,
    at: int,
) -> int | None:
    """How many replicas could run for the rest of the day within the budget; None where there is none.

    price: the highest price in wei of one replica for so many microseconds; rent: that of what lies there however many
    run. reserve_us: what is held for beyond.
    """
    limit = specification["budget"]
    if limit is None:
        return None
    rest_us = start_of(Period.DAY, at) + _DAY_US - at
    each = price(rest_us + reserve_us)
    left = max(limit - spent_today_wei(connection, app.id, at=at) - rent(rest_us), 0)
    return left // each if each else None


def hold_id(replica_id: str, period: int) -> str:
    """The hold of one period of a replica."""
    return f"{replica_id}:{period}"


def room_hold_id(app_id: str, host: str, period: int) -> str:
    """The hold of one period of a deployment's volumes on a host."""
    return f"{app_id}@{host}:{period}"
