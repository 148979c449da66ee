"""What the scalers of deployments go by: what routers, and runtimes, have measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from rios.deploy.autoscale import Scaler, Target
from rios.deploy.deciding import SECOND
from rios.storage.deployment_models import AppLoadRow

if TYPE_CHECKING:
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

_EVERY_US = SECOND
_FRESH_US = 5 * SECOND
"""What a router said longer ago is over: it says so every second while something goes on."""


class Scalers:
    """A scaler for each deployment whose replicas may be more or fewer."""

    def __init__(self, store: AppStore) -> None:
        self._store = store
        self._scalers: dict[tuple[str, int], Scaler] = {}
        self._asked_at: dict[str, int] = {}

    def wanted(self, app: App, specification: Mapping[str, Any], *, ready: int, now: int) -> tuple[int, str]:
        """How many replicas a deployment should have now, and why."""
        load, waiting, arrivals = self._load(app, now)
        urgent = waiting > 0 and not app.replicas
        if now - self._asked_at.get(app.id, 0) < _EVERY_US and not urgent:
            return app.replicas, "as it is"
        self._asked_at[app.id] = now
        scaler = self._scalers.get((app.id, app.revision))
        if scaler is None:
            scale = specification["scale"]
            target = Target(
                minimum=app.replicas_min, maximum=app.replicas_max, per_replica=scale["target"],
                window_s=scale["stabilise"], idle_s=scale["idle"],
            )  # fmt: skip
            scaler = self._scalers[app.id, app.revision] = Scaler(target)
        return scaler.decide(now / SECOND, load=load, waiting=waiting, current=app.replicas, arrivals=arrivals)

    def _load(self, app: App, now: int) -> tuple[float, float, float]:
        """Requests under way, those of them that wait, and how many have come so far."""
        row = AppLoadRow
        with self._store.ledger.database.reading() as connection:
            found = connection.execute(select(row.__table__).where(row.app_id == app.id)).all()
        fresh = [one for one in found if one.at > now - _FRESH_US]
        running = sum(one.running for one in fresh)
        # What a router answered stays counted when it says nothing any more, or there would seem to be fewer.
        arrived = sum(one.requests for one in found) + running
        return float(running), float(sum(one.waiting for one in fresh)), float(arrived)
