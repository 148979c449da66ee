"""How many replicas a load needs: target tracking, ahead of what is rising and slow to follow what falls.

What is measured is a total over all replicas (requests under way, cores in use, tokens per second), and what one
replica should have of it. Kubernetes' HorizontalPodAutoscaler divides one by the other every 15 s and holds what it
gave for 300 s (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, "Algorithm details" and
"Stabilization window"). Here:

- A queue is not a load: it grows for as long as the replicas that were begun for it are starting. Where arrivals are
  counted, the load is what arrives in a second times what a request takes when nobody waits (Little's law).
- Up: the mean of less than a minute. What the last seconds say counts where it is nearly twice what there is room
  for; and a trend that is no chance counts with what it has come to when a replica that is begun now is ready.
- Down: to the highest need within the window. One that was left too early is longer next time: a load that comes back
  soon after replicas were taken away makes it longer, up to Kubernetes' own; a quiet time shortens it again. In one
  that has become longer, what was needed for a moment alone is chance, and nothing is kept for it.
- To zero: after `idle_s` without anything.

A pure function of what was observed, in order; moments are seconds of any one clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

TOLERANCE = 0.1
"""A need within this of what there is changes nothing (Kubernetes' default)."""
WINDOW_MAX_S = 300.0
"""Kubernetes' stabilisation window."""
# The numbers from here on are those of the best of some twenty tries on the curves of tests/deployments/simulated.py.
_MEAN_S = 40.0
_FAST_S = 3.0
_TREND_S = 60.0
_URGENT = 1.9
"""The last seconds count alone where they are so many times what there is room for."""
_CERTAIN = 7.0
"""A slope of so many times its own error is no chance."""
_SURGE = 1.5
"""A trend is believed up to so many times what is there now."""
_WAVE, _LONGER = 1.5, 3.0
"""A load that comes back is one that was so many times what was left for it; the window is so many times longer
then."""
_RARE = 0.03
"""In a window that is longer than it was asked for, what was needed for a smaller share of it is no wave."""
_SLOWER = 1.01
"""A request is believed to take longer by so much a second: what was measured once may not hold any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a scaler keeps to."""

    minimum: int
    maximum: int
    per_replica: float
    """Of the load, for one replica."""
    window_s: float = 30.0
    idle_s: float = 300.0
    start_s: float = 5.0
    """How long a replica takes to become ready."""


@dataclass(slots=True)
class Scaler:
    """The scaler of one deployment. `decide` is called every second or so, with rising `at_s`."""

    target: Target
    _loads: deque[tuple[float, float, float]] = field(default_factory=deque)
    """Moment, load, arrivals until then."""
    _demands: deque[tuple[float, float]] = field(default_factory=deque)
    _needs: deque[tuple[float, int]] = field(default_factory=deque)
    _takes_s: float = math.inf
    """What a request takes when nobody waits."""
    _window_s: float = 30.0
    _lowered_at: float = -math.inf
    _lowered_from: int = 0
    _calm_at: float = -math.inf
    _busy_at: float | None = None

    def decide(
        self, at_s: float, *, load: float, waiting: float, current: int, arrivals: float | None = None
    ) -> tuple[int, str]:
        """How many replicas there should be, and why.

        load: the total now, `waiting` included. waiting: what no replica has begun. current: how many are wanted now.
        arrivals: how many there were until now, where they are counted.
        """
        target = self.target
        if self._busy_at is None or load > 0:
            self._busy_at = at_s
        self._window_s = self._window_s or target.window_s
        demand, why = self._demand(at_s, load, waiting, current, arrivals)
        need = self._whole(demand / target.per_replica, current)
        self._needs.append((at_s, need))
        while self._needs[0][0] < at_s - self._window_s:
            self._needs.popleft()
        if target.minimum == 0 and not load and at_s - self._busy_at >= target.idle_s:
            return 0, f"nothing was asked for {target.idle_s:g} s"
        least = max(target.minimum, 1 if target.minimum or current or load else 0)
        wanted = min(max(need, least), target.maximum)
        if wanted > current:
            self._came_back(at_s, wanted, current)
            return wanted, f"{why}, for {target.per_replica:g} each"
        held = min(max(least, self._kept(at_s)), target.maximum)
        if held < current:
            self._lowered_at, self._lowered_from = at_s, max(current, self._lowered_from)
            return held, f"no more than {held} were needed for {self._window_s:g} s"
        return current, "as it is"

    # --- what is needed --------------------------------------------------------------------------------------

    def _demand(
        self, at_s: float, load: float, waiting: float, current: int, arrivals: float | None
    ) -> tuple[float, str]:
        """The load to make room for, and how it was found."""
        now = self._observed(at_s, load, waiting, arrivals)
        self._demands.append((at_s, now))
        while self._demands[0][0] < at_s - _TREND_S:
            self._demands.popleft()
        mean, fast, rising = self._mean(at_s, _MEAN_S), self._mean(at_s, _FAST_S), self._rising()
        room = current * self.target.per_replica
        found, why = mean, f"a load of {mean:.3g}"
        expected = min(mean + rising * (self.target.start_s + _MEAN_S / 2), _SURGE * max(mean, self.target.per_replica))
        if expected > found:
            found, why = expected, f"a load of {mean:.3g} that rises by {rising:.2g} a second"
        if fast > _URGENT * room and fast > found:
            found, why = fast, f"a load of {fast:.3g} in the last seconds"
        return found, why

    def _observed(self, at_s: float, load: float, waiting: float, arrivals: float | None) -> float:
        """The load of this moment, without what only waits."""
        self._loads.append((at_s, load, arrivals or 0.0))
        while self._loads[0][0] < at_s - _MEAN_S:
            self._loads.popleft()
        if arrivals is None:
            return load
        (first, _, before), span = self._loads[0], at_s - self._loads[0][0]
        rate = (arrivals - before) / span if span > 0 else 0.0
        self._takes_s *= _SLOWER ** min(at_s - first, 1.0)
        if rate > 0 and not waiting and span >= _FAST_S:
            calm = sum(one for _, one, _ in self._loads) / len(self._loads) / rate
            self._takes_s = min(self._takes_s, calm)
        if math.isinf(self._takes_s):
            return load
        # Of one look alone: the errors of several are independent then, and a trend among them can be told from chance.
        last = self._loads[-2] if len(self._loads) > 1 else (at_s, load, arrivals)
        over = at_s - last[0]
        return max(arrivals - last[2], 0.0) / over * self._takes_s if over > 0 else load

    def _whole(self, need: float, current: int) -> int:
        if current and abs(need / current - 1) <= TOLERANCE:
            return current
        return math.ceil(need - 1e-9)

    def _mean(self, at_s: float, over_s: float) -> float:
        recent = [demand for when, demand in self._demands if when > at_s - over_s]
        return sum(recent) / len(recent)

    def _rising(self) -> float:
        """By how much the load grows a second: the slope of the least squares; 0 where that may be chance."""
        count = len(self._demands)
        if count < 5:
            return 0.0
        start = self._demands[0][0]
        points = [(when - start, demand) for when, demand in self._demands]
        middle = sum(t for t, _ in points) / count
        mean = sum(demand for _, demand in points) / count
        spread = sum((t - middle) ** 2 for t, _ in points)
        slope = sum((t - middle) * (demand - mean) for t, demand in points) / spread
        left = sum((demand - mean - slope * (t - middle)) ** 2 for t, demand in points)
        error = math.sqrt(left / (count - 2) / spread)
        return slope if slope > _CERTAIN * error else 0.0

    def _kept(self, at_s: float) -> int:
        """The replicas that what was needed within the window keeps."""
        recent = max(need for when, need in self._needs if when >= at_s - self.target.window_s)
        if self._window_s <= self.target.window_s:
            return recent
        longer = sorted((need for _, need in self._needs), reverse=True)
        return max(recent, longer[int(_RARE * len(longer))])

    def _came_back(self, at_s: float, wanted: int, current: int) -> None:
        """More are wanted: were they there just now? A little more or less is no wave, and waves alone are waited
        for."""
        if at_s - self._lowered_at < WINDOW_MAX_S and min(wanted, self._lowered_from) > _WAVE * current:
            self._window_s = min(_LONGER * self._window_s, WINDOW_MAX_S)
            self._calm_at, self._lowered_from = at_s, 0
        elif at_s - max(self._calm_at, self._lowered_at) > 2 * WINDOW_MAX_S:
            self._window_s = self.target.window_s
