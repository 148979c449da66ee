"""The planner: which worker holds which experts, for workers of unequal memory and speed.

demand.py       what is asked, checked and laid flat
replication.py  how many copies the load asks for
packing.py      where they go: hottest first, within memory, never twice on a worker or (with room) on a machine
split.py        the fraction of its load that each copy takes
refine.py       moves that lower the busiest worker
company.py      experts used together brought together
explain.py      the plan in words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.company import bring_together, pairs_apart
from rios.dmoe.demand import Demand, Problem, Worker, pose
from rios.dmoe.explain import explain
from rios.dmoe.packing import pack, spread_over_machines
from rios.dmoe.refine import refine
from rios.dmoe.replication import extra_copies
from rios.dmoe.split import split
from rios.words.errors import InsufficientMemory, InvalidRequest

__all__ = ["Demand", "Plan", "Worker", "closer", "plan", "unevenness"]

# Bytes are moved for balance only when the busiest worker is this far above the ideal, and then until it is clearly
# below, so that the next small change of load does not move the next expert.
_TOO_UNEVEN = 1.10
_EVEN_AGAIN = 1.07
# A new plan is refined further: its bytes have to be loaded anyway.
_EVEN = 1.03
# An existing plan that memory keeps uneven stays as it is unless a change would gain this much.
_WORTH_MOVING = 0.02
# And it gives way to a new packing, which moves nearly everything, only for this much.
_WORTH_ALL = 0.10
# Experts are loaded for company's sake only where so many more of the pairs that tokens choose would share a worker.
_WORTH_COMPANY = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the experts are. Equal inputs give an equal plan, and as `current` it is returned as it is.

    holders[layer][expert]: names of the workers that hold the expert, in the order of the workers given.
    weights[layer][expert]: the fraction of the expert's load meant for each of these holders; they add up to 1.
    load: worker name -> load in the demand's units. memory: worker name -> bytes of its experts.
    max_over_ideal: the highest load / speed of a worker, over total load / total speed; 1.0 is perfect.
    """

    workers: tuple[Worker, ...]
    replicas: int | None
    holders: tuple[tuple[tuple[str, ...], ...], ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]
    load: dict[str, float]
    memory: dict[str, int]
    max_over_ideal: float
    reasons: tuple[str, ...]
    fingerprint: str

    def __repr__(self) -> str:
        copies = sum(len(holders) for layer in self.holders for holders in layer)
        experts = sum(len(layer) for layer in self.holders)
        return (
            f"<Plan {len(self.holders)} layers, {experts} experts in {copies} copies on {len(self.workers)} workers, "
            f"busiest at {self.max_over_ideal:.2f} of the ideal>"
        )

    def explain(self) -> str:
        """The plan in words: what limits it, how many copies are where and why, and what would not fit."""
        return "\n".join(self.reasons)

    def shard(self, worker: str) -> dict[int, tuple[int, ...]]:
        """layer -> the experts that `worker` holds; layers of which it holds none are left out."""
        shard: dict[int, tuple[int, ...]] = {}
        for index, layer in enumerate(self.holders):
            if experts := tuple(e for e, holders in enumerate(layer) if worker in holders):
                shard[index] = experts
        return shard


def plan(
    workers: Sequence[Worker],
    demand: Demand,
    *,
    replicas: int | None = None,
    least: int = 1,
    current: Plan | None = None,
) -> Plan:
    """Place every expert on the workers.

    replicas: exactly so many copies of each expert, on different workers; None: `least` of each, and more copies of
        those whose load asks for it, as far as memory goes.
    current: the plan in force. Its experts stay where they are, except for what a lost worker, a changed number of
        replicas, missing memory or an imbalance above 10 % makes necessary.

    The busiest worker's load / speed, summed over layers, is brought within 10 % of the ideal where memory allows.
    Raises InvalidRequest (a value out of bounds, fewer workers than replicas), NoWorkers, InsufficientMemory.
    """
    base = replicas or least
    problem = pose(workers, demand, replicas=replicas, least=base)
    if current is not None:
        if current.fingerprint == problem.fingerprint:
            return current
        if [len(layer) for layer in current.holders] != np.diff(problem.first).tolist():
            raise InvalidRequest("the current plan is for other layers or numbers of experts: pass current=None")
    _check_memory(problem, base)
    if current is None:
        assignment = _fresh(problem, base=base, replicas=replicas)
    else:
        try:
            assignment = _adapted(problem, current, base=base, replicas=replicas)
        except InsufficientMemory:
            # What stayed in place left no room for what must come: only a new packing can tell whether it fits.
            assignment = _fresh(problem, base=base, replicas=replicas)
        else:
            assignment = _fresh_if_far_better(problem, assignment, base=base, replicas=replicas)
    return _written(problem, assignment, replicas=replicas, least=base, current=current)


def closer(
    workers: Sequence[Worker], demand: Demand, current: Plan, *, replicas: int | None = None, least: int = 1
) -> Plan | None:
    """`current` with experts of about equal load in each other's places, so that tokens need fewer workers.

    None where that gains little, or where a worker has no room for what comes beside what goes.
    """
    base = replicas or least
    problem = pose(workers, demand, replicas=replicas, least=base)
    now, _ = _held(problem, current)
    if not all(now.holders):
        return None
    then = now.copy()
    bring_together(then)
    if pairs_apart(problem, now) - pairs_apart(problem, then) < _WORTH_COMPANY:
        return None
    coming = [sum(int(problem.size_bytes[e]) for e in new - old) for new, old in zip(then.held, now.held, strict=True)]
    if (now.free_bytes < coming).any():
        return None
    return _written(problem, then, replicas=replicas, least=base, current=current)


def unevenness(workers: Sequence[Worker], demand: Demand, current: Plan) -> float:
    """The highest load / speed of a worker over the ideal, if all that these workers hold by `current` stays there."""
    problem = pose(workers, demand, replicas=None)
    assignment, _ = _held(problem, current)
    if not all(assignment.holders):
        return float("inf")
    return float(split(assignment).levels().max())


def _fresh(problem: Problem, *, base: int, replicas: int | None) -> Assignment:
    extras = extra_copies(problem, base) if replicas is None else []
    assignment = Assignment(problem)
    try:
        pack(assignment, base=base, extras=extras)
    except InsufficientMemory:
        assignment = Assignment(problem)
        pack(assignment, base=base, extras=extras, large_first=True)
    spread_over_machines(assignment)
    assignment, _ = refine(assignment, target=_EVEN, spread=replicas is None)
    bring_together(assignment)
    spread_over_machines(assignment)
    return assignment


def _fresh_if_far_better(problem: Problem, adapted: Assignment, *, base: int, replicas: int | None) -> Assignment:
    """A new packing in place of an adapted one that single changes cannot bring near balance."""
    highest = float(split(adapted).levels().max())
    if highest <= _TOO_UNEVEN:
        return adapted
    fresh = _fresh(problem, base=base, replicas=replicas)
    return fresh if float(split(fresh).levels().max()) <= highest - _WORTH_ALL else adapted


def _adapted(problem: Problem, current: Plan, *, base: int, replicas: int | None) -> Assignment:
    assignment, used = _held(problem, current)
    if replicas is not None:
        _drop_surplus(assignment, replicas)
    _drop_what_no_longer_fits(assignment)
    _make_way(assignment, used, base)
    pack(assignment, base=base)
    spread_over_machines(assignment)
    before = float(split(assignment).levels().max())
    if before > _TOO_UNEVEN:
        refined, copies = refine(assignment, target=_EVEN_AGAIN, spread=replicas is None)
        if before - float(copies.levels().max()) >= _WORTH_MOVING:
            assignment = refined
            spread_over_machines(assignment)
    return assignment


def _held(problem: Problem, current: Plan) -> tuple[Assignment, dict[tuple[int, int], float]]:
    """What the workers of a problem hold by a plan, and the load that each of these copies takes."""
    assignment = Assignment(problem)
    index = {worker.name: at for at, worker in enumerate(problem.workers)}
    used: dict[tuple[int, int], float] = {}
    for expert, (names, weights) in enumerate(
        zip(chain.from_iterable(current.holders), chain.from_iterable(current.weights), strict=True)
    ):
        for name, weight in zip(names, weights, strict=True):
            if name in index:
                assignment.add(expert, index[name])
                used[expert, index[name]] = weight * float(problem.pull[expert])
    return assignment, used


def _drop_surplus(assignment: Assignment, exactly: int) -> None:
    machine = assignment.problem.machine
    for expert, holders in enumerate(assignment.holders):
        while len(holders) > exactly:
            # First a copy that shares its machine, then one on the fullest worker.
            goes = max(
                holders,
                key=lambda w: (assignment.on_machine[expert, machine[w]], -assignment.free_bytes[w], w),
            )
            assignment.remove(expert, goes)


def _drop_what_no_longer_fits(assignment: Assignment) -> None:
    """Workers whose free memory shrank give up spare copies first, then what is least used."""
    problem = assignment.problem
    for worker in np.flatnonzero(assignment.free_bytes < 0).tolist():
        held = sorted(
            assignment.held[worker],
            key=lambda e: (-len(assignment.holders[e]), problem.pull[e], e),
            reverse=True,
        )
        while assignment.free_bytes[worker] < 0:
            assignment.remove(held.pop(), worker)


def _make_way(assignment: Assignment, used: dict[tuple[int, int], float], base: int) -> None:
    """Drop spare copies, the least used first, until experts that lack copies have room in all."""
    size, holders = assignment.problem.size_bytes, assignment.holders
    lacking = sum((base - len(held)) * int(size[e]) for e, held in enumerate(holders) if len(held) < base)
    smallest = max(1, int(size.min()))
    free = int((assignment.free_bytes // smallest).sum()) * smallest
    for expert, worker in sorted(used, key=lambda copy: (used[copy], copy)) if lacking > free else ():
        if len(holders[expert]) > base and worker in holders[expert]:
            assignment.remove(expert, worker)
            free += int(size[expert])
            if lacking <= free:
                return


def _check_memory(problem: Problem, base: int) -> None:
    size, memory = problem.size_bytes, problem.memory_bytes
    copies = "one copy" if base == 1 else f"{base} copies"
    able = np.sort(memory)[-base]
    too_large = int(size.argmax())
    if size[too_large] > able:
        raise InsufficientMemory(
            f"{problem.name(too_large)} has {int(size[too_large])} bytes, but only "
            f"{int((memory >= size[too_large]).sum())} of {len(memory)} workers have as much free (the largest: "
            f"{int(memory.max())} bytes) and {copies} of it need {base}: give the workers more memory"
        )
    need, have = base * int(size.sum()), int(np.minimum(memory, size.sum()).sum())
    if need > have:
        raise InsufficientMemory(
            f"{copies} of all {problem.experts} experts need {need} bytes, but the {len(memory)} workers can use "
            f"{have} bytes: {need - have} bytes are missing; add a worker, give the workers more memory, or ask for "
            "fewer replicas"
        )


def _written(
    problem: Problem,
    assignment: Assignment,
    *,
    replicas: int | None,
    least: int,
    current: Plan | None,
) -> Plan:
    for each in assignment.holders:
        each.sort()
    copies = split(assignment, by_layer=True)
    names = [worker.name for worker in problem.workers]
    holders = [tuple(names[w] for w in held) for held in assignment.holders]
    fraction = copies.fraction.tolist()
    starts = [*copies.starts.tolist(), len(fraction)]
    weights = [tuple(fraction[start:stop]) for start, stop in pairwise(starts)]
    layers = list(pairwise(problem.first))
    load = np.bincount(
        copies.worker, weights=problem.load[copies.expert] * copies.fraction, minlength=len(names)
    ).tolist()
    used = (problem.memory_bytes - assignment.free_bytes).tolist()
    highest = float(copies.levels(problem.load).max())
    return Plan(
        workers=problem.workers,
        replicas=replicas,
        holders=tuple(tuple(holders[start:stop]) for start, stop in layers),
        weights=tuple(tuple(weights[start:stop]) for start, stop in layers),
        load=dict(zip(names, load, strict=True)),
        memory=dict(zip(names, used, strict=True)),
        max_over_ideal=highest if highest > 0 else 1.0,
        reasons=explain(
            problem,
            assignment,
            copies,
            replicas=replicas,
            least=least,
            before=None if current is None else current.holders,
        ),
        fingerprint=problem.fingerprint,
    )
