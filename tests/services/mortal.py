"""A process whose children live histories and are killed at a moment that they were told.

It reads a case in JSON from each line, forks a child for it, and answers with what the child said, one JSON text in a
line, and how it ended. The children are forked from a process that has imported all and opened nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import web3  # noqa: F401  (3 s, which each child would else take)

import rios.services.governance  # noqa: F401  (likewise)
from rios.billing.chain import evm_store
from rios.billing.chain.rpc import RpcChain
from tests.moments import at_each
from tests.services.life import Life


class Death:
    """Counts moments from the beginning of a step on, and ends the process at one of them."""

    def __init__(self, place: int | None, count: int) -> None:
        self._place, self._left = place, count
        self._counts = False
        self.passed = 0

    def arm(self, place: int) -> None:
        """A step begins."""
        if place == self._place:
            self._counts = True

    def step(self, *_: Any) -> None:
        """A moment passes."""
        self.passed += 1
        if self._counts:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def listen(self) -> None:
        """Count statements and commits of the ledger, statements of the embedded chain, and calls of a node."""
        at_each(self.step)
        opened, post = evm_store._opened, RpcChain._post

        def opened_and_heard(path: Path, timeout_s: float) -> sqlite3.Connection:
            file = opened(path, timeout_s)
            file.set_trace_callback(self.step)
            return file

        def posted(chain: RpcChain, method: str, parameters: Any) -> Mapping[str, Any] | str:
            self.step()
            answer = post(chain, method, parameters)
            self.step()
            return answer

        evm_store._opened = opened_and_heard
        RpcChain._post = posted  # type: ignore[assignment, method-assign]


def live(case: dict[str, Any], out: Any) -> None:
    """Make the steps from `start` on, and then what each day ends with."""
    death = Death(*(case["die"] or (None, 0)))
    death.listen()
    life = Life(case, death.arm)
    steps = case["steps"]
    for place in range(case["start"], len(steps)):
        before = death.passed
        did = life.play(place, steps[place])
        print(json.dumps(did | {"moments": death.passed - before}), file=out, flush=True)
    before = death.passed
    print(json.dumps({"end": life.finish(len(steps)), "moments": death.passed - before}), file=out, flush=True)
    life.purse.close()


def fork(case: dict[str, Any]) -> tuple[str, int]:
    """What a child said, and its exit status: -9 where it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        status = 1
        try:
            with os.fdopen(writer, "w") as out:
                live(case, out)
            status = 0
        except BaseException:  # noqa: BLE001  (whoever reads the test's output wants to see it)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    return said, os.waitstatus_to_exitcode(status)


def main() -> None:
    """What the module says."""
    for line in sys.stdin:
        said, status = fork(json.loads(line))
        lines = [one for one in said.splitlines() if one.endswith("}")]
        print(json.dumps({"said": [json.loads(one) for one in lines], "status": status}), flush=True)


if __name__ == "__main__":
    main()
