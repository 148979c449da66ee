"""What two processes at once do on this machine that one does not: products of the experts' sizes, and nothing else.

No engine can gain more by its second host than this.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Self

from rios.reporting.child import Child
from rios.words.errors import RiosError

HIDDEN, INTERMEDIATE, EXPERTS = 512, 480, 96
"""Of `bench.checkpoint`: 6 layers of 16 experts."""


class TwoCores:
    """Two processes of one thread each, with weights of their own. A context manager."""

    def __init__(self) -> None:
        self._children = [Child([sys.executable, "-m", "rios.reporting.two_cores"]) for _ in range(2)]

    def alone(self, rows: int, turns: int) -> float:
        """Seconds in which one process computes all experts for `rows` rows each, `turns` times."""
        return self._seconds(self._children[:1], rows, turns, EXPERTS)

    def together(self, rows: int, turns: int) -> float:
        """The same by both processes at once, half of the experts each."""
        return self._seconds(self._children, rows, turns, EXPERTS // 2)

    @staticmethod
    def _seconds(children: list[Child], rows: int, turns: int, experts: int) -> float:
        failed: list[RiosError] = []

        def ask(child: Child) -> None:
            try:
                child.ask({"rows": rows, "turns": turns, "experts": experts})
            except RiosError as error:
                failed.append(error)

        threads = [threading.Thread(target=ask, args=(child,)) for child in children]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - begun
        if failed:
            raise failed[0]
        return took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.close()


def compute() -> None:
    """Answer each question on standard input by computing what it asks for."""
    import torch
    from torch.nn.functional import linear, silu

    torch.set_num_threads(1)
    up = torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN) / HIDDEN**0.5
    down = torch.randn(EXPERTS, HIDDEN, INTERMEDIATE) / INTERMEDIATE**0.5
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        hidden = torch.randn(asked["rows"], HIDDEN)
        with torch.inference_mode():
            for _ in range(asked["turns"]):
                for expert in range(asked["experts"]):
                    gate, value = linear(hidden, up[expert]).chunk(2, 1)
                    linear(silu(gate) * value, down[expert])
        sys.stdout.write("true\n")
        sys.stdout.flush()


if __name__ == "__main__":
    compute()
