"""How many replicas a load needs: target tracking, ahead of what is rising and slow to follow what falls.

What is measured is a total over all replicas (requests under way, cores in use, tokens per second), and what one
replica should have of it. Kubernetes' HorizontalPodAutoscaler divides one by the other every 15 s and holds what it
gave for 300 s (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, "Algorithm details" and
"Stabilization window"). Here:

- up: the mean of the last few seconds, or where it is rising the value that the trend has reached when a replica that
  is begun now is ready, whichever is more. A queue counts at once.
- down: to the highest need within the window, and one that was left too early is longer next time: a load that comes
  back soon after replicas were taken away doubles the window, up to Kubernetes' own; a quiet time shortens it again.
- to zero: after `idle_s` without anything.

A pure function of what was observed, in order; moments are seconds of any one clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

TOLERANCE = 0.1
"""A need within this of what there is changes nothing (Kubernetes' default)."""
_MEAN_S = 5.0
_TREND_S = 20.0
WINDOW_MAX_S = 300.0
_SURGE = 2.0
"""A trend is believed up to so many times what is there now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a scaler keeps to."""

    minimum: int
    maximum: int
    per_replica: float
    """Of the load, for one replica."""
    window_s: float = 60.0
    idle_s: float = 300.0
    start_s: float = 5.0
    """How long a replica takes to become ready."""


@dataclass(slots=True)
class Scaler:
    """The scaler of one deployment. `decide` is called every second or so, with rising `at_s`."""

    target: Target
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    _needs: deque[tuple[float, int]] = field(default_factory=deque)
    _window_s: float = 0.0
    _lowered_at: float = -math.inf
    _lowered_from: int = 0
    _calm_at: float = -math.inf
    _busy_at: float | None = None

    def decide(self, at_s: float, *, load: float, waiting: float, current: int) -> tuple[int, str]:
        """How many replicas there should be, and why.

        load: the total now, `waiting` included. waiting: what no replica has begun. current: how many are wanted now.
        """
        target = self.target
        if self._busy_at is None or load > 0:
            self._busy_at = at_s
        self._window_s = self._window_s or target.window_s
        self._take(at_s, load)
        mean, rising = self._mean(at_s), self._rising()
        expected = min(mean + rising * target.start_s, _SURGE * max(mean, target.per_replica))
        highest = max(mean, expected, load if waiting else 0.0)
        need = self._whole(highest / target.per_replica, current)
        self._needs.append((at_s, need))
        while self._needs and self._needs[0][0] < at_s - self._window_s:
            self._needs.popleft()
        if target.minimum == 0 and not load and at_s - self._busy_at >= target.idle_s:
            return 0, f"nothing was asked for {target.idle_s:g} s"
        least = max(target.minimum, 1 if target.minimum or current or load else 0)
        wanted = min(max(need, least), target.maximum)
        if wanted > current:
            self._came_back(at_s, wanted)
            ahead = f", rising by {rising:.2g} a second" if expected > mean else ""
            return wanted, f"a load of {mean:.3g}{ahead}, for {target.per_replica:g} each"
        held = min(max(least, *(need for _, need in self._needs)), target.maximum)
        if held < current:
            self._lowered_at, self._lowered_from = at_s, max(current, self._lowered_from)
            return held, f"no more than {held} were needed for {self._window_s:g} s"
        return current, "as it is"

    def _whole(self, need: float, current: int) -> int:
        if current and abs(need / current - 1) <= TOLERANCE:
            return current
        return math.ceil(need - 1e-9)

    def _take(self, at_s: float, load: float) -> None:
        self._samples.append((at_s, load))
        while len(self._samples) > 1 and self._samples[0][0] < at_s - _TREND_S:
            self._samples.popleft()

    def _mean(self, at_s: float) -> float:
        recent = [load for when, load in self._samples if when > at_s - _MEAN_S]
        return sum(recent) / len(recent)

    def _rising(self) -> float:
        """By how much the load grows a second: the slope of the least squares, 0 where it falls."""
        count = len(self._samples)
        if count < 3:
            return 0.0
        start = self._samples[0][0]
        times = [when - start for when, _ in self._samples]
        middle = sum(times) / count
        mean = sum(load for _, load in self._samples) / count
        spread = sum((when - middle) ** 2 for when in times)
        if not spread:
            return 0.0
        slope = sum((t - middle) * (load - mean) for t, (_, load) in zip(times, self._samples, strict=True)) / spread
        return max(slope, 0.0)

    def _came_back(self, at_s: float, wanted: int) -> None:
        """More are wanted: were they there just now?"""
        if at_s - self._lowered_at < self._window_s and wanted >= self._lowered_from:
            self._window_s = min(2 * self._window_s, WINDOW_MAX_S)
            self._calm_at = at_s
        elif at_s - max(self._calm_at, self._lowered_at) > 2 * WINDOW_MAX_S:
            self._window_s = self.target.window_s
        self._lowered_from = 0
