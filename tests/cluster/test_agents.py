"""Workers that offer their machines: `dask worker --preload rios.worker` with RIOS_HOST_APPS, and one of two killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rios
from rios.deploy.lifecycle import State
from rios.services.deployments.machine import clear_up
from rios.services.reports import files
from tests.campaigns import ROOT
from tests.cluster.test_workers import Lab
from tests.deployments.stage import RESOURCES, SERVER, WEB, get
from tests.waiting import PATIENCE, until

WAIT_S = 120.0
pytestmark = [pytest.mark.long, pytest.mark.needs("bwrap"), pytest.mark.needs("root")]


class Offering(Lab):
    """Each worker is a host with a directory of its own."""

    def host(self, name: str) -> subprocess.Popen[bytes]:
        apps = self.folder / name
        apps.mkdir(mode=0o711)
        environment = self._environment | {"RIOS_HOST_APPS": "1", "RIOS_REGION": "eu", "RIOS_APPS": str(apps)}
        command = ["worker", self.address, "--preload", "rios.worker", "--host", "127.0.0.1", "--nthreads", "1"]
        with (self.folder / "worker.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--name", name, "--no-nanny"],
                env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._processes.append(started)
        return started


@pytest.fixture
def lab() -> Iterator[Offering]:
    folder = Path(tempfile.mkdtemp(prefix="rios-lab-"))  # sandboxes' own user passes through it
    folder.chmod(0o711)
    made = Offering(folder, {"PYTHONPATH": str(ROOT)})
    yield made
    made.close()
    for place in folder.glob("*/agent/*"):
        if place.is_dir():
            clear_up(place)
    shutil.rmtree(folder)


def test_replicas_on_workers_machines(lab: Offering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {name: lab.host(name) for name in ("alpha", "beta")}
    with rios.connect(lab.address, home=tmp_path / "home") as net:
        until(lambda: len(net._membership.agents) == 2, "two agents", deadline_s=WAIT_S)
        app = net.deploy.create(
            name="far", command=[*WEB, SERVER], port=8000, health={"http": "/", "interval": 0.5}, resources=RESOURCES,
            replicas=2, grace=2, schedule={"region": "eu"},
        )  # fmt: skip
        app.wait(timeout=WAIT_S)
        before = {one.host: one.id for one in app.replicas}
        assert sorted(before) == ["alpha", "beta"]
        assert get(f"{app.url}/there") == (200, "hello GET /there ")
        # A worker alone goes: its agent stays with what it runs.
        agent = int(net._membership.agents["beta"]["pid"])
        workers["beta"].kill()
        time.sleep(7.0)
        assert {one.host: one.id for one in app.replicas} == before
        until(lambda: app.status == "ready", deadline_s=WAIT_S)
        os.kill(agent, signal.SIGKILL)
        killed = time.monotonic()
        until(
            lambda: [one.host for one in app.replicas if one.state is State.READY] == ["alpha", "alpha"],
            deadline_s=WAIT_S,
        )
        assert time.monotonic() - killed < 10.0 * PATIENCE
        assert get(f"{app.url}/still") == (200, "hello GET /still ")
        app.delete()


def test_a_report_outlives_the_machine_that_made_it(lab: Offering, tmp_path: Path) -> None:
    workers = {name: lab.host(name) for name in ("alpha", "beta")}
    with rios.connect(lab.address, home=tmp_path / "home", reports=tmp_path / "one") as net:
        until(lambda: len(net._membership.agents) == 2, "two agents", deadline_s=WAIT_S)
        agents = {name: int(said["pid"]) for name, said in net._membership.agents.items()}
        made = net.reports.run("throughput", "yesterday")
        assert made.state == "ok"
        page = net.reports.file(made.id)
        kept = net._reports().keeping
        until(
            lambda: kept._heard and not files.uneven(kept._ledger.database, after="", limit=1), "both keep it",
            deadline_s=WAIT_S,
        )  # fmt: skip
    shutil.rmtree(tmp_path / "one")
    workers["alpha"].kill()
    os.kill(agents["alpha"], signal.SIGKILL)
    with rios.connect(lab.address, home=tmp_path / "home", reports=tmp_path / "two") as net:
        assert net.reports.file(made.id) == page
        assert not (tmp_path / "two").exists()
