"""A router's choice as groups: every slot once, in an order that nothing but the choice decides."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.grouping import Groups, group

EXPERTS = 6


def check(found: Groups, index: np.ndarray, wanted: list[int]) -> None:
    """`wanted`: the slots that must be there."""
    flat = index.reshape(-1)
    assert sorted(found.slots.tolist()) == wanted
    assert found.experts == sorted(set(flat[wanted].tolist()))
    assert found.counts == [int((flat[wanted] == expert).sum()) for expert in found.experts]
    assert found.starts == [0, *np.cumsum(found.counts).tolist()]
    for expert, start, stop in zip(found.experts, found.starts, found.starts[1:], strict=False):
        mine = found.slots[start:stop].tolist()
        assert mine == sorted(mine)
        assert all(flat[slot] == expert for slot in mine)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 12), st.integers(1, 4), st.booleans(), st.data())
def test_groups(tokens: int, top_k: int, padded: bool, data: st.DataObject) -> None:
    # Ids outside the experts mean "no expert": some routers give them to tokens that no expert has room for.
    ids = st.integers(-1, EXPERTS) if data.draw(st.booleans()) else st.integers(0, EXPERTS - 1)
    index = np.array(data.draw(st.lists(ids, min_size=tokens * top_k, max_size=tokens * top_k)), dtype=np.int64)
    index = index.reshape(tokens, top_k)
    low = -1 if padded else 0
    owner = np.array(data.draw(st.lists(st.integers(low, 3), min_size=tokens, max_size=tokens)), dtype=np.int32)
    wanted = [
        slot
        for slot, expert in enumerate(index.reshape(-1).tolist())
        if 0 <= expert < EXPERTS and owner[slot // top_k] >= 0
    ]
    check(group(index, owner, EXPERTS, padded=padded), index, wanted)


def test_padding_alone_makes_no_group() -> None:
    index = np.array([[0, 1], [2, 3]], dtype=np.int64)
    found = group(index, np.array([-1, -1], dtype=np.int32), EXPERTS, padded=True)
    assert (found.experts, found.counts, found.starts, found.slots.tolist()) == ([], [], [0], [])


def test_padding_changes_nothing_for_the_others() -> None:
    index = np.array([[0, 5], [4, 0], [5, 1]], dtype=np.int64)
    alone = group(index[[0, 2]], np.array([0, 1], dtype=np.int32), EXPERTS, padded=False)
    padded = group(index, np.array([0, -1, 1], dtype=np.int32), EXPERTS, padded=True)
    assert (padded.experts, padded.counts) == (alone.experts, alone.counts)
