"""Many callers of one ledger, as a process of its own: `python -m tests.billing.ledger.caller URL NAME CALLS`.

It says "ready", waits for a line, has all its threads hold 1 ROS at once, and says how many could.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from rios.billing.ledger import Ledger
from rios.words.errors import InsufficientBalance
from tests.billing.ledger.work import ROS, TERMS


def start_together(calls: int, call: Callable[[int], None], begin: Callable[[], object] = lambda: None) -> None:
    """Call `call` with 0 .. `calls` - 1 in as many threads, all of which wait for each other first."""
    barrier = threading.Barrier(calls + 1)

    def run(number: int) -> None:
        barrier.wait(240)
        call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(calls)]
    for thread in threads:
        thread.start()
    begin()
    barrier.wait(240)
    for thread in threads:
        thread.join()


def hold_all(ledger: Ledger, name: str, calls: int, begin: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """`calls` holds of 1 ROS at once for user ann; how many started and how many were refused."""
    started: list[int] = []
    refused: list[int] = []

    def call(number: int) -> None:
        try:
            ledger.hold(f"{name}-{number}", "ann", ROS, request_id=f"{name}-{number}", terms=TERMS)
            started.append(number)
        except InsufficientBalance:
            refused.append(number)

    start_together(calls, call, begin)
    return len(started), len(refused)


def main(url: str, name: str, calls: int) -> None:
    """What the module says."""

    def begin() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    with Ledger.open(url, timeout_s=60) as ledger:
        print(*hold_all(ledger, name, calls, begin), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
