"""The scaler on twenty curves, against Kubernetes' algorithm and against who knows the future."""

from __future__ import annotations

import math

import pytest

from rios.deploy.autoscale import Scaler, Target
from tests.deployments.simulated import Foresight, Hpa, Ours, curves, play

PLAIN = Target(minimum=1, maximum=10, per_replica=2.0, window_s=30.0)


def feed(scaler: Scaler, loads: list[float], *, current: int = 1, waiting: float = 0.0, at: float = 0.0) -> int:
    """The number of replicas after a second of each load."""
    for second, load in enumerate(loads):
        current, why = scaler.decide(at + second, load=load, waiting=waiting, current=current)
        assert why
    return current


def test_a_steady_load_gets_what_it_needs_and_keeps_it() -> None:
    scaler = Scaler(PLAIN)
    current = feed(scaler, [8.0] * 100)
    assert current == 4
    assert {feed(scaler, [load], current=4, at=100.0 + n) for n, load in enumerate([8.3, 7.7, 8.1, 7.9] * 20)} == {4}


def test_the_bounds_hold() -> None:
    assert feed(Scaler(PLAIN), [1000.0] * 60) == 10
    assert feed(Scaler(PLAIN), [0.0] * 1000, current=7) == 1


def test_to_zero_only_where_it_may_and_after_a_while() -> None:
    target = Target(minimum=0, maximum=10, per_replica=2.0, window_s=5.0, idle_s=20.0)
    scaler = Scaler(target)
    assert feed(scaler, [2.0] * 10) == 1
    assert feed(scaler, [0.0] * 15, at=10.0) == 1
    assert feed(scaler, [0.0] * 15, at=25.0) == 0
    assert scaler.decide(50.0, load=1.0, waiting=1.0, current=0)[0] == 1


def test_what_rises_for_certain_is_met_ahead() -> None:
    found = feed(Scaler(Target(minimum=1, maximum=100, per_replica=2.0, start_s=10.0)), [n / 2 for n in range(60)])
    assert found * 2.0 >= 29.5 / 2 + 5.0, "more than the mean of what was"


def test_a_queue_is_no_load_where_arrivals_are_counted() -> None:
    scaler = Scaler(Target(minimum=1, maximum=100, per_replica=2.0))
    current, arrived = 2, 0.0
    for second in range(60):  # 8 a second of half a second each
        arrived += 8.0
        current, _ = scaler.decide(float(second), load=4.0, waiting=0.0, current=current, arrivals=arrived)
    assert current == 2
    for second in range(60, 70):  # nobody serves: they queue up
        arrived += 8.0
        waits = 8.0 * (second - 59)
        current, _ = scaler.decide(float(second), load=waits, waiting=waits, current=current, arrivals=arrived)
    assert current <= 3


LATER = {"spikes of 40 each 300", "spikes of 40 each 120"}
"""Where Kubernetes is faster: it keeps for all of the time what the spikes need, for 2.7 and 3.7 times of what a plan
with foresight costs."""


@pytest.mark.parametrize("seed", [1, 2])
def test_no_later_and_no_dearer_than_kubernetes_and_near_to_foresight(seed: int) -> None:
    """On 18 of 20: p95 within 1 % and 5 ms, and not above its replica-seconds. On all 20: at most 1.5 times of what a
    plan with foresight and the same start delay costs, and no more turns than that plan. A simulated second is one
    look."""
    later, dear, turned = set(), {}, {}
    for name, (curve, length_s) in curves().items():
        least = 0 if "zero" in name else 1
        theirs = play(curve, length_s, Hpa(least), minimum=max(least, 1), seed=seed)
        ours = play(curve, length_s, Ours(least), minimum=least, seed=seed)
        best = play(curve, length_s, Foresight(curve, least), minimum=least, seed=seed)
        if ours.p95_s > 1.01 * theirs.p95_s + 0.005 or ours.replica_s > theirs.replica_s:
            later.add(name)
        if ours.replica_s > 1.5 * best.replica_s:
            dear[name] = ours.replica_s / best.replica_s
        if ours.turns > best.turns:
            turned[name] = ours.turns
    assert later <= LATER
    assert dear == {}
    assert turned == {}


def test_a_step_that_a_few_replicas_meet_is_met_soon() -> None:
    """The step that `test_curve.py` plays for real, of six requests under way. One replica too few is a third of all
    here: what is known of a dozen requests, or of seconds from before the step, would begin that few."""
    ours, theirs = [], []
    for seed in range(1, 9):
        for way, found in ((Ours(1), ours), (Hpa(1), theirs)):
            found.append(play(lambda t: 12.0 if 40 <= t < 120 else 2.0, 240, way, minimum=1, seed=seed))
    assert sum(one.p95_s for one in ours) < 0.7 * sum(one.p95_s for one in theirs)
    assert sum(one.replica_s for one in ours) < 0.5 * sum(one.replica_s for one in theirs)


def counted(
    scaler: Scaler, seconds: range, rate: float, takes_s: float, current: int, arrived: float
) -> tuple[int, float]:
    """The number of replicas, and the arrivals, after so many seconds of requests that nobody has to wait with."""
    for second in seconds:
        arrived += rate
        current, _ = scaler.decide(float(second), load=rate * takes_s, waiting=0.0, current=current, arrivals=arrived)
    return current, arrived


def test_requests_that_take_longer_are_believed_in_the_end() -> None:
    scaler = Scaler(Target(minimum=1, maximum=100, per_replica=2.0))
    current, arrived = counted(scaler, range(120), 8.0, 0.5, 2, 0.0)
    assert current == 2
    current, arrived = counted(scaler, range(120, 150), 8.0, 2.0, current, arrived)
    assert current <= 3, "it may be a queue"
    current, arrived = counted(scaler, range(150, 360), 8.0, 2.0, current, arrived)
    assert current >= 5, "it is none"


def test_little_more_than_is_needed_is_kept_longer_than_much_more() -> None:
    target = Target(minimum=1, maximum=20, per_replica=2.0, window_s=100.0)
    for left, kept_s in ((10.0, 100), (2.0, 30)):
        scaler = Scaler(target)
        current = feed(scaler, [20.0] * 200)
        assert current == 10
        current = feed(scaler, [left] * (kept_s - 2), current=current, at=200.0)
        assert current == 10
        assert feed(scaler, [left] * 20, current=current, at=198.0 + kept_s) == math.ceil(left / 2)


def test_nothing_at_all_needs_one_soon() -> None:
    scaler = Scaler(Target(minimum=0, maximum=20, per_replica=2.0))
    current = feed(scaler, [20.0] * 200)
    assert feed(scaler, [0.0] * 14, current=current, at=200.0) == 10
    assert feed(scaler, [0.0] * 3, current=current, at=214.0) == 1


@pytest.mark.parametrize(("load", "soon", "later"), [(5.0, 2, 3), (9.0, 4, 4)])
def test_what_was_taken_away_comes_back_soon_for_much_alone(load: float, soon: int, later: int) -> None:
    scaler = Scaler(Target(minimum=1, maximum=20, per_replica=2.0, window_s=60.0))
    current = feed(scaler, [16.0] * 100)
    at = 100.0
    while current > 2:
        current, at = feed(scaler, [3.5], current=current, at=at), at + 1
    assert feed(scaler, [load] * 25, current=current, at=at) == soon
    assert feed(scaler, [load] * 25, current=soon, at=at + 25) >= later


def test_the_first_step_is_bounded_while_nobody_knows_what_a_request_takes() -> None:
    scaler, arrived, current = Scaler(Target(minimum=1, maximum=100, per_replica=2.0)), 0.0, 1
    for second in range(20):  # nobody serves
        arrived += 20.0
        current, _ = scaler.decide(float(second), load=arrived, waiting=0.0, current=current, arrivals=arrived)
    assert current == 5


@pytest.mark.parametrize("length", [1, 2, 5])
def test_it_begins_with_little_knowledge(length: int) -> None:
    assert feed(Scaler(PLAIN), [6.0] * length) in (1, 2, 3)
