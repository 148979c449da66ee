"""A month of fifty users, twenty models and a million usage records: how long its report takes, and how much memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO

import psutil
import pytest

from rios.billing.ledger.ledger import Ledger
from tests.campaigns import ROOT, Campaign
from tests.reports.ledgers import DAY_US, charges, fund, moment, use, users_of

USERS, MODELS, RECORDS, STEPS = 50, 20, 1_000_000, 20
CPU_S, MEMORY_BYTES = 120.0, 2 << 30
LOOK_S, DEADLINE_S = 0.2, 1800.0


@dataclass
class Watched:
    """What a command and all that it started took."""

    said: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """As looked at every LOOK_S: the last moments of each process are missing."""
    peak_bytes: int = 0
    """Of all at once; pages that several share are counted for each."""


def watch(command: list[str], folder: Path) -> Watched:
    """Run it to its end. Sandboxes and browsers are looked at too, which a parent is told nothing of when they end."""
    found, used, begun = Watched(), dict[tuple[int, float], float](), time.monotonic()
    with (folder / "said").open("w+") as out, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        root = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                assert time.monotonic() - begun < DEADLINE_S, "it goes on and on"
                resident = 0
                for one in (root, *_below(root)):
                    with contextlib.suppress(psutil.Error), one.oneshot():
                        times = one.cpu_times()
                        used[one.pid, one.create_time()] = times.user + times.system
                        resident += one.memory_info().rss
                found.peak_bytes = max(found.peak_bytes, resident)
                time.sleep(LOOK_S)
        finally:
            process.kill()
            process.wait()
        found.wall_s, found.cpu_s, found.said = time.monotonic() - begun, sum(used.values()), _text(out)
        assert process.returncode == 0, _text(errors)
    return found


def _below(root: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return root.children(recursive=True)
    return []


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def fill(path: Path, records: int) -> int:
    """The ledger; what it cost in wei."""
    rng, start, names, total = Random(7), moment("2026-10-01"), users_of(USERS), 0
    with Ledger.open() as ledger:
        fund(ledger, USERS, at=start)
        requests = records // (5 * STEPS)
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
@pytest.mark.timeout(3 * 3600)
def test_a_month_of_a_million_records(
    tmp_path: Path, campaign_record: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, float]:
        home, out = tmp_path / "home", tmp_path / "out"
        home.mkdir()
        total = fill(home / "ledger.sqlite", RECORDS)
        monkeypatch.setenv("RIOS_HOME", str(home))
        arguments = ["report", "run", "cost", "--period", "2026-10", "--out", str(out), "--json"]
        command = [sys.executable, "-m", "rios.cli", *arguments]
        watched = watch(command, tmp_path)
        past = json.loads(watched.said.splitlines()[-1])
        assert past["state"] == "ok", past["error"]
        made = {path.name: path.read_bytes() for path in (out / past["folder"]).iterdir()}
        document = json.loads(made["cost-2026-10.json"])
        assert document["totals"]["records"] == RECORDS
        assert document["check"]["ledger_wei"] == document["totals"]["cost_wei"] == str(total)
        assert document["reconciliation"]["sound"]
        assert len(document["by"]["user"]) == USERS
        assert len(document["by"]["model"]) == MODELS
        again = json.loads(watch([*command, "--force"], tmp_path).said.splitlines()[-1])
        assert (again["state"], again["folder"], again["files"]) == ("ok", past["folder"], past["files"])
        assert {path.name: path.read_bytes() for path in (out / past["folder"]).iterdir()} == made
        assert {name.rpartition(".")[2] for name in made} == {"html", "ipynb", "json", "pdf"}
        return {"wall_s": watched.wall_s, "cpu_s": watched.cpu_s, "peak_mib": watched.peak_bytes / 2**20}

    found = campaign_record.once("a million", run)
    campaign_record.conclude(records=RECORDS, **{name: round(value) for name, value in found.items()})
    print(", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    assert found["peak_mib"] * 2**20 < MEMORY_BYTES
    assert found["cpu_s"] < CPU_S
