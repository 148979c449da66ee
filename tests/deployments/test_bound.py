"""Models that `net.dmoe.deploy` deploys are deployments, and end with their processes, however those end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rios
from rios.billing.ledger.ledger import Ledger
from rios.services.deployments.store import AppStore
from rios.words.errors import CheckpointCorrupt, InsufficientMemory, InvalidRequest, RiosError, UnsupportedCheckpoint
from tests.campaigns import ROOT
from tests.deployments.stage import Stage
from tests.waiting import until

WAIT_S = 120.0
GONE_S = 10.0
CHILD = """
import json, sys, time, rios
with rios.local(workers=1, threads=1, home=sys.argv[1]) as net:
    model = net.dmoe.deploy("demo", name="Demo", progress=False)
    answer = model.generate("It was", max_new_tokens=3)
    leads = net._apps().reconciler.leadership.leads
    print(json.dumps({
        "tokens": len(answer.token_ids), "leads": leads, "deployments": [app.name for app in net.deploy.list()],
        "modules": [name for name in sys.modules if name.startswith("rios.services.deployments.")],
        "others": [name for name in ("httpx", "httpx2", "websockets", "kubernetes") if name in sys.modules],
    }), flush=True)
    time.sleep(600)
"""
APPLICATIONS = ("front", "proxy", "sockets", "routing", "health", "gauges", "scaling", "metering", "images")
APPLICATIONS += ("local_host", "network_hosts", "remote_host", "kubernetes_host")


def test_a_killed_process_takes_its_models_along(tmp_path: Path) -> None:
    """Another process leads: the killed one deployed all the same, and is found to have ended."""
    home = tmp_path / "home"
    with Stage(home=home) as stage:
        until(lambda: stage.platform.reconciler.leadership.leads, deadline_s=WAIT_S)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", CHILD, str(home)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                said = json.loads(child.stdout.readline())
                assert said["tokens"] == 3
                assert not said["leads"]
                assert said["deployments"] == ["demo"]
                assert not {f"rios.services.deployments.{name}" for name in APPLICATIONS}.intersection(said["modules"])
                assert said["others"] == [], "what only applications need is not there"
                app = stage.deploy.get("demo")
                assert app.status == "ready"
                assert app.specification["served_name"] == "Demo"
                assert app.replicas[0].host.startswith(f"engine-{child.pid}-")
            finally:
                killed = time.monotonic()
                child.send_signal(signal.SIGKILL)
        until(lambda: stage.deploy.list() == (), "it is gone", deadline_s=GONE_S)
        assert time.monotonic() - killed > 1.0
        assert stage.platform.store.on_host(app.events[1].cause.partition(":")[0]) == []
        assert "is lost" in " ".join(str(event) for event in app.events)
        until(lambda: not stage.platform.reconciler._engines.look().silent, "its lease is gone", deadline_s=GONE_S)


def test_errors_and_ends(tmp_path: Path) -> None:
    """What a start raises, and that nothing of it nor of a closed network is left."""
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    (tmp_path / "empty").mkdir()
    home = tmp_path / "home"
    with rios.local(workers=1, threads=1, home=home, memory_bytes=1 << 20) as net:
        wrong: list[tuple[str | Path, dict[str, object], type[RiosError]]] = [
            (dense, {}, UnsupportedCheckpoint), (tmp_path / "empty", {}, CheckpointCorrupt),
            ("demo", {}, InsufficientMemory), ("demo", {"replicas": 2}, RiosError),
            (tmp_path / "none", {}, InvalidRequest), ("demo", {"dtype": "int8"}, InvalidRequest),
        ]  # fmt: skip
        for path, options, kind in wrong:
            with pytest.raises(kind):
                net.dmoe.deploy(path, progress=False, **options)  # type: ignore[arg-type]
            assert net.deploy.list() == ()
        assert net.models == ()
    with rios.local(workers=1, threads=1, home=home) as net:
        with net.dmoe.deploy("demo", progress=False) as model:
            assert net.deploy.get("demo").model is model
        until(lambda: net.deploy.list() == (), "its end is written", deadline_s=GONE_S)
        model, other = (net.dmoe.deploy("demo", progress=False) for _ in range(2))
        net.deploy.get("demo-2").delete()
        assert (other._closed, net.models) == (True, (model,))
        net.close()
        assert model._closed
    with Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}") as ledger:
        assert AppStore(ledger).is_empty()
        assert {event.cause for event in AppStore(ledger).events(_id(ledger))} >= {"its process ended"}


def _id(ledger: Ledger) -> str:
    from sqlalchemy import select

    from rios.storage.deployment_models import AppRow

    with ledger.database.reading() as connection:
        return str(connection.scalars(select(AppRow.id).order_by(AppRow.created_at.desc())).all()[1])
