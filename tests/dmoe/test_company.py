"""Few hosts per token: a plan in force is changed for experts that are chosen together, where that is worth it."""

from __future__ import annotations

import time

import numpy as np
import pytest

import rios
from rios.dmoe import pairs
from rios.dmoe.placement import Demand, Plan, closer, plan
from tests.dmoe.test_placement import SIZE, check, clusters, fleet, pairs_together, zipf
from tests.waiting import PATIENCE

DEADLINE_S = 90.0


@pytest.mark.parametrize("replicas", [1, 2, None])
def test_an_even_plan_comes_closer_and_keeps_the_rules(replicas: int | None) -> None:
    alone, tables = zipf(4, 32, seed=2), clusters(4, 32, 4)
    workers = fleet(6, slots=90)
    demand = Demand(alone.expert_bytes, alone.load, tables)
    before = plan(workers, alone, replicas=replicas)
    after = closer(workers, demand, before, replicas=replicas)
    assert after is not None
    check(after, workers, demand, replicas)
    assert pairs_together(after, tables) >= pairs_together(before, tables) + 0.05
    assert after.max_over_ideal <= 1.10
    for then, now in zip(before.holders, after.holders, strict=True):
        assert [len(names) for names in then] == [len(names) for names in now]
    assert "share a worker" in after.explain()
    assert "Against the plan before" in after.explain()
    assert closer(workers, demand, after, replicas=replicas) is None, "it does not go on and on"


def test_what_is_not_worth_it_stays() -> None:
    """No habit to follow, no room beside what goes, or a worker that has gone."""
    alone, tables = zipf(4, 32, seed=2), clusters(4, 32, 4)
    demand = Demand(alone.expert_bytes, alone.load, tables)
    roomy = fleet(4, slots=90)
    before = plan(roomy, alone, replicas=1)
    assert closer(roomy, demand, before, replicas=1) is not None
    anybody = [np.ones((32, 32)) for _ in range(4)]
    assert closer(roomy, Demand(alone.expert_bytes, alone.load, anybody), before, replicas=1) is None
    tight = fleet(4, slots=max(before.memory.values()) / SIZE)
    assert closer(tight, demand, before, replicas=1) is None
    assert closer(roomy[1:], demand, before, replicas=1) is None


def test_a_model_that_is_used_comes_closer_and_no_token_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model's own habits, counted by its trunk while it answers, on two hosts with one copy."""
    monkeypatch.setattr(pairs, "_TELLING", 1)  # the habits of these prompts are enough
    assert any(_comes_closer() for _ in range(8)), "the first plan left nothing to gain, eight times"


def _comes_closer() -> bool:
    """Whether a network's first plan left something to gain, which was gained then. It follows the speeds that hosts
    measured of themselves: of eleven, nine began at 0.38 to 0.48 and came to 0.54 to 0.64, one stayed at 0.54."""
    begun = ("It was a fine morning,", "And the LORD said unto Moses", "Emma was not", "The children of Israel")
    prompts = [f"{begin} {after}" for begin in begun for after in ("and", "which", "the", "she", "they", "that")]
    params = {"max_new_tokens": 16, "ignore_eos": True}
    with (
        # Only company moves experts: however uneven the load of these prompts is, it does not.
        rios.local(workers=2, threads=1, replan_interval_s=0.2, replan_above=100) as net,
        net.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False) as model,
    ):
        kept = model._deployment
        before: Plan = kept.plan
        expected = [answer.token_ids for answer in model.generate(prompts, **params)]
        deadline = time.monotonic() + DEADLINE_S * PATIENCE
        while True:
            settled = all(member.settled for member in kept.members.values())
            tables = kept._pairs.tables
            if tables is not None:
                if pairs_together(before, tables) > 0.5:
                    return False
                # A first plan may follow the habits of a few tokens; those that come after it follow more.
                if settled and pairs_together(kept.plan, tables) > pairs_together(before, tables) + 0.05:
                    break
            assert time.monotonic() < deadline, "it came no closer"
            assert [answer.token_ids for answer in model.generate(prompts, **params)] == expected
        assert "share a worker" in model.placement.explain()
        assert [answer.token_ids for answer in model.generate(prompts, **params)] == expected
    return True
