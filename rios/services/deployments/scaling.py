"""What the scalers of deployments go by: what routers have measured, or what replicas are asked for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from rios.deploy.autoscale import Scaler, Target
from rios.deploy.deciding import SECOND
from rios.deploy.lifecycle import State
from rios.services.deployments.gauges import TOKENS, Gauges, cores_of, metric_of
from rios.storage.deployment_models import AppLoadRow

if TYPE_CHECKING:
    from rios.deploy.exposition import Said
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App, Replica

_EVERY_US = SECOND
_AFFORDS_US = 15 * SECOND
"""How often is looked whether there is money for the replicas that there are: within a period, which is a minute."""
_FRESH_US = 5 * SECOND
"""What a router said longer ago is over: it says so every second while something goes on."""
_BY_REQUESTS = ("requests", "queue")


class Scalers:
    """A scaler for each deployment whose replicas may be more or fewer. Close it."""

    def __init__(self, store: AppStore) -> None:
        self._store = store
        self._gauges = Gauges()
        self._scalers: dict[str, tuple[int, Scaler]] = {}
        """By deployment: of which revision, and the scaler."""
        self._asked_at: dict[str, int] = {}
        self._afforded_at: dict[str, int] = {}
        self._watched: set[str] = set()

    def __repr__(self) -> str:
        return f"<Scalers of {len(self._scalers)} deployments>"

    def close(self) -> None:
        """Ask no replica any more."""
        self._gauges.close()

    def keep(self, app_ids: set[str]) -> None:
        """The end of a pass, in which these deployments were there: forget others, and replicas that were not met."""
        for name in self._scalers.keys() - app_ids:
            del self._scalers[name]
            self._asked_at.pop(name, None)
            self._afforded_at.pop(name, None)
        self._gauges.keep(self._watched)
        self._watched = set()

    def wanted(
        self,
        app: App,
        specification: Mapping[str, Any],
        replicas: Sequence[Replica],
        hosts: Mapping[str, Host],
        *,
        paid: Callable[[], int | None],
        affords: Callable[[], int | None],
        now: int,
    ) -> tuple[int, str]:
        """How many replicas a deployment should have now, and why.

        paid: how many its budget pays for until the day ends; asked about once a second. affords: how many can be held
        for, by what money there is now; asked where there are to be more than have to.
        """
        wanted, why = self._by_load(app, specification, replicas, hosts, paid=paid, now=now)
        least, is_new = max(app.replicas_min, 1), self._asked_at.get(app.id) == now
        most = affords() if is_new and wanted > least and self._is_to_ask(app, wanted, now) else None
        if most is None or wanted <= most:
            return wanted, why
        most = max(most, least)
        if most == app.replicas:
            return most, "as it is"
        return most, f"{why}; there is money for no more" if most > app.replicas else f"there is money for {most}"

    def _is_to_ask(self, app: App, wanted: int, now: int) -> bool:
        """Whether money is looked at: for each replica more, and now and then for those that there are."""
        if wanted <= app.replicas and now - self._afforded_at.get(app.id, 0) < _AFFORDS_US:
            return False
        self._afforded_at[app.id] = now
        return True

    def _by_load(
        self,
        app: App,
        specification: Mapping[str, Any],
        replicas: Sequence[Replica],
        hosts: Mapping[str, Host],
        *,
        paid: Callable[[], int | None],
        now: int,
    ) -> tuple[int, str]:
        scale = specification["scale"]
        ready = [one for one in replicas if one.state is State.READY]
        if scale["on"] not in _BY_REQUESTS:
            self._watch(app.organisation_id, specification, ready, hosts)
        running, waiting, arrivals = self._load(app, now)
        urgent = waiting > 0 and not app.replicas
        if now - self._asked_at.get(app.id, 0) < _EVERY_US and not urgent:
            return app.replicas, "as it is"
        self._asked_at[app.id] = now
        most = paid()
        high = app.replicas_max if most is None else max(min(app.replicas_max, most), app.replicas_min, 1)
        scaler = self._scaler(app, scale, high, replicas)
        if scale["on"] == "requests":
            load: float | None = running
        elif scale["on"] == "queue":
            load, arrivals = _queue(running, len(ready), scale["target"]), None
        else:
            load, arrivals = self._measured(ready), None
        if load is None:
            # Whoever waits is answered, even where nobody can say how much there is to do.
            return (1, "a request waits") if urgent else (min(app.replicas, high), _bound(app.replicas, high, most))
        found, why = scaler.decide(
            now / SECOND, load=load, waiting=waiting if arrivals is not None else 0.0, current=app.replicas,
            arrivals=arrivals,
        )  # fmt: skip
        if found < app.replicas and most is not None and found == high:
            why = _bound(app.replicas, high, most)
        elif found == high < app.replicas_max and most is not None:
            why = f"{why}; the budget of the day pays for no more"
        return found, why

    def _scaler(self, app: App, scale: Mapping[str, Any], high: int, replicas: Sequence[Replica]) -> Scaler:
        revision, scaler = self._scalers.get(app.id, (app.revision, None))
        known_s = None if scaler is None or revision != app.revision else scaler.target.start_s
        took_s = took_of([one for one in replicas if one.revision == app.revision])
        start_s = known_s if took_s is None else took_s
        target = target_of(scale, minimum=app.replicas_min, maximum=high, start_s=start_s)
        if scaler is None or revision != app.revision:
            scaler = Scaler(target)
        scaler.target = target  # bounds change without a new revision
        self._scalers[app.id] = app.revision, scaler
        return scaler

    # --- what there is to do ---------------------------------------------------------------------------------

    def _load(self, app: App, now: int) -> tuple[float, float, float | None]:
        """Requests under way, those of them that wait, and how many have come so far."""
        row = AppLoadRow
        with self._store.ledger.database.reading() as connection:
            found = connection.execute(select(row.__table__).where(row.app_id == app.id)).all()
        fresh = [one for one in found if one.at > now - _FRESH_US]
        running = sum(one.running for one in fresh)
        # What a router answered stays counted when it says nothing any more, or there would seem to be fewer.
        arrived = sum(one.requests for one in found) + running
        return float(running), float(sum(one.waiting for one in fresh)), float(arrived)

    def _watch(
        self, owner: str, specification: Mapping[str, Any], ready: Sequence[Replica], hosts: Mapping[str, Host]
    ) -> None:
        scale = specification["scale"]
        for one in ready:
            host = hosts.get(one.host)
            if host is None:
                continue
            read: Callable[[], Said]
            if scale["on"] == "cpu":
                read = cores_of(host, one.id, specification["resources"]["cpu"])
            else:
                read = metric_of(one.address, scale["metric"], TOKENS if scale["on"] == "tokens" else "")
            self._gauges.watch(one.id, read, owner=owner)
            self._watched.add(one.id)

    def _measured(self, ready: Sequence[Replica]) -> float | None:
        """The total over all ready replicas, those that said nothing taken for such as the others; None for nothing."""
        known = [value for one in ready if (value := self._gauges.value(one.id)) is not None]
        return sum(known) / len(known) * len(ready) if known else None


def took_of(replicas: Sequence[Replica]) -> float | None:
    """The seconds that replicas took from when they were wanted until they were ready, in the median; None of none."""
    took = [one.ready_at - one.created_at for one in replicas if one.ready_at]
    return statistics.median(took) / SECOND if took else None


def target_of(scale: Mapping[str, Any], *, minimum: int, maximum: int, start_s: float | None) -> Target:
    """What a scaler keeps to. scale: of the specification. start_s: what a start took so far, where that is known."""
    target = Target(
        minimum=minimum, maximum=maximum, per_replica=scale["target"], window_s=scale["stabilise"],
        idle_s=scale["idle"],
    )  # fmt: skip
    return target if start_s is None else replace(target, start_s=start_s)


def _queue(running: float, ready: int, target: float) -> float:
    """As many replicas as are busy, and more where more than `target` requests for each of them wait their turn."""
    busy = min(running, ready)
    return max(running - busy, busy * target)


def _bound(current: int, high: int, most: int | None) -> str:
    return "as it is" if high >= current or most is None else f"the budget of the day pays for {high}"
