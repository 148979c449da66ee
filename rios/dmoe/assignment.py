"""Which worker holds which expert, while the planner is still moving them about."""

from __future__ import annotations

import numpy as np

from rios.dmoe.demand import Ints, Problem


class Assignment:
    """Holders of each expert and what each worker holds, kept in step; experts and workers are flat indices."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.holders: list[list[int]] = [[] for _ in range(problem.experts)]
        self.held: list[set[int]] = [set() for _ in problem.workers]
        self.free_bytes: Ints = problem.memory_bytes.copy()
        # Copies of each expert on each machine: the machine rule is asked far more often than anything else.
        self.on_machine = np.zeros((problem.experts, problem.machines), dtype=np.uint16)

    def copy(self) -> Assignment:
        """Another one of the same problem, which changes by itself."""
        twin = Assignment.__new__(Assignment)
        twin.problem = self.problem
        twin.holders = [list(holders) for holders in self.holders]
        twin.held = [set(held) for held in self.held]
        twin.free_bytes = self.free_bytes.copy()
        twin.on_machine = self.on_machine.copy()
        return twin

    def add(self, expert: int, worker: int) -> None:
        """Have a worker hold a copy of an expert."""
        self.holders[expert].append(worker)
        self.held[worker].add(expert)
        self.free_bytes[worker] -= self.problem.size_bytes[expert]
        self.on_machine[expert, self.problem.machine[worker]] += 1

    def remove(self, expert: int, worker: int) -> None:
        """Have a worker hold its copy of an expert no longer."""
        self.holders[expert].remove(worker)
        self.held[worker].remove(expert)
        self.free_bytes[worker] += self.problem.size_bytes[expert]
        self.on_machine[expert, self.problem.machine[worker]] -= 1

    def move(self, expert: int, source: int, target: int) -> None:
        """Have a copy held by another worker."""
        self.remove(expert, source)
        self.add(expert, target)

    def may_move(self, expert: int, source: int | None, target: int) -> bool:
        """Whether `expert` may be on `target` (instead of on `source`): not twice there, nor twice on its machine."""
        if expert in self.held[target]:
            return False
        machine = self.problem.machine
        there = int(self.on_machine[expert, machine[target]])
        if source is not None and machine[source] == machine[target]:
            there -= 1
        return there == 0

    def machine_free(self, expert: int) -> np.ndarray:
        """bool [workers]: the workers on machines that hold no copy of `expert`."""
        free: np.ndarray = self.on_machine[expert, self.problem.machine] == 0
        return free

    def doubled(self) -> list[int]:
        """The experts that some machine holds more than once."""
        return [int(expert) for expert in np.flatnonzero((self.on_machine > 1).any(axis=1))]
