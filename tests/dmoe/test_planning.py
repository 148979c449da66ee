"""What a deployment asks of the planner: copies, trunks, and the load that its trunk has counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.planning import CacheRoom, HostRoom, MeasuredLoad, Planner
from rios.words.errors import InsufficientMemory, InvalidRequest
from tests.campaigns import ROOT

MANIFEST = read_manifest(ROOT / "rios" / "demo" / "model")


def hosts(*free_bytes: int) -> list[HostRoom]:
    return [HostRoom(f"h{i}", f"m{i}", 1.0, free, runs_trunk=False, serves=False) for i, free in enumerate(free_bytes)]


def planner(replicas: int | None = None) -> tuple[Planner, int]:
    made = Planner("demo", MANIFEST, "bfloat16", replicas)
    return made, sum(int(layer.sum()) for layer in made.expert_bytes)


def test_copies_where_nobody_said() -> None:
    made, total = planner()
    for rooms, copies in (([4 * total], 1), ([2 * total] * 2, 2), ([2 * total - 1] * 2, 1)):
        made.choose_copies(hosts(*rooms))
        assert made.replicas == copies
    exact, _ = planner(3)
    with pytest.raises(InvalidRequest, match="replicas is 3, but there are 2 workers"):
        exact.choose_copies(hosts(total, total))


def test_fewer_hosts_than_copies_hold_what_they_can() -> None:
    made, total = planner(2)
    found, trunks = made.plan(hosts(4 * total), None, None)
    assert trunks == {"h0"}
    assert {len(holders) for layer in found.holders for holders in layer} == {1}
    both, trunks = made.plan(hosts(4 * total, 4 * total), found, None)
    assert trunks == {"h0", "h1"}
    assert {len(holders) for layer in both.holders for holders in layer} == {2}


def test_who_serves_keeps_the_trunk_then_who_runs_one() -> None:
    made, total = planner(2)
    rooms = hosts(*[4 * total] * 4)
    rooms[3] = dataclasses.replace(rooms[3], runs_trunk=True, serves=True)
    assert made.plan(rooms, None, None)[1] == {"h3", "h0"}
    rooms[2] = dataclasses.replace(rooms[2], runs_trunk=True)
    assert made.plan(rooms, None, None)[1] == {"h3", "h2"}
    with pytest.raises(InsufficientMemory, match="the trunk of demo needs"):
        made.plan(hosts(1000, 1000), None, None)


def test_the_trunks_host_keeps_room_for_its_cache() -> None:
    """A share of what is free beside the trunk's weights, no more than can be used; a little where memory is short."""
    without, total = planner(1)
    free = without.trunk_bytes + total

    def left(most_bytes: int, least_bytes: int, *rooms: HostRoom) -> int:
        made = Planner("demo", MANIFEST, "bfloat16", 1, CacheRoom(0.3, most_bytes, least_bytes))
        found, trunks = made.plan(rooms, None, None)
        assert trunks == {"h0"}
        return free - without.trunk_bytes - found.memory["h0"]

    one, two = hosts(free, free)
    assert left(0, 0, one) == 0
    assert left(1 << 60, 0, one, two) >= int(0.3 * total)
    assert left(1 << 60, 0, one) == 0, "experts come first"
    tight = dataclasses.replace(two, free_bytes=total // 4)
    assert int(0.3 * total) > left(1 << 60, total // 5, one, tight) >= total // 5
    with pytest.raises(InsufficientMemory, match="bytes are missing"):
        left(1 << 60, total // 5, one)
    # A trunk that runs has what it has.
    runs = dataclasses.replace(one, runs_trunk=True, serves=True, cache_bytes=total // 2)
    assert left(1 << 60, 0, runs, two) >= total // 2
    assert left(0, 0, dataclasses.replace(runs, cache_bytes=0), two) >= 0


def test_a_plan_as_it_is_by_now_is_left_alone() -> None:
    """What `_repair` has placed stays where it is when the lost host is given up."""
    made, total = planner(1)
    plan, _ = made.plan(hosts(*[4 * total] * 3), None, None)
    shards = made.shards(plan)
    lost = shards.pop("h2")
    shards["h0"] = {layer: shards["h0"][layer] | lost[layer] for layer in lost}
    now = made.as_it_is(plan, shards)
    assert all(holders for layer in now.holders for holders in layer)
    assert made.shards(now)["h0"] == shards["h0"]
    after, _ = made.plan(hosts(4 * total, 4 * total), now, None)
    assert all(made.shards(after)["h1"][layer] >= shards["h1"][layer] for layer in lost)


def test_hot_experts_get_copies_where_nobody_said_how_many() -> None:
    rooms_of = [20_000_000] * 3
    load = [np.ones(layer.num_experts) for layer in MANIFEST.layers]
    for layer in load:
        layer[0] = 60.0
    for replicas in (None, 1):
        made, _ = planner(replicas)
        plan, _ = made.plan(hosts(*rooms_of), None, None)
        assert {len(holders) for layer in plan.holders for holders in layer} == {1}
        assert "Load: not measured yet" in plan.explain()
        assert made.unevenness(hosts(*rooms_of), plan, load) > 1.2
        hot, _ = made.plan(hosts(*rooms_of), plan, load)
        copies = {len(holders) for layer in hot.holders for holders in layer}
        if replicas is None:
            assert max(copies) > 1
            assert made.unevenness(hosts(*rooms_of), hot, load) <= 1.10
        else:
            assert copies == {1}
        assert "Load: as the trunk has counted it of late" in hot.explain()
        assert hot.explain().count("Load: ") == 1


def test_the_load_of_late() -> None:
    measured = MeasuredLoad([2, 2])

    def load() -> list[list[float]]:
        return [layer.tolist() for layer in measured.load or []]

    measured.take("a", [[20, 0], [10, 10]])
    assert measured.load is None, "too little to go by"
    measured.take("a", [[50, 0], [20, 30]])
    assert load() == [[50.0, 0.0], [20.0, 30.0]]
    measured.take("a", [[60, 0], [20, 40]])
    measured.take("a", [[60, 0], [20, 40]])  # an idle minute
    assert load() == [[50.0, 0.0], [20.0, 30.0]]
    measured.take("b", [[0, 40], [40, 0]])  # another trunk counts from 0
    assert load() == [[30.0, 20.0], [30.0, 20.0]]
    measured.take("b", [[0, 32], [32, 0]])  # and so does one that was started again
    assert load() == [[15.0, 26.0], [31.0, 10.0]]
