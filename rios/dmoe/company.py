"""Few hosts per token: experts that serve the same tokens come together, where balance does not pay for it.

Two experts of one layer with about the same load change places when more of the pairs that tokens choose together then
share a worker. Grouping by co-activation is the idea of GRACE-MoE (arXiv 2509.25041) and ExFlow (arXiv 2401.08383);
swaps of equals, as in Kernighan and Lin's graph partitioning, keep the balance that the packing reached.
"""

from __future__ import annotations

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.demand import Floats, Problem
from rios.dmoe.split import Copies, split

# How much a swap may change one worker's share of a layer, and how high its sum may get, in parts of the ideal.
_LAYER_SLACK = 0.03
_HIGHEST = 1.05
_ROUNDS = 24


def bring_together(assignment: Assignment) -> None:
    """Swap experts in place, layer by layer, for the layers with co-activation counts."""
    problem = assignment.problem
    if not any(table is not None for table in problem.coactivation):
        return
    copies = split(assignment)
    level = copies.levels()
    highest = max(_HIGHEST, float(level.max()))
    for layer, together in enumerate(problem.coactivation):
        if together is not None:
            _Layer(assignment, copies, layer, together).improve(level, highest)


def pairs_apart(problem: Problem, assignment: Assignment) -> float:
    """The part of all co-activated pairs whose two experts share no worker; 0.0 without counts."""
    apart = total = 0.0
    for layer, together in enumerate(problem.coactivation):
        if together is not None:
            holds = _presence(assignment, layer)
            apart += float(together[holds @ holds.T == 0].sum())
            total += float(together.sum())
    return apart / total if total else 0.0


class _Layer:
    def __init__(self, assignment: Assignment, copies: Copies, layer: int, together: Floats) -> None:
        problem = assignment.problem
        self.assignment, self.layer, self.together = assignment, layer, together
        self.start, stop = problem.first[layer], problem.first[layer + 1]
        mine = np.flatnonzero((copies.expert >= self.start) & (copies.expert < stop))
        self.expert = copies.expert[mine]
        self.worker = copies.worker[mine].copy()
        self.load: Floats = problem.pull[self.expert] * copies.fraction[mine]

    def improve(self, level: Floats, highest: float) -> None:
        for _ in range(_ROUNDS):
            gain = self._gains()
            gain[~self._allowed(level, highest)] = 0.0
            if not self._swap_best(gain, level):
                return

    def _gains(self) -> Floats:
        """[copies, copies]: co-activation that shares a worker after the two changed places, minus before."""
        row = self.expert - self.start
        company = self.together @ _presence(self.assignment, self.layer)  # [experts, workers]
        there = company[row][:, self.worker]  # of copy i with what is on the worker of copy j
        here = np.diagonal(there)
        gains: Floats = there + there.T - here[:, None] - here[None, :] - 2.0 * self.together[row][:, row]
        return gains

    def _allowed(self, level: Floats, highest: float) -> np.ndarray:
        problem = self.assignment.problem
        machine = problem.machine[self.worker]
        on = self.assignment.on_machine[self.expert][:, machine].astype(np.int64)
        on -= machine[:, None] == machine[None, :]
        size = problem.size_bytes[self.expert]
        more = self.load[None, :] - self.load[:, None]  # what the worker of copy i gets in addition
        per_load = 1.0 / problem.speed[self.worker]
        after = level[self.worker][:, None] + more * per_load[:, None] / problem.ideal
        layer_slack = np.abs(more) * per_load[:, None] <= _LAYER_SLACK * problem.layer_ideal[self.layer]
        fits = size[None, :] - size[:, None] <= self.assignment.free_bytes[self.worker][:, None]
        one_way = (on == 0) & (after <= highest) & layer_slack & fits
        both_ways: np.ndarray = one_way & one_way.T & (self.worker[:, None] != self.worker[None, :])
        return both_ways

    def _swap_best(self, gain: Floats, level: Floats) -> int:
        """The best swaps that touch no worker twice, so that the gains computed for them still hold."""
        problem = self.assignment.problem
        touched: set[int] = set()
        made = 0
        better = np.flatnonzero(gain > 1e-9)
        for at in better[np.argsort(-gain.ravel()[better], kind="stable")].tolist():
            i, j = divmod(at, len(self.expert))
            a, b = int(self.worker[i]), int(self.worker[j])
            if i > j or a in touched or b in touched:
                continue
            touched.update((a, b))
            self.assignment.remove(int(self.expert[i]), a)
            self.assignment.move(int(self.expert[j]), b, a)
            self.assignment.add(int(self.expert[i]), b)
            more = float(self.load[j] - self.load[i])
            level[a] += more / (problem.speed[a] * problem.ideal)
            level[b] -= more / (problem.speed[b] * problem.ideal)
            self.worker[i], self.worker[j] = b, a
            made += 1
            if len(touched) >= len(problem.workers) - 1:
                break
        return made


def _presence(assignment: Assignment, layer: int) -> Floats:
    """float [experts, workers] of a layer: 1.0 where the worker holds the expert."""
    problem = assignment.problem
    start, stop = problem.first[layer], problem.first[layer + 1]
    holds = np.zeros((stop - start, len(problem.workers)))
    for expert in range(start, stop):
        holds[expert - start, assignment.holders[expert]] = 1.0
    return holds
