"""A process whose children make calls to a ledger and are killed between two statements, as they were told.

It reads a case in JSON from each line, forks a child for it, and answers how many calls were done and how the child
ended. The children are forked from a process that has imported all and opened nothing, so one takes milliseconds.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any

from rios.billing.ledger import Ledger
from rios.storage.engine import Database
from rios.words.errors import LedgerUnavailable, RiosError
from tests.billing.ledger.history import perform
from tests.moments import at_each
from tests.waiting import PATIENCE

_LOCKED_S = 0.25 * PATIENCE
# What opens a database imports when the first one is opened.
_USED = ("alembic.command", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite")


def _die_at(count: int) -> None:
    passed = 0

    def step(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == count:
            os.kill(os.getpid(), signal.SIGKILL)

    at_each(step)


def _play(case: dict[str, Any], done: int) -> None:
    """Make the calls from `start` on; `done` is told of each that came back."""
    url, locked = case["url"], case.get("locked")
    with Ledger.open(url, timeout_s=30) as ledger:
        for place in range(case["start"], len(case["calls"])):
            call = case["calls"][place]
            if place == locked:
                _while_locked(url, call)
            try:
                perform(ledger, call)
            except LedgerUnavailable:
                raise
            except RiosError:
                pass  # refused, as it was when the history was made
            os.write(done, b".")


def _while_locked(url: str, call: list[Any]) -> None:
    """Make a call while another process writes and does not come to an end: it fails by its deadline."""
    holder = Database(url, timeout_s=30)
    with Ledger.open(url, timeout_s=_LOCKED_S) as ledger, holder.writing():
        try:
            perform(ledger, call)
        except LedgerUnavailable:
            pass
        except RiosError:
            os._exit(3)
        else:
            os._exit(4)
    holder.close()


def _fork(case: dict[str, Any]) -> tuple[int, int]:
    """Calls done, and the child's exit status: -9 where it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        status = 1
        try:
            if case["die_at"]:
                _die_at(case["die_at"])
            _play(case, writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    done = 0
    while part := os.read(reader, 4096):
        done += len(part)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return done, os.waitstatus_to_exitcode(status)


def main() -> None:
    """What the module says."""
    for name in _USED:
        importlib.import_module(name)
    gc.freeze()  # else the collector copies what each child shares with this process
    for line in sys.stdin:
        print(*_fork(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
