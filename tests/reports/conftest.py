"""A ledger with a month of history, made once; and reports over a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rios.accounts.store import AccountStore
from rios.billing.ledger.ledger import Ledger
from rios.reporting.runner import Done, Execute, Job, Say, silent
from rios.reporting.templates import Templates
from rios.services.reports.reports import Reports
from rios.services.webhooks import Webhooks
from tests.billing.clock import Clock
from tests.campaigns import ROOT
from tests.reports.ledgers import OWNERS, live, moment

NOW = moment("2026-11-28T06:00")


def quick(job: Job, say: Say = silent) -> Done:
    """Stands for the execution where a test is about what happens around it: the files are what the job says."""
    say(["cell 1"])
    page = b"<p>" + job.source[:10] + job.data + b"</p>"
    return Done(state="ok", files={"html": page, "ipynb": job.source}, error="", cpu_ns=10**9, runtime="quick")


Make = Callable[..., Reports]


@pytest.fixture(scope="session")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger's file: five weeks of eight users and four models, up to the morning of 28 November 2026."""
    path = tmp_path_factory.mktemp("month") / "ledger.sqlite"
    with Ledger.open() as ledger:  # a private one does not wait for the disk
        live(ledger, since="2026-10-25", days=34, per_day=9)
        with ledger.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(f"VACUUM INTO '{path}'")
    return path


@pytest.fixture
def clock() -> Clock:
    """Stands at six in the morning of 28 November 2026."""
    found = Clock()
    found.now_us = NOW
    return found


@pytest.fixture
def ledger(month: Path, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """That ledger, to write to."""
    path = tmp_path / "ledger.sqlite"
    shutil.copy(month, path)
    with Ledger.open(f"sqlite:///{path}", clock=clock) as found:
        yield found
        assert found.totals().sound


@pytest.fixture
def make(ledger: Ledger, tmp_path: Path) -> Iterator[Make]:
    """Makes reports over the ledger, which execute quickly; each is a scheduler of its own."""
    made: list[Reports] = []

    def reports(*, execute: Execute = quick, on: Ledger = ledger, out: Path | None = None, **more: object) -> Reports:
        store = AccountStore(on.database, lambda run: on.transact(lambda batch: run(batch.connection), alone=True))
        hooks = Webhooks(store, on, home=tmp_path / "home", allowed=more.pop("allowed", ()))  # type: ignore[arg-type]
        found = Reports(
            on, out or tmp_path / "out", Templates([tmp_path / "mine", ROOT / "reports"]), webhooks=hooks,
            payee=lambda: OWNERS[0], execute=execute, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        made.append(found)
        return found

    yield reports
    for one in made:
        one.close()
