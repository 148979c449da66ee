"""Networks of `rios.local()`: from wherever they are made, and until whoever made them has gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import rios
from rios.dmoe import cluster
from rios.dmoe.cluster import LocalCluster
from rios.dmoe.template import Running, Template
from rios.words.config import settings
from tests.campaigns import ROOT

DEADLINE_S = 60.0
ANSWER = """
import rios
with rios.local(workers=1, threads=1) as net:
    print(net.dmoe.deploy("demo", progress=False).generate([5, 6, 7], max_new_tokens=3).token_ids)
"""
# One that forks: the child does not keep the network alive.
PARENT = """
import json, os, sys, time, rios
net = rios.local(workers=1, threads=1)
pids = [process.pid for process in net.cluster.processes.values()] + [worker.pid for worker in net.workers]
child = os.fork()
if not child:
    time.sleep(600)
print(json.dumps({"network": pids, "child": child}), flush=True)
time.sleep(600)
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::DeprecationWarning"}  # os.fork warns


@pytest.mark.parametrize("way", ["standard input", "script"])
def test_a_network_from_anywhere(way: str, tmp_path: Path) -> None:
    """Without a file, and from a script without a guard around what it does."""
    script = tmp_path / "script.py"
    script.write_text(ANSWER)
    done = subprocess.run(
        [sys.executable, "-" if way == "standard input" else str(script)],
        input=ANSWER if way == "standard input" else None,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.replace("(", "[").replace(")", "]"))) == 3


def test_a_network_outlives_the_thread_that_made_it() -> None:
    made: list[rios.Network] = []
    thread = threading.Thread(target=lambda: made.append(rios.local(workers=1, threads=1)))
    thread.start()
    thread.join()
    (net,) = made
    with net:
        with pytest.raises(subprocess.TimeoutExpired):  # a signal would have come by then
            net.cluster.processes["scheduler"].wait(1.0)
        assert [process.poll() for process in net.cluster.processes.values()] == [None, None]
        with net.dmoe.deploy("demo", progress=False) as model:
            assert len(model.generate([5, 6, 7], max_new_tokens=3).token_ids) == 3


def test_the_hosts_of_a_machine_share_what_is_free() -> None:
    free = psutil.virtual_memory().available
    with rios.local(workers=3, threads=1) as net:
        found = [worker.memory_bytes for worker in net.workers]
    assert len(found) == 3
    assert free * 0.5 < sum(found) < free


def test_a_network_ends_with_its_process() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], env=ENVIRONMENT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        said = json.loads(parent.stdout.readline())
        parent.kill()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while any(map(psutil.pid_exists, said["network"])):
            assert time.monotonic() < deadline, "the network outlives its process"
            time.sleep(0.05)
        assert psutil.pid_exists(said["child"])
    finally:
        os.kill(said["child"], signal.SIGKILL)


def test_who_is_told_to_end_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the midst of its end would have some workers never end, and a network wait for them."""
    monkeypatch.setattr(cluster, "_TOLD_S", DEADLINE_S)
    sent: list[tuple[int, int]] = []
    kill = os.killpg

    def killpg(group: int, number: int) -> None:
        sent.append((group, number))
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    with rios.local(workers=2, threads=1) as net:
        net.wait_for_workers(2)
        processes = dict(net.cluster.processes)
    assert sent == [(processes["scheduler"].pid, signal.SIGTERM)]
    assert all(process.poll() is not None for process in processes.values())


def test_who_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_TOLD_S", 0.2)
    monkeypatch.setattr(cluster, "_GRACE_S", 0.2)
    with rios.local(workers=1, threads=1) as net:
        net.wait_for_workers(1)
        processes = dict(net.cluster.processes)
        for process in processes.values():
            os.kill(process.pid, signal.SIGSTOP)
    assert all(process.poll() is not None for process in processes.values())


def test_workers_can_be_added_when_another_network_has_started_the_template_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Template, "_shared", {})
    asked: list[float] = []
    run = Template.run

    def recorded(template: Template, *arguments: Any, timeout_s: float, **more: Any) -> Running:
        asked.append(timeout_s)
        return run(template, *arguments, timeout_s=timeout_s, **more)

    monkeypatch.setattr(Template, "run", recorded)
    made = LocalCluster(1, settings().model_copy(update={"start_timeout_s": DEADLINE_S + 1, "warm_s": 0.0}))
    try:
        first = Template._shared["torch"]
        ended(first)
        assert Template.shared(os.environ) is not first
        assert first.fileno() == -1
        made.add_worker("worker-1")
        assert made.processes["worker-1"].poll() is None
        assert asked == 3 * [DEADLINE_S + 1]
    finally:
        made.close()
        for template in Template._shared.values():
            ended(template)
            template._channel.close()


def ended(template: Template) -> None:
    assert template._process is not None
    template._process.kill()
    template._process.wait(DEADLINE_S)
