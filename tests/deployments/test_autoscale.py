"""The scaler on twenty curves, against Kubernetes' algorithm and against who knows the future."""

from __future__ import annotations

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


DEARER = {
    "spikes of 50 each 600": 1.7, "spikes of 40 each 120": 2.0, "spikes of 40 each 300": 2.2,
    "to zero 600 on 900 off": 2.5, "to zero 300 on 600 off": 4.0, "to zero 120 on 480 off": 8.0,
}  # fmt: skip
"""Where the 1.5 times of a plan with foresight are missed, and by how much at most (docs/deployments.md): who does not
know when the next spike comes keeps replicas for it, and before it sleeps a deployment waits for a while."""
TURNS = {"spikes of 40 each 120": 4, "noise 40 by 15": 6, "noise 20 by 4": 3, "walk": 3}
"""Up soon (30 s) after down, or down after up, in a whole curve; on others once at most."""


def test_no_later_and_no_dearer_than_kubernetes_on_most_curves() -> None:
    """On 18 of 20: p95 within 1 % and 5 ms, and not above its replica-seconds. A simulated second is one look."""
    good, dear, turned = [], {}, {}
    for name, (curve, length_s) in curves().items():
        least = 0 if "zero" in name else 1
        theirs = play(curve, length_s, Hpa(least), minimum=max(least, 1))
        ours = play(curve, length_s, Ours(least), minimum=least)
        if ours.p95_s <= 1.01 * theirs.p95_s + 0.005 and ours.replica_s <= theirs.replica_s:
            good.append(name)
        turned[name] = ours.turns
        best = play(curve, length_s, Foresight(curve, least), minimum=least)
        if ours.replica_s > 1.5 * best.replica_s:
            dear[name] = ours.replica_s / best.replica_s
    assert len(good) >= 18, sorted(set(curves()) - set(good))
    assert set(dear) == set(DEARER), "those that are missed are written down, and no others"
    assert {name for name, times in dear.items() if times > DEARER[name]} == set()
    assert {name for name, count in turned.items() if count > TURNS.get(name, 1)} == set()


def test_a_moment_in_a_long_window_keeps_nothing() -> None:
    scaler = Scaler(PLAIN)
    current = 1
    for wave in range(3):  # one comes back soon after its replicas were taken away: the window becomes longer
        current = feed(scaler, [12.0] * 60, current=current, at=200.0 * wave)
        current = feed(scaler, [2.0] * 140, current=current, at=200.0 * wave + 60)
    assert current >= 6, "what comes back is waited for"
    current = feed(scaler, [2.0] * 240, current=current, at=600.0)
    assert current == 1
    assert feed(scaler, [40.0] * 2, current=current, at=840.0) >= 6
    assert feed(scaler, [2.0] * 120, current=10, at=842.0) <= 2, "what was a moment is not"


@pytest.mark.parametrize("length", [1, 2, 5])
def test_it_begins_with_little_knowledge(length: int) -> None:
    assert feed(Scaler(PLAIN), [6.0] * length) in (1, 2, 3)
