"""Who pauses for want of money, and who goes on when there is some: a deployment is paid for as a whole.

It goes on when all replicas that it then runs can be held for, at the host where one costs most; so what cannot be paid
for does not start and end again and again. Where it had money and was soon without again (somebody else took it), it
waits longer each time, or until there is more than when it went on last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rios.deploy.deciding import SECOND
from rios.deploy.lifecycle import State
from rios.services.deployments.inheriting import homes_of
from rios.services.deployments.placing import Pass, dearest
from rios.services.deployments.store import AppStore, Lease, replicas_now, require_leader
from rios.services.deployments.values import App, Replica, Step

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.metering import Means, Metering

_LOOK_US = 2 * SECOND
"""How often a deployment without money is looked at for some."""
_AGAIN_US = 4 * SECOND
"""After it went on: so long until it does once more, four times as long each time."""
_AGAIN_MAX_US = 256 * SECOND
_LASTED_US = 600 * SECOND
"""What went on so long ago has not done so in a row."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """How a deployment went on last: when, how often in a row, and what there was beyond what it needed, in wei."""

    at: int
    times: int
    spare_wei: int


class Paying:
    """The deployments without money. Of whoever leads: another one may let each go on once more."""

    def __init__(self, store: AppStore, metering: Callable[[], Metering]) -> None:
        self._store = store
        self._metering = metering
        self._look_at: dict[str, int] = {}
        self._tried: dict[str, _Tried] = {}

    def __repr__(self) -> str:
        return f"<Paying for {len(self._look_at)} deployments that had no money>"

    def keep(self, app_ids: set[str]) -> None:
        """The end of a pass, in which these deployments were there: forget others."""
        for name in self._look_at.keys() - app_ids:
            del self._look_at[name]
            self._tried.pop(name, None)

    # --- going on --------------------------------------------------------------------------------------------

    def again(self, found: Pass, app: App, specification: Mapping[str, Any]) -> App:
        """A deployment without money, as it is then: where there is enough by now, it goes on."""
        if found.now < self._look_at.get(app.id, 0):
            return app
        means = self._means(found, app, specification)
        if means is None:
            return app
        self._look_at[app.id] = found.now + _LOOK_US
        least, most = _span(app)
        room = means.room_wei - found.promised.get(app.user_id, 0)
        spare = room - least * means.each_wei
        tried = self._tried.get(app.id, _Tried(0, 0, 0))
        more = 2 * (spare - tried.spare_wei) >= means.each_wei  # somebody deposited, or it was scaled down
        if spare < 0 or (tried.times and not more and self._is_soon(tried, found.now)):
            return app
        times = tried.times + 1 if found.now - tried.at < _LASTED_US else 1
        self._tried[app.id] = _Tried(found.now, times, spare)
        count = most if least == most else min(max(replace(means, room_wei=room).replicas(), least), most)
        found.promised[app.user_id] = found.promised.get(app.user_id, 0) + count * means.each_wei
        cause = "there is money again"
        changes: dict[str, Any] = {
            "paid": True, "settled_revision": None, "reached": 0, "failures": 0, "retry_at": 0, "since": found.now,
            "reason": "",
        }  # fmt: skip
        if count < app.replicas:
            cause += f": {app.replicas} -> {count} replicas"
            changes["replicas"] = count
        found.steps.append(Step(app, State.REQUESTED, cause, changes=changes, kind="state"))
        return replace(app, state=State.REQUESTED, **changes)

    @staticmethod
    def _is_soon(tried: _Tried, now: int) -> bool:
        return now < tried.at + min(_AGAIN_US << 2 * min(tried.times - 1, 9), _AGAIN_MAX_US)

    def by_the_day(self, found: Pass, app: App, specification: Mapping[str, Any]) -> int | None:
        """How many replicas the deployment's budget pays for until the day ends; None where it has none."""
        host = None if specification["budget"] is None else self._dearest(found, app, specification)
        return None if host is None else self._metering().replicas_paid(app, host, specification)

    def affords(self, found: Pass, app: App, specification: Mapping[str, Any], views: Sequence[Replica]) -> int | None:
        """How many replicas of a deployment can be held for now and in the next period, those that run among them.

        None where nothing bounds them.
        """
        means = self._means(found, app, specification)
        return means.replicas(held=sum(one.period > 0 for one in views)) if means and means.each_wei else None

    def _means(self, found: Pass, app: App, specification: Mapping[str, Any]) -> Means | None:
        host = self._dearest(found, app, specification)
        if host is None:
            return None
        if found.unheld is None:
            found.unheld = self._metering().unheld_wei()
        others = sum(wei for name, wei in found.unheld.get(app.user_id, {}).items() if name != app.id)
        return self._metering().means(app, host, specification, besides_wei=others)

    def _dearest(self, found: Pass, app: App, specification: Mapping[str, Any]) -> str | None:
        homes = homes_of(self._store, app.id, specification) if specification["volumes"] else frozenset[str]()
        return dearest(found, specification, homes)

    # --- pausing ---------------------------------------------------------------------------------------------

    def pause(self, app: App, why: str, *, lease: Lease) -> None:
        """Write that a deployment is out of money. Raises NotLeader."""

        def change(now: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            require_leader(connection, *lease)
            return _paused(now, why)

        self._store.change(app.id, change, at=self._store.ledger.now())

    def unbegun(self, app: App, replica_id: str, why: str, *, lease: Lease) -> None:
        """Write what follows where a replica, or what it is to have, cannot be held for: where as many others as have
        to run are held for, further ones are wanted no more, and else the deployment is out of money. Raises NotLeader.
        """

        def change(now: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            require_leader(connection, *lease)
            mark = (now.revision, now.round)
            mine = [one for one in replicas_now(connection, now.id) if one.lives and (one.revision, one.round) == mark]
            held = sum(one.period > 0 for one in mine if one.id != replica_id)
            if held < max(now.replicas_min, 1):
                return _paused(now, why)
            if held >= now.replicas:  # this one is about to be ended
                return {}, "", ""
            columns = {"replicas": held, "reached": min(now.reached, held)}
            return columns, "scaled", f"{now.replicas} -> {held}: {why}"

        self._store.change(app.id, change, at=self._store.ledger.now())


def _paused(app: App, why: str) -> tuple[Mapping[str, Any], str, str]:
    """The columns of a deployment that is out of money, with the event's kind and cause; none where it is already."""
    if not app.paid:
        return {}, "", ""
    least, _ = _span(app)
    fewer = f"; it goes on when all {least} replicas can be held for, or those that it is scaled down to"
    state = {} if app.state in (State.STOPPING, State.STOPPED) else {"state": str(State.PAUSED)}
    columns = {"paid": False, "reason": why + (fewer if least > 1 else ""), **state}
    return columns, "state" if state else "money", f"out of money: {why}"


def _span(app: App) -> tuple[int, int]:
    """How many replicas it runs at least and at most when it goes on; where it is at zero, the one that is woken."""
    most = max(app.replicas, app.replicas_min, 1)
    return (max(app.replicas_min, 1) if app.replicas_min < app.replicas_max else most), most
