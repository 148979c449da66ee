"""A host that is frozen for good is replaced; an orphan stays for as long as it is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import rios
from rios.dmoe import host as hosts
from rios.dmoe.pulse import Pulse
from rios.words.config import settings
from rios.words.errors import InvalidRequest
from tests import checkpoints, waiting
from tests.hosting import Client, hosting

PROMPT = "It was a fine morning,"
PARAMS: dict[str, Any] = {"max_new_tokens": 20, "ignore_eos": True}
ORPHAN_S = 3.0
DEADLINE_S = 60.0

until = partial(waiting.until, deadline_s=DEADLINE_S)


def test_silence_is_counted_from_the_last_beat() -> None:
    pulse = Pulse()
    start = time.monotonic()
    for turn in range(5):
        pulse.beat()
        assert pulse.silent_s(start + turn) == 0.0
    assert [pulse.silent_s(start + turn) for turn in (5, 6, 7)] == pytest.approx([1.0, 2.0, 3.0])
    pulse.beat()
    assert pulse.silent_s(start + 8) == 0.0
    assert pulse.beats == 6


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    """A machine that slept for an hour: its parent is awake first."""
    pulse = Pulse()
    start = time.monotonic()
    pulse.silent_s(start)
    assert pulse.silent_s(start + 3600) < 2.5
    assert pulse.silent_s(start + 3601) < 3.5


def test_a_child_beats_in_its_parents_memory() -> None:
    code = (
        "import os\n"
        "from rios.dmoe.pulse import Pulse\n"
        "pulse = Pulse()\n"
        "if not (child := os.fork()):\n"
        "    pulse.beat()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(pulse.beats)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "1\n"


@pytest.fixture(scope="module")
def two() -> Iterator[rios.Network]:
    with rios.local(workers=2, threads=1, host_silence_s=3, orphan_s=ORPHAN_S) as net:
        yield net


def test_a_host_that_stays_frozen_is_replaced(two: rios.Network) -> None:
    """The only holder of its experts and the trunk, which nobody thaws: another process takes its place and loads."""
    with two.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False) as model:
        expected = model.generate(PROMPT, **PARAMS)
        name = model.placement.trunk
        frozen = psutil.Process(next(worker.pid for worker in two.workers if worker.name == name))
        # Neither goes elsewhere: what was frozen has to come back.
        model._deployment._room = lambda member: -1
        frozen.send_signal(signal.SIGSTOP)
        assert model.generate(PROMPT, timeout=2 * DEADLINE_S, **PARAMS).token_ids == expected.token_ids
        assert not frozen.is_running()
        until(lambda: {worker.name for worker in two.workers} == {"worker-0", "worker-1"}, "it is not back")
        assert all(worker.pid != frozen.pid for worker in two.workers)
        member = model._deployment.members[name]
        until(lambda: member.settled, "it did not load what it had")


def test_who_uses_a_host_whose_worker_was_started_anew_goes_there(two: rios.Network) -> None:
    """And not at once, for the old one serves on. Where there is no new one, the others take its part."""
    assert two.cluster is not None
    cluster, name = two.cluster, "worker-1"

    def end_worker() -> psutil.Process:
        process = cluster.processes.pop(name)
        host = psutil.Process(two._membership.hosts[name][1]["pid"])
        os.kill(process.pid, signal.SIGTERM)
        process.wait(DEADLINE_S)
        return host

    def answers() -> bool:
        assert model.generate(PROMPT, timeout=DEADLINE_S, **PARAMS).token_ids == expected.token_ids
        return True

    with two.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model:
        kept = model._deployment
        expected = model.generate(PROMPT, **PARAMS)
        before = kept.members[name].peer
        assert not kept.members[name].has_moved(replace(before, key="of another process")), "not at once"
        host = end_worker()
        cluster.add_worker(name)
        until(lambda: answers() and kept.members[name].peer != before, "its old process is used for good")
        until(lambda: answers() and kept.members[name].settled, "the new one is not used")
        until(lambda: answers() and not host.is_running(), "what nobody uses any more does not end")
        host = end_worker()
        until(lambda: answers() and name not in kept.members, "a host whose worker has gone is used for good")
        until(lambda: answers() and not host.is_running(), "what nobody uses any more does not end")
    cluster.add_worker(name)
    two.wait_for_workers(2)


def test_an_orphan_stays_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its client lost the connection by which it was deployed, as long as its requests go on."""
    monkeypatch.setattr(hosts, "_BETWEEN_S", ORPHAN_S)
    path = checkpoints.make("olmoe", tmp_path)
    with hosting(settings={"orphan_s": ORPHAN_S}) as made:
        made.deploy(path)
        with Client(made) as client:
            made.host.orphaned_at = time.monotonic()
            last = made.host.orphaned_at + 1.5 * ORPHAN_S
            while time.monotonic() < last:
                client.submit([5, 6, 7], tokens=5).result(DEADLINE_S)
            assert not made.host._door.stopped.is_set()
            made.control.close()
            until(lambda: not made.host._controls, "the connection's end")
            last = time.monotonic() + 1.0
            while time.monotonic() < last:
                client.submit([5, 6, 7], tokens=5).result(DEADLINE_S)
            assert not made.host._door.stopped.is_set()
        assert until(made.host._door.stopped.is_set, "an orphan that nobody uses stays")


def test_an_orphan_to_which_somebody_is_merely_connected_ends(tmp_path: Path) -> None:
    with hosting(settings={"orphan_s": 0.5}) as made:
        made.deploy(checkpoints.make("olmoe", tmp_path))
        made.host.orphaned_at = time.monotonic()
        assert until(made.host._door.stopped.is_set, "it stays for somebody who asks nothing of it")
        assert time.monotonic() - made.host.orphaned_at >= 0.5


def test_a_silence_shorter_than_a_turn_cannot_be_asked_for() -> None:
    assert settings().host_silence_s == 30.0
    with pytest.raises(InvalidRequest, match="host_silence_s"):
        rios.local(workers=1, host_silence_s=0.5)
