"""A router's choice as groups: which rows go to which expert, in an order that does not depend on hosts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Slots (token, choice) sorted by expert. Group `g` is `slots[starts[g]:starts[g + 1]]`, all of `experts[g]`."""

    experts: list[int]
    counts: list[int]
    starts: list[int]  # one more than there are groups
    slots: Ints  # flat index into [tokens, top_k]


def group(index: Ints, owner: npt.NDArray[np.int32], num_experts: int, *, padded: bool) -> Groups:
    """Group the [tokens, top_k] expert ids. Padding (owner -1) and ids outside the experts are left out."""
    top_k = index.shape[1]
    flat = index.reshape(-1)
    if padded:
        slots = np.flatnonzero(np.repeat(owner >= 0, top_k) & (flat >= 0) & (flat < num_experts))
        chosen = flat[slots]
        order = np.argsort(chosen, kind="stable")
        slots = slots[order]
        chosen = chosen[order]
    else:
        slots = np.argsort(flat, kind="stable")
        chosen = flat[slots]
        if chosen.size and (chosen[0] < 0 or chosen[-1] >= num_experts):
            return group(index, owner, num_experts, padded=True)
    if not chosen.size:
        return Groups([], [], [0], slots)
    edges = np.flatnonzero(chosen[1:] != chosen[:-1]) + 1
    starts = [0, *edges.tolist(), chosen.size]
    experts = [int(chosen[start]) for start in starts[:-1]]
    counts = [stop - start for start, stop in itertools.pairwise(starts)]
    return Groups(experts, counts, starts, slots)
