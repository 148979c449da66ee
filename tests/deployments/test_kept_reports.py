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
STRAY = "z" * 32
"""After each id in the order in which a host's are looked at."""
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
    """What hosts know files by that they keep, sorted."""
    hosts: Any = platform.hosts.now()
    return {
        name: sorted(file for app_id, file in host.snapshots.kept() if app_id == REPORTS)
        for name, host in hosts.items()
    }


def _known(platform: Platform, files: list[str]) -> dict[str, list[str]]:
    """What they are to know these by, once both have each; as `_kept`."""
    rows = [file_of(platform.store.ledger.database, sha256) for sha256 in files]
    if not all(row is not None and row.hosts == {"alpha": True, "beta": True} for row in rows):
        return {}
    return {name: sorted(row.ids[name] for row in rows if row is not None) for name in ("alpha", "beta")}


def _cleared(platform: Platform, digest: str) -> None:
    """Whoever leads looks at both hosts anew, and drops what no row says: what is last in their order, here."""
    hosts: Any = platform.hosts.now()
    for host in hosts.values():
        assert not host.snapshots.keep(REPORTS, STRAY, digest)
    for name in hosts:
        platform.reconciler._acting._snapshotting._cleared_at.pop(name, None)
    until(lambda: not any(STRAY in kept for kept in _kept(platform).values()), "strays are dropped", deadline_s=WAIT_S)


def test_a_report_outlives_the_folder_and_a_host(
    platform: Platform, machines: list[Machine], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = gateway("one"), gateway("two")
    past = one.run("cost", "2026-11-27", owner="local")
    files = sorted(said["sha256"] for said in past.files.values())
    until(lambda: bool(_known(platform, files)), "both keep it", deadline_s=WAIT_S)
    known = _known(platform, files)
    assert _kept(platform) == known
    page = next(said["sha256"] for name, said in past.files.items() if name.endswith(".html"))
    database = platform.store.ledger.database
    row = file_of(database, page)
    assert row is not None
    _cleared(platform, row.digest)  # also with no deployment there
    assert _kept(platform) == known == _known(platform, files)
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
