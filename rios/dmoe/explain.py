"""A plan in words: what was asked, what came of it and what stood in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.company import pairs_apart
from rios.dmoe.demand import Problem
from rios.dmoe.split import Copies

_HOTTEST = 5
_NAMES = 6
_MANY = 10


def explain(
    problem: Problem,
    assignment: Assignment,
    copies: Copies,
    *,
    replicas: int | None,
    least: int = 1,
    before: Sequence[Sequence[Sequence[str]]] | None,
) -> tuple[str, ...]:
    """One sentence or two a line. before: the holders of the plan that this one follows, or None."""
    return (
        *_asked(problem, replicas, least),
        *_copies(problem, assignment, replicas),
        *_balance(problem, assignment, copies),
        *_hottest(problem, copies),
        *_company(problem, assignment),
        *_would_not_fit(problem, assignment),
        *([] if before is None else _changes(problem, assignment, before)),
    )


def _asked(problem: Problem, replicas: int | None, least: int) -> list[str]:
    need, have = int(problem.size_bytes.sum()), int(problem.memory_bytes.sum())
    wish = (
        f"{'one copy' if least == 1 else f'{least} copies'} of each, and more of those whose load asks for it"
        if replicas is None
        else f"exactly {replicas} {'copy' if replicas == 1 else 'copies'} of each, on different workers"
    )
    room = have / max(1, need)
    slowest, fastest = problem.speed.min(), problem.speed.max()
    sizes = (
        f"{_counted(problem.experts, 'expert')} in {_counted(problem.layers, 'layer')}, {bytes_in_words(need)} in all, "
        f"on {_counted(len(problem.workers), 'worker')} (speeds {slowest:.3g} to {fastest:.3g}) "
        f"on {_counted(problem.machines, 'machine')} with {bytes_in_words(have)}: room for "
        f"{f'{room:,.0f}' if room >= _MANY else f'{room:.2f}'} copies of all."
    )
    return [sizes, f"Asked for: {wish}."]


def _copies(problem: Problem, assignment: Assignment, replicas: int | None) -> list[str]:
    numbers = Counter(len(holders) for holders in assignment.holders)
    spread = ", ".join(f"{experts} experts have {count}" for count, experts in sorted(numbers.items()))
    lines = [f"Copies: {spread}; {bytes_in_words(int(assignment.free_bytes.sum()))} stay free."]
    if replicas is None and len(numbers) > 1:
        lines.append(
            "Further copies went to whichever expert had the most load per copy, where that makes its layer slow or "
            "one worker too busy."
        )
    if doubled := assignment.doubled():
        why = (
            "there is only one machine"
            if problem.machines == 1
            else "no other machine has room for what that would take"
        )
        lines.append(f"{len(doubled)} experts are more than once on one machine, since {why}.")
    return lines


def _balance(problem: Problem, assignment: Assignment, copies: Copies) -> list[str]:
    level = copies.levels(problem.load)
    busiest, idlest = int(level.argmax()), int(level.argmin())
    figures = (
        f"Busiest worker: {problem.workers[busiest].name} at {level[busiest]:.2f} of the ideal load for its speed; "
        f"least busy: {problem.workers[idlest].name} at {level[idlest]:.2f}. The slowest worker of a layer takes "
        f"{_slowest_of_layer(problem, copies):.2f} times the layer's ideal on average."
    )
    lines = [figures]
    if level[busiest] > 1.10:
        load = problem.pull[copies.expert] * copies.fraction
        mine = copies.worker == busiest
        alone = mine & (copies.counts[copies.expert] == 1)
        lines.append(
            f"More than 1.10 because {problem.workers[busiest].name} alone holds {int(alone.sum())} of its "
            f"{int(mine.sum())} experts ({load[alone].sum() / max(load[mine].sum(), 1e-300):.0%} of its load), and no "
            "move, copy or swap that memory and the rules allow would lower it."
        )
    return lines


def _slowest_of_layer(problem: Problem, copies: Copies) -> float:
    at = np.bincount(
        problem.layer[copies.expert] * len(problem.workers) + copies.worker,
        weights=problem.pull[copies.expert] * copies.fraction,
        minlength=problem.layers * len(problem.workers),
    ).reshape(problem.layers, -1)
    return float((at / np.outer(problem.layer_ideal, problem.speed)).max(axis=1).mean())


def _hottest(problem: Problem, copies: Copies) -> list[str]:
    if np.ptp(problem.pull) == 0:
        return []  # as where nothing was measured yet
    of_layer = problem.pull / (problem.layer_ideal * problem.speed.sum())[problem.layer]
    lines = []
    for expert in np.argsort(-problem.pull, kind="stable")[:_HOTTEST].tolist():
        start = int(copies.starts[expert])
        holders = range(start, start + int(copies.counts[expert]))
        shares = [f"{problem.workers[copies.worker[at]].name} {copies.fraction[at]:.0%}" for at in holders]
        where = f"shared by {_list(shares)}" if len(shares) > 1 else f"on {problem.workers[copies.worker[start]].name}"
        lines.append(f"Hot: {problem.name(expert)} takes {of_layer[expert]:.1%} of its layer, {where}.")
    return lines


def _company(problem: Problem, assignment: Assignment) -> list[str]:
    if not any(table is not None and table.any() for table in problem.coactivation):
        return []
    shared = 1 - pairs_apart(problem, assignment)
    return [f"Of the pairs of experts that tokens choose together, {shared:.0%} share a worker."]


def _would_not_fit(problem: Problem, assignment: Assignment) -> list[str]:
    lines = []
    free = assignment.free_bytes
    fewest = min(len(holders) for holders in assignment.holders)
    lacking = [e for e, holders in enumerate(assignment.holders) if len(holders) == fewest]
    need = int(problem.size_bytes[lacking].sum())
    if fewest < len(problem.workers) and need > int(free.sum()):
        lines.append(
            f"Would not fit: {fewest + 1} copies of every expert need {bytes_in_words(need)} more, "
            f"{bytes_in_words(int(free.sum()))} are free."
        )
    largest = int(problem.size_bytes.argmax())
    if (size := int(problem.size_bytes[largest])) > free.max():
        lines.append(
            f"Would not fit: another copy of {problem.name(largest)} ({bytes_in_words(size)}); the "
            f"largest free space on one worker is {bytes_in_words(int(free.max()))}."
        )
    return lines


def _changes(problem: Problem, assignment: Assignment, before: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    names = [worker.name for worker in problem.workers]
    old = [set(holders) for layer in before for holders in layer]
    new = [{names[w] for w in holders} for holders in assignment.holders]
    came = [len(now - then) for now, then in zip(new, old, strict=True)]
    loaded = int((np.array(came) * problem.size_bytes).sum())
    kept = sum(len(now & then) for now, then in zip(new, old, strict=True))
    known = set().union(*old)
    lines = [f"Against the plan before: {kept} copies stay, {sum(came)} are loaded ({bytes_in_words(loaded)})."]
    if gone := sorted(known - set(names)):
        lines.append(f"Gone since: {_list(gone)}.")
    if joined := [name for name in names if name not in known]:
        lines.append(f"Without experts before: {_list(joined)}.")
    return lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _list(items: Sequence[str]) -> str:
    more = len(items) - _NAMES
    return ", ".join(items[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def bytes_in_words(count: int) -> str:
    """A number of bytes with the unit that leaves one to three digits before the point."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
