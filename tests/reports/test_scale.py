"""A month of fifty users, twenty models and a million usage records: how long its report takes, and how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from rios.billing.ledger.ledger import Ledger
from tests.campaigns import ROOT, Campaign
from tests.reports.ledgers import DAY_US, charges, fund, moment, use, users_of

USERS, MODELS, RECORDS, STEPS = 50, 20, 1_000_000, 20
TIME_S, MEMORY_BYTES = 120.0, 2 << 30
MEASURE = """
import json, resource, sys, time
from rios.cli import app
begun = time.monotonic()
try:
    app(["report", "run", "cost", "--period", "2026-10", "--out", sys.argv[1], "--json"], standalone_mode=False)
except BaseException as error:
    assert str(error) in ("0", ""), repr(error)
took = time.monotonic() - begun
used = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"took_s": took, "service_bytes": used[0], "notebook_bytes": used[1]}))
"""


def fill(path: Path) -> int:
    """The ledger; what it cost in wei."""
    rng, start, names, total = Random(7), moment("2026-10-01"), users_of(USERS), 0
    with Ledger.open() as ledger:
        fund(ledger, USERS, at=start)
        requests = RECORDS // (5 * STEPS)
        for number in range(requests):
            found = []
            model = rng.randrange(MODELS)
            for step in range(STEPS):
                found += charges(f"r{number}", model, rng, step=step)
            at = start + rng.randrange(31 * DAY_US)
            user = names[number % USERS]
            total += use(ledger, f"r{number}", user, found, at=at, deployment=f"deployment-{model}")
        with ledger.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(f"VACUUM INTO '{path}'")
    return total


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_month_of_a_million_records(
    tmp_path: Path, campaign_record: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, float | str]:
        home = tmp_path / "home"
        home.mkdir()
        total = fill(home / "ledger.sqlite")
        monkeypatch.setenv("RIOS_HOME", str(home))
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr
        past, measured = (json.loads(line) for line in done.stdout.splitlines()[-2:])
        assert past["state"] == "ok", past["error"]
        name = next(one for one in past["files"] if one.endswith(".json"))
        document = json.loads((tmp_path / "out" / past["folder"] / name).read_text())
        assert document["totals"]["records"] == RECORDS
        assert document["check"]["ledger_wei"] == document["totals"]["cost_wei"] == str(total)
        assert document["reconciliation"]["sound"]
        assert len(document["by"]["user"]) == USERS
        assert len(document["by"]["model"]) == MODELS
        return dict(measured)

    found = campaign_record.once("a million", run)
    campaign_record.conclude(records=RECORDS, **{name: round(value) for name, value in found.items()})
    assert found["service_bytes"] < MEMORY_BYTES
    assert found["notebook_bytes"] < MEMORY_BYTES
