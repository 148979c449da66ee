"""Load curves, and what each way to scale makes of them: a queue in front of replicas that take a while to start."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rios.deploy.autoscale import Scaler, Target
from rios.deploy.spec import Scaling
from rios.services.deployments.scaling import target_of

SERVICE_S = 0.5
"""A request keeps one of a replica's places for so long, within a fifth."""
PLACES = 4
"""Requests that a replica serves at the same time."""
TARGET = 2.0
"""Requests under way that one replica should have: half of its places are spare."""
START_S = 10
MAXIMUM = 60
TICK_S = 1
Curve = Callable[[float], float]
"""Requests per second at a moment."""


def curves() -> dict[str, tuple[Curve, int]]:
    """Twenty curves, each with its length in seconds."""
    found: dict[str, tuple[Curve, int]] = {}
    for low, high in ((4, 30), (10, 60), (2, 80)):
        found[f"step {low}-{high}"] = (lambda t, low=low, high=high: high if 300 <= t < 900 else low, 1800)
    for low, high, over in ((4, 60, 300), (4, 60, 900), (10, 100, 600)):
        found[f"ramp {low}-{high} in {over}"] = (
            lambda t, low=low, high=high, over=over: (
                low + (high - low) * max(0.0, min(1.0, (t - 200) / over, (1800 - t) / 300))
            ),
            2000,
        )
    for every, length, high in ((300, 20, 40), (600, 60, 50), (900, 30, 80), (120, 15, 40)):
        found[f"spikes of {high} each {every}"] = (
            lambda t, every=every, length=length, high=high: high if t % every > every - length else 6,
            2700,
        )
    for period, low, high in ((3600, 5, 50), (1800, 5, 50), (1200, 10, 40)):
        found[f"daily {low}-{high} of {period}"] = (
            lambda t, period=period, low=low, high=high: (
                low + (high - low) * (1 - math.cos(2 * math.pi * t / period)) / 2
            ),
            3600,
        )
    for on, off in ((600, 900), (300, 600), (120, 480)):
        found[f"to zero {on} on {off} off"] = (lambda t, on=on, off=off: 20 if t % (on + off) < on else 0, 3000)
    noise = random.Random(11)
    for level, spread in ((20, 4), (20, 10), (40, 15)):
        values = [max(0.0, noise.gauss(level, spread)) for _ in range(200)]
        found[f"noise {level} by {spread}"] = (lambda t, values=values: values[int(t) // 10], 1800)
    walk, value = [], 20.0
    for _ in range(300):
        value = min(max(value + noise.gauss(0, 3), 2), 80)
        walk.append(value)
    found["walk"] = (lambda t, walk=walk: walk[int(t) // 10], 2700)
    assert len(found) == 20
    return found


@dataclass(frozen=True)
class Outcome:
    """What a way to scale made of a curve."""

    p95_s: float
    replica_s: float
    changes: int
    turns: int
    """How often the number went up soon after it went down, or the other way round."""


class Hpa:
    """Kubernetes' algorithm as published: ratio with 10 % tolerance every 15 s, 300 s of stabilisation downwards, and
    upwards at most the larger of 4 replicas and 100 % in 15 s (the default behaviour). Metrics are means of 15 s."""

    def __init__(self, minimum: int) -> None:
        self._minimum = max(minimum, 1)
        self._at = -math.inf
        self._loads: deque[float] = deque(maxlen=15)
        self._wanted: deque[tuple[float, int]] = deque()

    def decide(self, at: float, *, load: float, waiting: float, current: int, ready: int, arrivals: float) -> int:
        self._loads.append(load)
        if at - self._at < 15:
            return current
        self._at = at
        ready = max(ready, 1)
        ratio = sum(self._loads) / len(self._loads) / ready / TARGET
        desired = current if abs(ratio - 1) <= 0.1 else math.ceil(ready * ratio - 1e-9)
        self._wanted.append((at, desired))
        while self._wanted[0][0] <= at - 300:
            self._wanted.popleft()
        if desired < current:
            desired = min(current, max(wanted for _, wanted in self._wanted))
        desired = min(desired, max(current + 4, 2 * current))
        return min(max(desired, self._minimum), MAXIMUM)


class Ours:
    """The scaler under test, asked each second: with the defaults of a specification, as `Scalers` makes it.

    It is told that requests wait where no replica is ready, for what waits inside of a replica no router knows; and how
    long a start takes when one has been seen.
    """

    def __init__(self, minimum: int) -> None:
        self._scale, self._minimum = Scaling(target=TARGET).model_dump(), minimum
        self._scaler = Scaler(self._target(None))
        self._least = math.inf

    def _target(self, start_s: float | None) -> Target:
        return target_of(self._scale, minimum=self._minimum, maximum=MAXIMUM, start_s=start_s)

    def decide(self, at: float, *, load: float, waiting: float, current: int, ready: int, arrivals: float) -> int:
        self._least = min(self._least, ready)
        if ready > self._least:  # one has become so
            self._scaler.target = self._target(START_S)
        waits = 0.0 if ready else waiting
        return self._scaler.decide(at, load=load, waiting=waits, current=current, arrivals=arrivals)[0]


class Foresight:
    """Who knows the curve: as many replicas as it will need when one begun now is ready, and no more than it needs."""

    def __init__(self, curve: Curve, minimum: int) -> None:
        self._curve = curve
        self._minimum = minimum

    def decide(self, at: float, *, load: float, waiting: float, current: int, ready: int, arrivals: float) -> int:
        ahead = max(self._curve(at + dt) for dt in range(START_S + 1))
        return min(max(math.ceil(ahead * SERVICE_S / TARGET), self._minimum, 1 if load else 0), MAXIMUM)


def play(curve: Curve, length_s: int, way: Hpa | Ours | Foresight, *, minimum: int, seed: int = 1) -> Outcome:
    """Play a curve, second by second. Arrivals are a Poisson process of that rate."""
    chance = random.Random(seed)
    waits: list[float] = []
    queue: deque[float] = deque()
    busy: list[float] = []
    ready = current = max(minimum, 1)
    starting: deque[float] = deque()
    arrived = 0
    replica_s, changes, turns, last = 0.0, 0, 0, (0, -math.inf)
    for tick in range(length_s):
        now = float(tick)
        while starting and starting[0] <= now:
            starting.popleft()
            ready += 1
        came = sorted(now + chance.random() for _ in range(_poisson(chance, curve(now))))
        queue.extend(came)
        arrived += len(came)
        _serve(chance, queue, busy, waits, ready * PLACES, now)
        load = float(sum(end > now + TICK_S for end in busy) + len(queue))
        wanted = way.decide(now, load=load, waiting=float(len(queue)), current=current, ready=ready, arrivals=arrived)
        if wanted != current:
            changes += 1
            direction = 1 if wanted > current else -1
            if direction == -last[0] and now - last[1] < 30:
                turns += 1
            last = (direction, now)
            while current < wanted:
                starting.append(now + START_S)
                current += 1
            while current > wanted:
                current -= 1
                if starting:
                    starting.pop()
                else:
                    ready -= 1
        replica_s += current
    waits += [length_s - came for came in queue]
    waits.sort()
    return Outcome(waits[int(0.95 * len(waits))], replica_s, changes, turns)


def _serve(
    chance: random.Random, queue: deque[float], busy: list[float], waits: list[float], places: int, now: float
) -> None:
    """What is begun in this second: first come, first served, each as soon as a place is free."""
    while busy and busy[0] <= now:
        heapq.heappop(busy)
    while queue:
        begun = max(queue[0], now)
        if len(busy) >= places:
            if not busy or busy[0] >= now + TICK_S:
                return
            begun = max(begun, heapq.heappop(busy))
        took = SERVICE_S * chance.uniform(0.8, 1.2)
        waits.append(begun - queue.popleft() + took)
        heapq.heappush(busy, begun + took)


def _poisson(chance: random.Random, mean: float) -> int:
    count, total = -1, 0.0
    while total < mean:
        total += chance.expovariate(1.0)
        count += 1
    return max(count, 0)
