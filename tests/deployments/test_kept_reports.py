"""Published reports on real hosts: given to their agents, read from one that is left, and not taken for strays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.reporting.runner import Done, Job, Say, silent
from rios.reporting.templates import Templates
from rios.services.deployments import snapshotting
from rios.services.deployments.platform import Platform
from rios.services.reports import keeping
from rios.services.reports.files import REPORTS, file_of
from rios.services.reports.own import UserReports
from rios.services.reports.reports import Reports
from rios.words.errors import Elsewhere
from tests.campaigns import ROOT
from tests.deployments.test_agents import WAIT_S, Machine, deploy, machines, platform
from tests.waiting import until

pytestmark = [pytest.mark.needs("bwrap"), pytest.mark.needs("root")]
__all__ = ["deploy", "machines", "platform"]
PAGE = os.urandom(9 << 20)
"""Of several chunks."""
Gateway = Callable[[str], Reports]


def large(job: Job, say: Say = silent) -> Done:
    return Done(state="ok", files={"html": PAGE, "ipynb": job.source}, error="", cpu_ns=10**9, runtime="large")


@pytest.fixture
def gateway(platform: Platform, tmp_path: Path) -> Iterator[Gateway]:
    """Reports over one ledger, each in a folder of its own."""
    made: list[Reports] = []
    ledger: Ledger = platform.store.ledger
    ledger.deposit(f"deposit-{tmp_path.name}", "local", 10**24)

    def reports(name: str) -> Reports:
        found = Reports(
            ledger, tmp_path / name, Templates([ROOT / "reports"]), webhooks=None,  # type: ignore[arg-type]
            payee=lambda: platform._owner(""), execute=large, hosts=platform.hosts.now,
        )  # fmt: skip
        made.append(found)
        return found

    yield reports
    for one in made:
        one.close()


def _own(reports: Reports) -> UserReports:
    return UserReports(lambda: reports, user="local", everybodys=True)


def _kept(platform: Platform) -> dict[str, list[str]]:
    hosts: Any = platform.hosts.now()
    return {
        name: sorted(file for app_id, file in host.snapshots.kept() if app_id == REPORTS)
        for name, host in hosts.items()
    }


def test_a_report_outlives_the_folder_and_a_host(
    platform: Platform, machines: list[Machine], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "STRAYS_S", 0.2)
    one, other = gateway("one"), gateway("two")
    past = one.run("cost", "2026-11-27", owner="local")
    files = sorted(said["sha256"] for said in past.files.values())
    until(lambda: _kept(platform) == {"alpha": files, "beta": files}, "both keep it", deadline_s=WAIT_S)
    page = next(said["sha256"] for name, said in past.files.items() if name.endswith(".html"))
    database = platform.store.ledger.database
    # Whoever leads clears strays all the time, also with no deployment there.
    acts = platform.reconciler._acting._snapshotting
    seen = dict(acts._cleared_at)
    until(lambda: all(at > seen.get(name, 0) + 1 for name, at in acts._cleared_at.items()), deadline_s=WAIT_S)
    assert _kept(platform) == {"alpha": files, "beta": files}
    shutil.rmtree(one.shelf.out)
    assert _own(other).file(past.run_id) == PAGE
    assert _own(one).file(past.run_id) == PAGE
    # A chunk of the first is damaged: it is the other's that is given.
    (chunks,) = machines[0].directory.glob("agent/*/content/chunks") or [None]
    for path in chunks.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert file_of(database, page).hosts == {"alpha": True, "beta": True}
    assert _own(other).file(past.run_id) == PAGE
    until(lambda: file_of(database, page).hosts == {"alpha": True, "beta": True}, "it is mended", deadline_s=WAIT_S)
    machines[1].die()
    assert _own(other).file(past.run_id) == PAGE
    machines[0].die()
    monkeypatch.setattr(keeping, "_HEARD_S", 0.0)
    with pytest.raises(Elsewhere, match="kept by alpha and beta"):
        _own(other).file(past.run_id)
