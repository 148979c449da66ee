"""A network of a hundred thousand usage records: how long a backup takes, and until it is back on an empty machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.campaigns import ROOT, Campaign
from tests.reports.test_scale import fill
from tests.storage.databases import KINDS, drop_database, new_database

RECORDS = 100_000
UNIT = ROOT / "cluster" / "systemd" / "rios-backup.service"
RESTORE_S = 3600.0
"""A network is back within an hour, and more has to be done in it than this (docs/regions.md)."""


def _took_s(*arguments: str) -> float:
    """A command of rios, from its start to its end, interpreter and all."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "rios.cli", *arguments], cwd=ROOT, check=True, timeout=RESTORE_S)
    return time.monotonic() - begun


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_there_and_back(tmp_path: Path, campaign_record: Campaign) -> None:
    def run() -> dict[str, float]:
        home, file = tmp_path / "home", tmp_path / "network.backup"
        home.mkdir()
        fill(home / "ledger.sqlite", RECORDS)
        found = {"backup_s": _took_s("backup", str(file), "--home", str(home)), "mib": file.stat().st_size >> 20}
        for kind in KINDS:
            url = new_database(kind, tmp_path)
            try:
                told = ("--home", str(tmp_path / kind), "--database", url)
                found[f"restore_{kind}_s"] = _took_s("restore", str(file), *told)
            finally:
                drop_database(url)
        return found

    found = campaign_record.once("all of it", run)
    campaign_record.conclude(records=RECORDS, **{name: round(value) for name, value in found.items()})
    (bound,) = [line for line in UNIT.read_text().splitlines() if line.startswith("TimeoutStartSec=")]
    assert found["backup_s"] < float(bound.partition("=")[2])
    assert max(found[f"restore_{kind}_s"] for kind in KINDS) < RESTORE_S / 6
