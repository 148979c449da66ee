"""How many replicas a load needs: target tracking that meets what rises, and lets go of what is far too much soon.

What is measured is a total over all replicas (requests under way, cores in use, tokens per second), and what one
replica should have of it. Kubernetes' HorizontalPodAutoscaler divides one by the other every 15 s and holds what it
gave for 300 s (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, "Algorithm details" and
"Stabilization window"). Here:

- A queue is not a load: it grows for as long as the replicas that were begun for it are starting. Where arrivals are
  counted, the load is what arrives in a second times what a request takes when nobody waits (Little's law). While
  nobody knows that yet, there is one step up, of Kubernetes' own size.
- Up: the mean of less than a minute. What the last seconds say counts where it is nearly twice what there is room
  for; and a trend that is no chance, and goes on, counts with what it has come to when a replica that is begun now is
  ready.
- Down: to the highest need within the window. What is far more than was needed in the last part of it is let go of
  by then, and where nothing at all is under way, all but one soon.
- No turns: for the window after a step up there is none down, and shortly after one down only a large one up.
- To zero: after `idle_s` without anything.

A pure function of what was observed, in order; moments are seconds of any one clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

TOLERANCE = 0.1
"""A need within this of what there is changes nothing (Kubernetes' default)."""
# The numbers from here on are those of the best of some hundred tries on the curves of tests/deployments/simulated.py,
# each with arrivals by several seeds.
_MEAN_S = 40.0
_FAST_S = 4.0
_PEAK_S = 15.0
"""What is kept for the window is the mean of so long: shorter than that by which replicas are added."""
_TREND_S = 60.0
_RECENT_S = 30.0
"""A trend that was none in so many of its last seconds has ended."""
_CALM_S = 20.0
_COUNTED = 24
"""What a request takes is not measured of fewer: the least of many such measures would be far too low."""
_QUIET_S = 15.0
_URGENT, _FEW = 1.7, 4
"""The last seconds count alone where they are so many times what there is room for; and with no more than so many
replicas until they are of nothing before that, for one of two is half of what is needed."""
_CERTAIN = 7.0
"""A slope of so many times its own error is no chance."""
_SURGE = 1.5
"""A trend is believed up to so many times what is there now."""
_MUCH, _SOON = 0.4, 0.3
"""Whoever needed no more than this share of what there is, for this share of the window, has far too much."""
_TURN_S, _TURN = 30.0, 1.5
"""So soon after a step down, a need must be so many times what there is for one up."""
_STEP, _TIMES = 4, 2
"""The first step up: so many more, or so many times what there is (Kubernetes' default)."""
_SLOWER, _LONGER, _SLOWS = 1.001, 1.5, 1.02
"""A request is believed to take longer by so much a second, for what was measured once may not hold any more. Where
requests take so many times as long though all that was begun is ready, it is by the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a scaler keeps to."""

    minimum: int
    maximum: int
    per_replica: float
    """Of the load, for one replica."""
    window_s: float = 120.0
    idle_s: float = 90.0
    start_s: float = 5.0
    """How long a replica takes to become ready."""


@dataclass(slots=True)
class Scaler:
    """The scaler of one deployment. `decide` is called every second or so, with rising `at_s`."""

    target: Target
    _looks: deque[tuple[float, float, float]] = field(default_factory=deque)
    """Moment, load, arrivals until then."""
    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    """Moment, and arrivals a second; the load where they are not counted, or nobody knows what a request takes."""
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)
    """Moment, and the mean of those of `_PEAK_S`."""
    _takes_s: float = math.inf
    """What a request takes when nobody waits."""
    _began: tuple[float, int] | None = None
    """When there was something first, and how many replicas there were."""
    _urgent_at: float = -math.inf
    """When the last seconds were so much."""
    _raised_at: float = -math.inf
    _lowered_at: float = -math.inf
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
        if self._began is None and load > 0:
            self._began = at_s, current
        unit = self._unit(at_s, load, waiting, arrivals)
        demand, why = self._demand(at_s, current, unit)
        idle_s = at_s - self._busy_at
        if target.minimum == 0 and idle_s >= target.idle_s:
            return 0, f"nothing was asked for {target.idle_s:g} s"
        least = max(target.minimum, 1 if target.minimum or current or load else 0)
        if idle_s >= min(_QUIET_S, target.window_s):
            held, need, wait_s = self._within(0.0, least), 0.0, 0.0
            told = f"nothing was asked for {idle_s:.3g} s"
        else:
            need = demand / target.per_replica
            most, wait_s = self._kept(at_s, current, unit)
            held, told = self._within(max(most, need), least), f"no more than {most:.3g} were needed for {wait_s:g} s"
        wanted = self._within(need, least)
        is_back = at_s - self._lowered_at < min(_TURN_S, target.window_s)
        if wanted > current and need > current * (_TURN if is_back else 1 + TOLERANCE):
            wanted = self._first_step(at_s, wanted, current, arrivals)
            if wanted > current:
                self._raised_at = at_s
                return wanted, f"{why}, for {target.per_replica:g} each"
        elif held < current * (1 - TOLERANCE) and at_s - self._raised_at >= wait_s:
            self._lowered_at = at_s
            return held, told
        # Bounds hold at once, whoever changed them.
        return min(max(current, least), target.maximum), "as it is"

    def _within(self, need: float, least: int) -> int:
        return min(max(math.ceil(need - 1e-9), least), self.target.maximum)

    def _first_step(self, at_s: float, wanted: int, current: int, arrivals: float | None) -> int:
        """While nobody knows what a request takes, one step: more when that has come to something."""
        if arrivals is None or self._began is None:
            return wanted
        began_at, before = self._began
        if at_s >= began_at + self.target.start_s + _CALM_S:
            return wanted
        return max(current, min(wanted, max(before + _STEP, _TIMES * before)))

    def _kept(self, at_s: float, current: int, unit: float) -> tuple[float, float]:
        """The replicas that what was needed within the window keeps, and how long that is."""
        window_s, each = self.target.window_s, unit / self.target.per_replica
        recent = each * max(peak for when, peak in self._peaks if when >= at_s - _SOON * window_s)
        if recent < _MUCH * current:
            return recent, _SOON * window_s
        return each * max(peak for _, peak in self._peaks), window_s

    # --- what is needed --------------------------------------------------------------------------------------

    def _demand(self, at_s: float, current: int, unit: float) -> tuple[float, str]:
        """The load to make room for, and how it was found."""
        target = self.target
        self._peaks.append((at_s, self._mean(at_s, _PEAK_S)))
        _forget(self._peaks, at_s - target.window_s)
        mean, fast, rising = (
            unit * one for one in (self._mean(at_s, _MEAN_S), self._mean(at_s, _FAST_S), self._rising(at_s))
        )
        found, why = mean, f"a load of {mean:.3g}"
        expected = min(mean + rising * (target.start_s + _MEAN_S / 2), _SURGE * max(mean, target.per_replica))
        if expected > found:
            found, why = expected, f"a load of {mean:.3g} that rises by {rising:.2g} a second"
        if fast > _URGENT * current * target.per_replica:
            self._urgent_at = at_s
        goes_on = current <= _FEW and at_s - self._urgent_at <= _FAST_S
        if (goes_on or self._urgent_at == at_s) and fast > found:
            found, why = fast, f"a load of {fast:.3g} in the last seconds"
        return found, why

    def _unit(self, at_s: float, load: float, waiting: float, arrivals: float | None) -> float:
        """Take in what is there now; what one of `_rates` is of the load."""
        last = self._looks[-1] if self._looks else None
        self._looks.append((at_s, load, arrivals or 0.0))
        _forget(self._looks, at_s - _CALM_S)
        if arrivals is not None and last is not None:
            was_known = math.isfinite(self._takes_s)
            self._measure(at_s - last[0], at_s, waiting, arrivals)
            if math.isfinite(self._takes_s):
                if not was_known:
                    self._rates.clear()
                self._put(at_s, max(arrivals - last[2], 0.0) / (at_s - last[0]))
                return self._takes_s
        self._put(at_s, load)
        return 1.0

    def _measure(self, over_s: float, at_s: float, waiting: float, arrivals: float) -> None:
        """What a request takes: the least that was seen, which is forgotten slowly."""
        first, _, before = self._looks[0]
        span = at_s - first
        if arrivals - before <= _COUNTED or span < _FAST_S:
            return
        takes_s = _average(load for _, load, _ in self._looks) * span / (arrivals - before)
        is_settled = at_s - self._raised_at > self.target.start_s + _CALM_S
        slower = _SLOWS if is_settled and takes_s > _LONGER * self._takes_s else _SLOWER
        self._takes_s *= slower ** min(over_s, 1.0)
        if not waiting:
            self._takes_s = min(self._takes_s, takes_s)

    def _put(self, at_s: float, rate: float) -> None:
        self._rates.append((at_s, rate))
        _forget(self._rates, at_s - _TREND_S)

    def _mean(self, at_s: float, over_s: float) -> float:
        return _average(rate for when, rate in self._rates if when > at_s - over_s)

    def _rising(self, at_s: float) -> float:
        """By how much the rate grows a second; 0 where that may be chance, or is over."""
        slope, error = _slope(list(self._rates))
        if slope <= _CERTAIN * error:
            return 0.0
        recent, _ = _slope([one for one in self._rates if one[0] > at_s - _RECENT_S])
        return max(min(slope, recent), 0.0)


def _forget(past: deque[tuple[float, float]] | deque[tuple[float, float, float]], before_s: float) -> None:
    while past[0][0] < before_s:
        past.popleft()


def _average(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _slope(rates: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope of the least squares, and its error; 0 of a few."""
    count = len(rates)
    if count < 5:
        return 0.0, 0.0
    start = rates[0][0]
    points = [(when - start, rate) for when, rate in rates]
    middle, mean = _average(t for t, _ in points), _average(rate for _, rate in points)
    spread = sum((t - middle) ** 2 for t, _ in points)
    slope = sum((t - middle) * (rate - mean) for t, rate in points) / spread
    left = sum((rate - mean - slope * (t - middle)) ** 2 for t, rate in points)
    return slope, math.sqrt(left / (count - 2) / spread)
