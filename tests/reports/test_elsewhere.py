"""Reports on Dask workers, and who may have which."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.reporting.runner import Done, Job
from rios.services.accounts import Accounts
from rios.services.reports import elsewhere
from rios.services.reports.elsewhere import on_workers
from rios.services.reports.rights import rights_of
from rios.words.errors import NotAllowed
from tests.reports import notebooks


def killed(job: Job, name: str) -> Done:
    """What Dask says where a job took its worker with it each time."""
    from distributed import KilledWorker

    raise KilledWorker(name, SimpleNamespace(address="tcp://lost"), 3)


def test_a_worker_executes_it_and_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    notebooks.write(tmp_path, "small", *notebooks.SMALL)
    data = json.dumps({"totals": {"net_wei": "123456789"}}).encode()
    job = Job(
        name="small", title="small", source=(tmp_path / "small.ipynb").read_bytes(), data=data, parameters={}, cpu_s=60,
        memory_bytes=8 << 30, timeout_s=120.0, pdf=False,
    )  # fmt: skip
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        heard: list[str] = []
        done = on_workers(lambda: client)(job, heard.extend)
        monkeypatch.setattr(elsewhere, "_run", killed)
        lost = on_workers(lambda: client)(job, heard.extend)
    assert (done.state, done.error) == ("ok", "")
    assert b"123456789" in done.files["html"]
    assert done.runtime.endswith("on a worker")
    assert done.cpu_ns > 0
    assert (lost.state, lost.files) == ("failed", {}), "and is tried again"
    assert "KilledWorker" in lost.error
    assert heard == [f"cell {number}: small" for number in range(1, 5)]


def test_rights(ledger: Ledger, tmp_path: Path) -> None:
    accounts = Accounts(ledger, home=tmp_path)
    may = rights_of(accounts.store)
    may("local", "")
    with pytest.raises(NotAllowed, match="no user"):
        may("somebody", "somebody")
    admin = accounts.tokens.authenticate(accounts.first_token())
    viewer, _ = accounts.create_user(admin, "vera", role="viewer")
    other, _ = accounts.create_user(admin, "otto", role="admin")
    may("local", "")
    may(other.id, "")
    may(other.id, viewer.id)
    may(viewer.id, viewer.id)
    for subject in ("", other.id):
        with pytest.raises(NotAllowed, match="own costs alone"):
            may(viewer.id, subject)
    accounts.change_role(admin, other.id, "viewer")
    with pytest.raises(NotAllowed):
        may(other.id, "")
    accounts.close_user(admin, viewer.id)
    with pytest.raises(NotAllowed, match="no user"):
        may(viewer.id, viewer.id)
