"""A scheduler that dies: at a moment of its work that it is told, or whenever somebody kills it.

The process has imported all and opened nothing. For each line that it reads it forks a child that opens the ledger and
makes what is due; it prints the child's id at once, and how it ended when it has.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from rios.accounts.store import AccountStore
from rios.billing.ledger.ledger import Ledger
from rios.reporting import shelf
from rios.reporting.runner import Done, Job, Say, run_job
from rios.reporting.templates import Templates
from rios.services.outbound import networks
from rios.services.reports.reports import Reports
from rios.services.webhooks import Webhooks
from tests.reports.conftest import quick
from tests.reports.ledgers import OWNERS

_LEDGER = ("before_cursor_execute", "after_cursor_execute", "commit", "checkin")
_DISK = ("_write", "sync_names", "_entry")


class Death:
    """Counts moments, and ends the process at one of them: statements, commits, and what is written to the disk."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.passed = 0

    def step(self, *_: Any) -> None:
        """A moment passes."""
        self.passed += 1
        if self.passed == self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def listen(self) -> None:
        """Hear of every moment."""
        for moment in _LEDGER:
            event.listen(Engine, moment, self.step)
        for name in _DISK:
            setattr(shelf, name, self._heard(getattr(shelf, name)))
        for name in ("rename", "replace", "symlink_to", "mkdir"):
            setattr(Path, name, self._heard(getattr(Path, name)))

    def _heard(self, deed: Any) -> Any:
        def heard(*given: Any, **more: Any) -> Any:
            self.step()
            found = deed(*given, **more)
            self.step()
            return found

        return heard


def _unprinted(job: Job, say: Say) -> Done:
    import dataclasses

    return run_job(dataclasses.replace(job, pdf=False), say)


def live(case: dict[str, Any]) -> dict[str, Any]:
    """Make and deliver what is due; once, or until killed."""
    folder = Path(case["folder"])
    execute = quick if case["quick"] else run_job if case["pdf"] else _unprinted
    with Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}") as ledger:
        death = Death(case["die_at"])
        store = AccountStore(ledger.database, lambda run: ledger.transact(lambda batch: run(batch.connection)))
        hooks = Webhooks(store, ledger, home=folder / "home", allowed=networks("127.0.0.0/8"))
        reports = Reports(
            ledger, folder / "out", Templates([folder / "mine"]), webhooks=hooks, payee=lambda: OWNERS[0],
            execute=execute, lease_s=case["lease_s"],
        )  # fmt: skip
        if case["for_ever"]:
            reports.start(look_s=0.1)
            signal.pause()
        death.listen()
        with reports:
            reports.shelf.sweep()
            while reports.step():
                continue
            reports.deliverer.deliver()
        return {"moments": death.passed}


def main() -> None:
    """The command line."""
    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                print(json.dumps(live(json.loads(line))), flush=True)
                status = 0
            except BaseException:  # noqa: BLE001  it goes to standard error
                traceback.print_exc()
            finally:
                os._exit(status)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
