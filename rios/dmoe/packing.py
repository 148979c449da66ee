"""Putting copies of experts on workers: hottest first, each where the work would end soonest, within memory.

The greedy of EPLB's balanced packing (DeepSeek-AI, github.com/deepseek-ai/EPLB), for workers of unequal memory and
speed: "least loaded" is load over speed, and a worker is full when its bytes are, not when its slots are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.demand import Floats
from rios.words.errors import InsufficientMemory

# A worker this much above the best choice, in parts of the ideal load, may still be taken where it holds experts that
# are used together with the one being placed.
_COMPANY_WORTH = 0.02

# Searches for a swap that found none, after which no more are tried: each looks at every expert on every worker.
_FAILURES = 64


def pack(assignment: Assignment, *, base: int, extras: Sequence[int] = (), large_first: bool = False) -> None:
    """Add holders until every expert has `base` of them, then one for each of `extras` in turn while there is room.

    large_first: the largest before the hottest, which finds room where sizes differ and memory is tight.
    Raises InsufficientMemory, with the assignment left half done, when some expert cannot get its `base` copies.
    """
    problem = assignment.problem
    size = problem.size_bytes if large_first else np.zeros_like(problem.size_bytes)
    order = np.lexsort((problem.layer, -problem.pull, -size)).tolist()
    levels = _Levels(assignment)
    waiting: list[int] = []
    # All first copies before any second one: what is hot must be able to go to the fast while those have room, and
    # a slow worker should fill up with copies that others can serve, not with experts that it alone holds.
    for number in range(1, base + 1):
        lacking = (expert for expert in order if len(assignment.holders[expert]) < number)
        waiting.extend(expert for expert in lacking if not levels.place(expert))
    _squeeze_in(assignment, waiting, base)
    for expert in extras:
        levels.place(expert)


def spread_over_machines(assignment: Assignment) -> None:
    """Where one machine holds an expert twice and another has room or can make some, move one copy there."""
    problem = assignment.problem
    failures = 0
    progress = problem.machines > 1
    while progress:
        progress = False
        for expert in assignment.doubled():
            on_machine = assignment.on_machine[expert, problem.machine]
            twice = [w for w in assignment.holders[expert] if on_machine[w] > 1]
            found = _into_free_room(assignment, expert, strict=True)
            if not found and failures < _FAILURES:
                found = _swap_in(assignment, expert, strict=True)
                failures += not found
            if not found:
                continue
            assignment.remove(expert, twice[-1])
            progress = True


class _Levels:
    """How busy each worker would be, in all and in each layer; 1.0 is the ideal.

    An expert's holders are taken to share its load by their speeds, so that it raises the level of each by the same.
    """

    def __init__(self, assignment: Assignment) -> None:
        problem = assignment.problem
        self.assignment = assignment
        self.total: Floats = np.zeros(len(problem.workers))
        self.by_layer: Floats = np.zeros((problem.layers, len(problem.workers)))
        self.holding_speed: Floats = np.zeros(problem.experts)
        self.layer_unit: Floats = problem.ideal / problem.layer_ideal
        # A layer can be even only where a worker holds several of its experts; with fewer experts than workers, asking
        # for it would cost the balance of the sum.
        self.layer_matters: Floats = np.minimum(1.0, np.diff(problem.first) / (4.0 * len(problem.workers)))
        for expert, holders in enumerate(assignment.holders):
            for at in range(len(holders)):
                self._share(expert, holders[:at], holders[at])

    def place(self, expert: int) -> bool:
        """Put one more copy where it costs least; False where none has room."""
        worker = self._best_for(expert)
        if worker is None:
            return False
        self._share(expert, self.assignment.holders[expert], worker)
        self.assignment.add(expert, worker)
        return True

    def _share(self, expert: int, holders: list[int], newcomer: int) -> None:
        problem = self.assignment.problem
        layer = problem.layer[expert]
        pull = problem.pull[expert] / problem.ideal
        before = self.holding_speed[expert]
        after = self.holding_speed[expert] = before + problem.speed[newcomer]
        if holders:
            relief = pull / before - pull / after
            self.total[holders] -= relief
            self.by_layer[layer, holders] -= relief * self.layer_unit[layer]
        self.total[newcomer] += pull / after
        self.by_layer[layer, newcomer] += pull / after * self.layer_unit[layer]

    def _best_for(self, expert: int) -> int | None:
        assignment = self.assignment
        problem = assignment.problem
        layer = problem.layer[expert]
        matters = self.layer_matters[layer]
        pull = problem.pull[expert] / problem.ideal * (1.0 + matters * self.layer_unit[layer])
        score = pull / (problem.speed + self.holding_speed[expert])
        score += self.total
        score += matters * self.by_layer[layer]
        score[assignment.free_bytes < problem.size_bytes[expert]] = np.inf
        holders = assignment.holders[expert]
        if holders:
            score[holders] = np.inf
            if problem.machines < len(problem.workers):
                elsewhere = np.where(assignment.machine_free(expert), score, np.inf)
                if np.isfinite(elsewhere.min()):
                    score = elsewhere
        worker = int(score.argmin())
        if not np.isfinite(score[worker]):
            return None
        return self._in_company(expert, score, worker)

    def _in_company(self, expert: int, score: Floats, best: int) -> int:
        """Among the workers about as good as `best`, the one whose experts serve the same tokens most often."""
        problem = self.assignment.problem
        layer = int(problem.layer[expert])
        together = problem.coactivation[layer]
        if together is None:
            return best
        start, stop = problem.first[layer], problem.first[layer + 1]
        company = np.zeros(len(problem.workers))
        for other, count in zip(range(start, stop), together[expert - start].tolist(), strict=True):
            for worker in self.assignment.holders[other]:
                company[worker] += count
        near = score <= score[best] + _COMPANY_WORTH * (1.0 + self.layer_matters[layer])
        company[~near] = -1.0
        company[best] += 1e-12  # a tie goes to the least loaded
        return int(company.argmax())


def _squeeze_in(assignment: Assignment, waiting: list[int], base: int) -> None:
    """One more holder for each of `waiting`: into free room, in place of a spare copy, or by moving another expert."""
    while waiting:
        left = [
            expert
            for expert in waiting
            if not _into_free_room(assignment, expert, strict=True)
            and not _into_free_room(assignment, expert, strict=False)
        ]
        for tried, expert in enumerate(left):
            if tried == _FAILURES:
                raise InsufficientMemory(_no_room(assignment, left))
            if (
                _instead_of_a_spare(assignment, expert, base)
                or _swap_in(assignment, expert, strict=True)
                or _swap_in(assignment, expert, strict=False)
            ):
                left.pop(tried)
                break
        else:
            if left:
                raise InsufficientMemory(_no_room(assignment, left))
        waiting = left


def _into_free_room(assignment: Assignment, expert: int, *, strict: bool) -> bool:
    allowed = assignment.free_bytes >= assignment.problem.size_bytes[expert]
    allowed[assignment.holders[expert]] = False
    if strict:
        allowed &= assignment.machine_free(expert)
    targets = np.flatnonzero(allowed)
    if len(targets) == 0:
        return False
    assignment.add(expert, int(targets[np.argmax(assignment.free_bytes[targets])]))
    return True


def _instead_of_a_spare(assignment: Assignment, expert: int, base: int) -> bool:
    problem = assignment.problem
    spares = [e for e, holders in enumerate(assignment.holders) if len(holders) > base]
    spares.sort(key=lambda e: (problem.pull[e] / len(assignment.holders[e]), e))
    free, size = assignment.free_bytes, problem.size_bytes
    for strict in (True, False):
        for spare in spares:
            for worker in assignment.holders[spare]:
                fits = free[worker] + size[spare] >= size[expert]
                if fits and _takes(assignment, expert, worker, strict=strict):
                    assignment.remove(spare, worker)
                    assignment.add(expert, worker)
                    return True
    return False


def _swap_in(assignment: Assignment, expert: int, *, strict: bool) -> bool:
    """Move another expert into free room elsewhere, and `expert` into its place.

    With experts of one size and k copies of each this finds a place whenever one exists: room is left on u, where
    `expert` is already. Some g is not on u (or u is truly full); if all k holders of g held `expert` too, it would have
    k + 1 copies with u's. So a holder of g takes `expert`, and g goes to u. The same holds for machines in place of
    workers, which is what `strict` asks for.
    """
    for moved, source, target in _moves(assignment, strict=strict):
        size = assignment.problem.size_bytes
        fits = assignment.free_bytes[source] + size[moved] >= size[expert]
        if moved != expert and fits and _takes(assignment, expert, source, strict=strict):
            assignment.move(moved, source, target)
            assignment.add(expert, source)
            return True
    return False


def _moves(assignment: Assignment, *, strict: bool) -> Iterator[tuple[int, int, int]]:
    """All moves (expert, source, target) into free room, the emptiest target first."""
    problem = assignment.problem
    for target in np.argsort(-assignment.free_bytes, kind="stable").tolist():
        able = problem.size_bytes <= assignment.free_bytes[target]
        if strict:
            able &= assignment.on_machine[:, problem.machine[target]] == 0
        able[list(assignment.held[target])] = False
        for expert in np.flatnonzero(able).tolist():
            for source in tuple(assignment.holders[expert]):
                yield expert, source, target


def _takes(assignment: Assignment, expert: int, worker: int, *, strict: bool) -> bool:
    if strict:
        return assignment.may_move(expert, None, worker)
    return expert not in assignment.held[worker]


def _no_room(assignment: Assignment, waiting: list[int]) -> str:
    problem = assignment.problem
    expert = max(waiting, key=lambda e: int(problem.size_bytes[e]))
    return (
        f"{len(waiting)} copies of experts find no room, among them {problem.name(expert)} with "
        f"{int(problem.size_bytes[expert])} bytes; the largest free space on one worker is "
        f"{int(assignment.free_bytes.max())} bytes and all workers together have {int(assignment.free_bytes.sum())} "
        "bytes left: add a worker, give the workers more memory, or ask for fewer replicas"
    )
