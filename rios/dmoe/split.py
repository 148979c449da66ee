"""The fraction of an expert's load that each of its holders should take, so that the busiest worker is least busy.

Minimising the sum over workers of load^2 / speed under "the fractions of an expert add up to 1" also gives the least
possible maximum of load / speed (the base of a polymatroid that is least in one separable convex sense is least in all:
Fujishige, "Lexicographically optimal base of a polymatroid", 1980). It is solved by multiplicative steps: a holder that
is busier than the expert's other holders loses, all experts at once.
"""

from __future__ import annotations

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.demand import Floats

# Good enough: below this the figure is dominated by how the load of the next minute differs from the one measured.
_EVEN = 1.01
_STEPS = 150
_STEP = 0.8
# How much each layer's own evenness may count beside that of the sum over layers: the most that leaves the sum even.
_LAYER_WEIGHTS = (3.0, 1.0, 0.3, 0.1, 0.03)
_EVEN_WITH_LAYERS = 1.06


class Copies:
    """All copies in one flat order (expert by expert, holders as they stand), and the fractions that go with them."""

    def __init__(self, assignment: Assignment) -> None:
        holders = assignment.holders
        self.problem = assignment.problem
        self.counts = np.fromiter((len(h) for h in holders), dtype=np.int64, count=len(holders))
        self.starts = np.concatenate(([0], np.cumsum(self.counts)[:-1]))
        self.expert = np.repeat(np.arange(len(holders)), self.counts)
        self.worker = np.fromiter((w for h in holders for w in h), dtype=np.int64, count=int(self.counts.sum()))
        self.fraction: Floats = self._each_expert_to_one(self.problem.speed[self.worker])

    def levels(self, load: Floats | None = None) -> Floats:
        """float [workers]: load / speed of each worker, 1.0 for the ideal. Goes by `pull` unless `load` is given."""
        problem = self.problem
        pull = problem.pull if load is None else load
        total = np.bincount(self.worker, weights=pull[self.expert] * self.fraction, minlength=len(problem.workers))
        ideal = float(pull.sum() / problem.speed.sum())
        return total / (problem.speed * ideal) if ideal > 0 else np.zeros_like(total)

    def _each_expert_to_one(self, amounts: Floats) -> Floats:
        return amounts / np.add.reduceat(amounts, self.starts)[self.expert]


def split(assignment: Assignment, *, by_layer: bool = False) -> Copies:
    """Fractions for the copies as they are placed: a function of the placement alone, whatever came before.

    by_layer: among fractions that keep the sum over layers even, look for those that make each layer even too.
    """
    copies = Copies(assignment)
    if (copies.counts > 1).any():
        for layer_weight in _LAYER_WEIGHTS if by_layer else ():
            fraction, highest = _descend(copies, layer_weight)
            if highest <= _EVEN_WITH_LAYERS:
                break
        else:
            fraction, _ = _descend(copies, 0.0)
        copies.fraction = fraction
    return copies


def _descend(copies: Copies, layer_weight: float) -> tuple[Floats, float]:
    """Fractions after the steps, and the highest level they give. With layer_weight 0, the best of all the steps."""
    problem = copies.problem
    workers = len(problem.workers)
    several = copies.counts[copies.expert] > 1
    expert, worker = copies.expert[several], copies.worker[several]
    counts = copies.counts[copies.counts > 1]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    group = np.repeat(np.arange(len(counts)), counts)
    per_level = problem.speed * problem.ideal
    pull = problem.pull[expert]
    alone = np.where(several, 0.0, problem.pull[copies.expert] * copies.fraction)
    fixed = np.bincount(copies.worker, weights=alone, minlength=workers)
    place = problem.layer[expert] * workers + worker
    layer_fixed = np.bincount(
        problem.layer[copies.expert] * workers + copies.worker,
        weights=alone,
        minlength=problem.layers * workers,
    )
    per_layer_level = np.outer(problem.layer_ideal, problem.speed)
    fraction = copies.fraction[several]
    best, lowest = fraction, np.inf
    for _ in range(_STEPS):
        load = pull * fraction
        level = (fixed + np.bincount(worker, weights=load, minlength=workers)) / per_level
        highest = float(level.max())
        if highest < lowest or layer_weight:
            best, lowest = fraction, highest
        if highest <= _EVEN and not layer_weight:
            break
        busy = level[worker]
        if layer_weight:
            at = layer_fixed + np.bincount(place, weights=load, minlength=problem.layers * workers)
            by_layer = at.reshape(problem.layers, workers) / per_layer_level
            by_layer *= layer_weight / np.maximum(1.0, by_layer.max(axis=1, keepdims=True))
            busy = (busy + by_layer.ravel()[place]) / (1.0 + layer_weight)
        # Holders below the mean of their expert's holders gain. A step of 1 would overshoot where two workers share
        # all that they hold; the mean weighted by fractions keeps a holder that takes nothing from setting the pace.
        mean = np.add.reduceat(busy * fraction, starts)[group]
        moved = fraction * np.exp(_STEP * (mean - busy))
        fraction = moved / np.add.reduceat(moved, starts)[group]
    result = copies.fraction.copy()
    result[several] = best
    return result, lowest
