"""The table of states, and how a deployment comes to its own."""

from __future__ import annotations

import pytest

from rios.deploy.lifecycle import (
    DEPLOYMENT,
    ENDED,
    FIRST,
    LIVING,
    REPLICA,
    Standing,
    State,
    Wish,
    check_step,
    may_follow,
    state_of,
)
from rios.words.errors import InvalidRequest

S = State


@pytest.mark.parametrize(("kind", "table"), [("deployment", DEPLOYMENT), ("replica", REPLICA)])
def test_every_state_is_reached_and_each_life_can_end(kind: str, table: dict[State, frozenset[State]]) -> None:
    reached, edge = {FIRST[kind]}, [FIRST[kind]]
    while edge:
        further = [then for state in edge for then in table[state] if then not in reached]
        reached |= set(further)
        edge = further
    assert reached == table.keys()
    assert kind == "replica" or reached == set(S)
    for state in table:
        ends = {state}
        while not ends & {S.STOPPED, S.FAILED}:
            grown = ends | {then for one in ends for then in table[one]}
            assert grown != ends, f"a {kind} that is {state} can never end"
            ends = grown


def test_a_replica_ends_by_one_door() -> None:
    """Where its process is ended, metered and cleared away."""
    for state in LIVING:
        assert not REPLICA[state] & ENDED
        assert S.STOPPING in REPLICA[state]
    assert not any(REPLICA[state] for state in ENDED)


def test_what_is_not_in_the_table_is_refused_with_what_may_follow() -> None:
    check_step("deployment", "web", S.READY, S.DEGRADED)
    assert not may_follow("replica", S.READY, S.STARTING)
    with pytest.raises(
        InvalidRequest, match=r"deployment web is paused and cannot become ready; .* requested, stopping"
    ):
        check_step("deployment", "web", S.PAUSED, S.READY)
    with pytest.raises(InvalidRequest, match="nothing: it has ended"):
        check_step("replica", "web-1", S.FAILED, S.READY)


def standing(*current: State, **changes: object) -> Standing:
    plain = {"wish": Wish.RUN, "wanted": 2, "others": 0, "settled": False, "ever_settled": False, "reached": 0}
    return Standing(**{**plain, "given_up": False, "current": current, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (standing(), S.REQUESTED),
        (standing(S.SCHEDULED), S.SCHEDULED),
        (standing(S.SCHEDULED, S.PULLING), S.PULLING),
        (standing(S.PULLING, S.STARTING), S.STARTING),
        (standing(S.READY, S.STARTING), S.STARTING),
        (standing(S.READY, S.READY), S.READY),
        (standing(wanted=0), S.READY),
        (standing(S.STARTING, S.READY, settled=True, ever_settled=True, reached=1), S.READY),
        (standing(S.STARTING, S.READY, settled=True, ever_settled=True, reached=2), S.DEGRADED),
        (standing(S.READY, S.READY, ever_settled=True, others=1), S.UPDATING),
        (standing(S.STARTING, ever_settled=True, others=2), S.UPDATING),
        (standing(given_up=True), S.FAILED),
        (standing(S.READY, wish=Wish.PAUSE), S.PAUSED),
        (standing(S.READY, S.READY, out_of_money=True), S.PAUSED),
        (standing(wish=Wish.DELETE, others=1), S.STOPPING),
        (standing(S.READY, wish=Wish.DONE), S.STOPPING),
        (standing(wish=Wish.DELETE), S.STOPPED),
    ],
    ids=str,
)
def test_the_state_follows_from_what_is(now: Standing, state: State) -> None:
    assert state_of(now) is state
