"""The scaler of deployments for Dask's workers, by Dask's own adaptive interface.

>>> cluster.adapt(Adaptive=rios.TargetTracking, minimum=1, maximum=8)              # doctest: +SKIP
>>> cluster.adapt(Adaptive=rios.TargetTracking, minimum=1, maximum=8,              # doctest: +SKIP
...               load=lambda: model.under_way, target=4)

Dask's `Adaptive` asks once a second how many workers there should be, and has its cluster begin or retire them
(docs.dask.org/en/stable/adaptive.html); any cluster of Dask's that can `scale` will do: LocalCluster, SSHCluster,
KubeCluster. What it goes by itself is the tasks that wait at the moment, and whoever is idle leaves after three looks.
Here `rios.deploy.autoscale` decides: ahead of what rises for certain, and down to what was needed of late.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dask.utils import parse_timedelta
from distributed import Adaptive

from rios.deploy.autoscale import Scaler, Target
from rios.words.display import Shown
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster

log = logging.getLogger(__name__)

Load = Callable[[], float | Awaitable[float | None] | None]
_WORKERS_MAX, _CHANGES_KEPT, _SHOWN = 100_000, 1000, 20


@dataclass(frozen=True, slots=True)
class Change(Shown):
    """Another number of workers was wanted."""

    at: float
    """Seconds since 1970."""
    before: int
    wanted: int
    cause: str

    def __str__(self) -> str:
        return f"{self.before} -> {self.wanted}: {self.cause}"


class TargetTracking(Shown, Adaptive):
    """Give it to `cluster.adapt(Adaptive=...)`, which makes it and returns it."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        load: Load | None = None,
        target: float = 1.0,
        minimum: int = 1,
        maximum: float = _WORKERS_MAX,
        stabilise: str | float = "120s",
        idle: str | float = "90s",
        start: str | float = "5s",
        **options: Any,
    ) -> None:
        """load: what there is to do now, over all workers, and `target` of it for each; None while that is not known.
        It is called in a thread, or awaited, at each look. Without, it is the workers that Dask itself would have.

        minimum, maximum: workers; with a minimum of 0 all leave after `idle` without anything to do. stabilise: what
        was needed within this is kept. start: how long a worker takes to come. options: those of Dask's `Adaptive`,
        such as interval="1s". Raises InvalidRequest.
        """
        self.state = "inactive"  # Dask's own end of it asks for that, also where there is no more of it
        most = int(min(maximum, _WORKERS_MAX))
        if not 0 <= minimum <= most or most < 1 or target <= 0:
            raise InvalidRequest(
                f"from {minimum} to {maximum} workers, for {target} each, is no room to scale in: give the smaller one "
                "as minimum, a maximum of at least 1, and a target above 0"
            )
        window_s, idle_s, start_s = (parse_timedelta(one, "s") for one in (stabilise, idle, start))
        self.changes: deque[Change] = deque(maxlen=_CHANGES_KEPT)
        """What was wanted another time than before, newest last."""
        self._load, self._silent = load, False
        self._clock = time.monotonic
        bounds = Target(
            minimum=minimum, maximum=most, per_replica=target, window_s=window_s, idle_s=idle_s, start_s=start_s
        )
        self._scaler = Scaler(bounds)
        # Who leaves was not needed for the whole window already.
        super().__init__(cluster, minimum=minimum, maximum=most, **{"wait_count": 1, **options})

    def __repr__(self) -> str:
        target = self._scaler.target
        return f"<TargetTracking of {target.minimum} to {target.maximum} workers, {target.per_replica:g} each>"

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]] | None:
        times = [datetime.fromtimestamp(one.at, UTC).isoformat(" ", "seconds") for one in self.changes]
        rows = [(at, one.before, one.wanted, one.cause) for at, one in zip(times, self.changes, strict=True)]
        return (("at", "before", "wanted", "cause"), rows[-_SHOWN:]) if rows else None

    async def target(self) -> int:
        """How many workers there should be now."""
        current = len(self.plan)
        load = await self._measured()
        if load is None:
            return current
        wanted, why = self._scaler.decide(self._clock(), load=load, waiting=0.0, current=current)
        if wanted != current:
            self.changes.append(Change(time.time(), current, wanted, why))
            log.info("workers are scaled", extra={"workers": current, "then": wanted, "reason": why})
        return wanted

    async def _measured(self) -> float | None:
        if self._load is None:
            wanted: int = await super().target()  # type: ignore[no-untyped-call]
            return wanted * self._scaler.target.per_replica
        try:
            found = await asyncio.to_thread(self._load)
            value = await found if inspect.isawaitable(found) else found
        except Exception as error:  # noqa: BLE001 -- somebody's own function: whatever it fails by, the workers stay
            if not self._silent:
                log.warning("nobody says how much there is to do", extra={"reason": repr(error)})
            self._silent = True
            return None
        self._silent = False
        return None if value is None else float(value)
