"""How many copies each expert should have: one more for whichever is hottest per copy, while memory lasts.

The greedy of EPLB's replication, argmax(load / copies) (DeepSeek-AI, github.com/deepseek-ai/EPLB), which spends bytes
here where EPLB spends equal slots, and stops where another copy would no longer make any layer faster.
"""

from __future__ import annotations

import heapq

import numpy as np

from rios.dmoe.demand import Problem


def extra_copies(problem: Problem, base: int = 1) -> list[int]:
    """The experts that should get one more copy each, in the order of need; an expert may come several times.

    With `base` copies of every expert they fit into the memory of all workers together.
    """
    workers = len(problem.workers)
    copies = [base] * problem.experts
    spare_bytes = _usable_bytes(problem) - base * int(problem.size_bytes.sum())
    # A layer's time is that of its slowest worker. A copy with no more load than a fair share of its layer, or than its
    # layer's average expert, is not what makes it slow.
    experts_in = np.diff(problem.first)
    fair = problem.layer_ideal * problem.speed.sum() / np.maximum(experts_in, workers)
    enough = fair[problem.layer].tolist()
    pull = problem.pull.tolist()
    share = [load / base for load in pull]
    size = problem.size_bytes.tolist()
    heap = [(-share[e], e) for e in range(problem.experts) if share[e] > enough[e] * (1 + 1e-9)]
    heapq.heapify(heap)
    extras: list[int] = []
    while heap and workers > base:
        _, expert = heapq.heappop(heap)
        if size[expert] > spare_bytes:
            continue
        spare_bytes -= size[expert]
        copies[expert] += 1
        extras.append(expert)
        share[expert] = pull[expert] / copies[expert]
        if copies[expert] < workers and share[expert] > enough[expert] * (1 + 1e-9):
            heapq.heappush(heap, (-share[expert], expert))
    return extras


def _usable_bytes(problem: Problem) -> int:
    """What is left of each worker's memory after the remainder that is too small for even the smallest expert."""
    smallest = max(1, int(problem.size_bytes.min()))
    return int((problem.memory_bytes - problem.memory_bytes % smallest).sum())
