"""Lowering the busiest worker by a few moves, copies and swaps of experts, one at a time.

Used to finish a packing, where memory forced cold experts onto slow workers, and to bring an existing placement back
into balance with as few bytes moved as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rios.dmoe.assignment import Assignment
from rios.dmoe.demand import Floats, Ints
from rios.dmoe.split import Copies, split

# Pairs of workers compared in all, at about 0.15 ms each: what is not even by then is kept uneven by memory.
_LOOKS = 16_000
# The least busy workers to look at, and how many more where those offer nothing.
_DESTINATIONS = 6
_MORE_DESTINATIONS = 96
# Workers that nothing relieves, after which a round ends: the busiest of them sets the figure anyway.
_STUCK = 12
# Levels are in parts of the ideal: what a round must gain, the gap between two workers below which they are let be,
# and the least that one change must gain (experts may be small, and many then go together).
_ROUND_GAIN = 0.0005
_GAP = 0.002
_GAIN = 1e-5
# Of the experts of a worker that may be swapped, so many are looked at, from the hottest to the coldest.
_SWAPPABLE = 160
# Where one change closes less than this part (1 over it) of the gap, many like it are made at once.
_MANY = 8
# How much an evener layer, a second transfer and a gain in the sum weigh against each other.
_LAYER_WORTH = 0.02
_SWAP_COST = 0.005


@dataclass(frozen=True, slots=True)
class _Change:
    value: float
    expert: int
    target: int
    amount: float  # load that goes from source to target
    kind: str  # "move", "copy" or "swap"
    back: int = -1  # the expert that comes back in a swap


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """What one worker holds: the experts, the load of each there, and the worker's level in each layer."""

    experts: Ints
    loads: Floats
    by_layer: Floats


def refine(assignment: Assignment, *, target: float, spread: bool) -> tuple[Assignment, Copies]:
    """An assignment whose busiest worker is at most `target` times the ideal, or as near as single changes lead.

    spread: an expert may get further copies (where it must have an exact number of them, it may not).
    """
    best, best_split = assignment, split(assignment)
    lowest = float(best_split.levels().max())
    trial, trial_split = assignment, best_split
    looks = _LOOKS
    while lowest > target and looks > 0:
        trial = trial.copy()
        around = _Round(trial, trial_split, spread=spread, looks=looks)
        if not around.run(target):
            break
        looks = around.looks
        trial_split = split(trial)
        highest = float(trial_split.levels().max())
        if highest >= lowest - _ROUND_GAIN:
            break
        best, best_split, lowest = trial, trial_split, highest
    return best, best_split


class _Round:
    """Changes made with the fractions of one split; those that a change touches are estimated, not solved anew."""

    def __init__(self, assignment: Assignment, copies: Copies, *, spread: bool, looks: int) -> None:
        self.assignment = assignment
        self.problem = assignment.problem
        self.spread = spread
        self.looks = looks
        self.level = copies.levels()
        self.per_load = 1.0 / (self.problem.speed * self.problem.ideal)
        load = (self.problem.pull[copies.expert] * copies.fraction).tolist()
        self.pieces: dict[int, _Pieces] = {}
        self.share: list[dict[int, float]] = [{} for _ in range(self.problem.experts)]
        for expert, worker, amount in zip(copies.expert.tolist(), copies.worker.tolist(), load, strict=True):
            self.share[expert][worker] = amount

    def run(self, target: float) -> int:
        """The number of changes made."""
        made = 0
        stuck: list[int] = []
        for _ in range(4 * len(self.level) + 64):
            level = self.level.copy()
            level[stuck] = -1.0
            source = int(level.argmax())
            if level[source] <= target or len(stuck) == _STUCK or self.looks <= 0:
                break
            changes: list[_Change] = []
            for targets in self._targets():
                changes = changes or list(self._changes(source, targets))
            if changes:
                change = min(changes, key=lambda change: change.value)
                self._apply(source, change)
                made += 1 + self._more_like(source, change)
            else:
                stuck.append(source)
        return made

    def _targets(self) -> Iterator[list[int]]:
        """Workers to relieve others: the least busy, those with room among the less busy, and then some more."""
        order = np.argsort(self.level, kind="stable")
        room = self.assignment.free_bytes[order] >= self.problem.size_bytes.min()
        with_room = order[room][:_DESTINATIONS].tolist()
        first = order[:_DESTINATIONS].tolist()
        yield first + [worker for worker in with_room if worker not in first]
        yield order[_DESTINATIONS:_MORE_DESTINATIONS].tolist()

    def _changes(self, source: int, targets: list[int]) -> Iterator[_Change]:
        """The best move, copy and swap with each of the targets, where they relieve the source."""
        for target in targets:
            self.looks -= 1
            gap = float(self.level[source] - self.level[target])
            if target == source or gap <= _GAP:
                continue
            wish = self._wish(source, target)
            experts, loads = self._movable(source, target)
            if len(experts) == 0:
                continue
            gain = self._layer_gain(experts, source, target)
            room = self.problem.size_bytes[experts] <= self.assignment.free_bytes[target]
            for kind, change in self._one_way(room, loads, wish, experts, target):
                value = self._value(source, target, change) - gain
                value[~(room if kind == "move" else room & self._copyable(experts, target))] = np.inf
                yield from self._pick(source, kind, value, experts, change, target)
            yield from self._swap(source, target, experts, loads, gain)

    def _one_way(
        self, room: np.ndarray, loads: Floats, wish: float, experts: Ints, target: int
    ) -> Iterator[tuple[str, Floats]]:
        if room.any():
            yield "move", loads
            if self.spread:
                yield "copy", np.minimum(loads, wish)

    def _swap(self, source: int, target: int, experts: Ints, loads: Floats, gain: Floats) -> Iterator[_Change]:
        theirs, their_loads = self._movable(target, source)
        if len(theirs) == 0:
            return
        some, others = _some(loads), _some(their_loads)
        experts, loads, gain = experts[some], loads[some], gain[some]
        theirs, their_loads = theirs[others], their_loads[others]
        size, free = self.problem.size_bytes, self.assignment.free_bytes
        amount = loads[:, None] - their_loads[None, :]
        value = self._value(source, target, amount) + _SWAP_COST - gain[:, None]
        value -= self._layer_gain(theirs, target, source)[None, :]
        grows = size[experts][:, None] - size[theirs][None, :]
        value[(grows > free[target]) | (-grows > free[source])] = np.inf
        row, column = np.unravel_index(int(value.argmin()), value.shape)
        back = int(theirs[column])
        yield from self._pick(
            source,
            "swap",
            value[row : row + 1, column],
            experts[row : row + 1],
            amount[row : row + 1, column],
            target,
            back,
        )

    def _more_like(self, source: int, first: _Change) -> int:
        """Where the first change closed little of the gap, more of its kind at once: the hottest that still help."""
        target = first.target
        wish = self._wish(source, target)
        if wish < _MANY * first.amount:
            return 0
        experts, loads = self._movable(source, target)
        theirs, their_loads = self._movable(target, source)
        allowed = self._copyable(experts, target) if first.kind == "copy" else np.ones(len(experts), dtype=bool)
        hottest = [at for at in np.argsort(-loads, kind="stable").tolist() if allowed[at]]
        coldest = iter(np.argsort(their_loads, kind="stable").tolist())
        size, free = self.problem.size_bytes, self.assignment.free_bytes
        made = 0
        for at in hottest:
            expert, amount, back, grows = int(experts[at]), float(loads[at]), -1, int(size[experts[at]])
            if amount > wish:
                continue
            if first.kind == "swap":
                other = next(coldest, None)
                if other is None or their_loads[other] >= amount:
                    break
                back = int(theirs[other])
                amount -= float(their_loads[other])
                grows -= int(size[back])
            if amount <= 0.0 or wish <= 0.0:
                break
            if grows <= free[target] and -grows <= free[source]:
                self._apply(source, _Change(0.0, expert, target, amount, first.kind, back))
                wish -= amount
                made += 1
        return made

    def _wish(self, source: int, target: int) -> float:
        """The load that would have to go from source to target to make both equally busy."""
        return float((self.level[source] - self.level[target]) / (self.per_load[source] + self.per_load[target]))

    def _pick(
        self,
        source: int,
        kind: str,
        value: Floats,
        experts: Ints,
        amount: Floats,
        target: int,
        back: int = -1,
    ) -> Iterator[_Change]:
        at = int(value.argmin())
        after = float(self._value(source, target, amount[at : at + 1])[0])
        if np.isfinite(value[at]) and after < self.level[source] - _GAIN:
            yield _Change(float(value[at]), int(experts[at]), target, float(amount[at]), kind, back)

    def _value(self, source: int, target: int, amount: Floats) -> Floats:
        """The busier one of the two after `amount` of load went from source to target."""
        after: Floats = np.maximum(
            self.level[source] - amount * self.per_load[source],
            self.level[target] + amount * self.per_load[target],
        )
        return after

    def _pieces(self, worker: int) -> _Pieces:
        """What the worker holds; kept until a change touches the worker."""
        pieces = self.pieces.get(worker)
        if pieces is None:
            problem = self.problem
            held = sorted(self.assignment.held[worker])
            experts = np.array(held, dtype=np.int64)
            loads = np.array([self.share[expert].get(worker, 0.0) for expert in held], dtype=np.float64)
            in_layer = np.bincount(problem.layer[experts], weights=loads, minlength=problem.layers)
            by_layer = in_layer / (problem.layer_ideal * problem.speed[worker])
            pieces = self.pieces[worker] = _Pieces(experts, loads, by_layer)
        return pieces

    def _movable(self, source: int, target: int) -> tuple[Ints, Floats]:
        """Those that `target` and its machine may take from `source`: the vector form of Assignment.may_move."""
        pieces = self._pieces(source)
        experts, loads = pieces.experts, pieces.loads
        machine = self.problem.machine
        there = self.assignment.on_machine[experts, machine[target]].astype(np.int64)
        if machine[source] == machine[target]:
            there -= 1
        allowed = there == 0
        return experts[allowed], loads[allowed]

    def _copyable(self, experts: Ints, target: int) -> np.ndarray:
        """A second copy on one machine is only for networks that have no other machine."""
        if self.problem.machines == 1:
            return np.ones(len(experts), dtype=bool)
        free: np.ndarray = self.assignment.on_machine[experts, self.problem.machine[target]] == 0
        return free

    def _layer_gain(self, experts: Ints, source: int, target: int) -> Floats:
        """A little for taking from a layer that is busier on `source` than on `target`."""
        difference = self._pieces(source).by_layer - self._pieces(target).by_layer
        gain: Floats = _LAYER_WORTH * np.clip(difference, -1.0, 1.0)[self.problem.layer[experts]]
        return gain

    def _apply(self, source: int, change: _Change) -> None:
        expert, target = change.expert, change.target
        if change.kind == "copy":
            self.assignment.add(expert, target)
        else:
            if change.kind == "swap":
                self.assignment.move(change.back, target, source)
                self.share[change.back][source] = self.share[change.back].pop(target)
            self.assignment.move(expert, source, target)
        moved = change.amount if change.kind == "copy" else self.share[expert][source]
        self.share[expert][source] -= moved
        self.share[expert][target] = self.share[expert].get(target, 0.0) + moved
        if change.kind != "copy":
            del self.share[expert][source]
        self.pieces.pop(source, None)
        self.pieces.pop(target, None)
        self.level[source] -= change.amount * self.per_load[source]
        self.level[target] += change.amount * self.per_load[target]


def _some(loads: Floats) -> Ints:
    """Indices of at most _SWAPPABLE of them, evenly from the hottest to the coldest."""
    order = np.argsort(-loads, kind="stable")
    if len(order) > _SWAPPABLE:
        order = order[np.linspace(0, len(order) - 1, _SWAPPABLE).astype(np.int64)]
    return order.astype(np.int64)
