"""Which experts of a layer tokens choose together: counted by the trunk in some of its steps, read by the planner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rios.words.errors import ProtocolError

# Every so many steps the pairs are counted: who goes with whom is a habit of the model, not of the moment, and the
# steps in between pay nothing.
EVERY = 16
# And of a step's tokens no more than these, evenly: a long prompt must not hold the others up.
TOKENS = 64
# Of each expert so many partners are told: all of them would be millions of numbers for a large model.
PARTNERS = 8
# Counted so often on average, the pairs that are told say who goes with whom and not who happened to.
_TELLING = 8

Counts = npt.NDArray[np.int64]
Table = npt.NDArray[np.float64]
Triples = list[list[int]]
"""[expert, a later expert, how often] for some pairs of one layer."""


class Pairs:
    """The counts of one trunk, int [experts, experts] for each layer; symmetric, the diagonal counts choices."""

    def __init__(self, experts: Sequence[int]) -> None:
        self.counts: list[Counts] = [np.zeros((count, count), dtype=np.int64) for count in experts]
        self.counting = False  # whether this step's choices are wanted
        self._steps = 0

    def begin(self) -> None:
        """A step begins."""
        self.counting = self._steps % EVERY == 0
        self._steps += 1

    def take(self, layer: int, index: npt.NDArray[np.int64], owner: npt.NDArray[np.int32]) -> None:
        """Count one layer's choices, [tokens, top_k]. Padding (owner -1) and ids outside the experts are left out."""
        counts = self.counts[layer]
        index = index[owner >= 0]
        index = index[:: -(-len(index) // TOKENS) or 1]
        one, other = index[:, :, None], index[:, None, :]
        known = (one >= 0) & (one < len(counts)) & (other >= 0) & (other < len(counts))
        token, first, second = np.nonzero(known)
        np.add.at(counts, (index[token, first], index[token, second]), 1)

    def strongest(self) -> list[Triples]:
        """The most frequent partners of each expert, each pair once, by layer."""
        return [_strongest(counts) for counts in self.counts]


def _strongest(counts: Counts) -> Triples:
    others = counts.copy()
    np.fill_diagonal(others, 0)
    partners = np.argpartition(-others, min(PARTNERS, len(others)) - 1, axis=1)[:, :PARTNERS]
    kept = np.zeros(others.shape, dtype=bool)
    np.put_along_axis(kept, partners, values=True, axis=1)
    first, second = np.nonzero(np.triu((kept | kept.T) & (others > 0)))
    triples: Triples = np.stack([first, second, others[first, second]], axis=1).tolist()
    return triples


class MeasuredPairs:
    """What trunks have told of the pairs of a deployment's experts, once that is enough to go by."""

    def __init__(self, experts: Sequence[int]) -> None:
        self.tables: list[Table] | None = None
        self._experts = list(experts)
        self._enough = _TELLING * sum(count * min(count - 1, PARTNERS) for count in experts)
        self._used = 0.0

    def take(self, told: Sequence[Triples]) -> None:
        """Take in what a trunk has counted since its start. Raises `ProtocolError` where it makes no sense."""
        try:
            tables = [_table(triples, count) for triples, count in zip(told, self._experts, strict=True)]
        except (LookupError, OverflowError, TypeError, ValueError) as error:
            raise ProtocolError(f"pairs of experts that cannot be read: {error!r}") from error
        if sum(table.sum() for table in tables) >= self._enough:  # a trunk that has just begun says little
            self.tables = tables

    def news(self) -> bool:
        """Whether four times as much is known as when this was last true: experts then move a few times, not always."""
        known = sum(float(table.sum()) for table in self.tables or ())
        if not known or known < 4 * self._used:
            return False
        self._used = known
        return True


def _table(triples: Triples, experts: int) -> Table:
    """Symmetric, float [experts, experts]; 0 where nothing was told."""
    table = np.zeros((experts, experts))
    first, second, often = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    if first.size and min(first.min(), second.min(), often.min()) < 0:
        raise ValueError("an expert or a count is negative")
    table[first, second] = table[second, first] = often
    return table
