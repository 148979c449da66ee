"""What a late start makes for a deployment that is deleted meanwhile: nothing is left of it on the host."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.protocol import Isolation
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import clear_up, promised_here, runtimes_of
from rios.services.deployments.volume_turns import VolumeTurns
from rios.words.errors import InvalidRequest, SandboxFailed
from tests.deployments.test_agents import order
from tests.waiting import PATIENCE, until

WAIT_S = 30.0 * PATIENCE
VOLUMES = {"/data": {"size": "1MiB", "keep": False}}


def _host(place: Path) -> LocalHost:
    return LocalHost("h", place, runtimes_of, promised_here(), network_id="net", isolation=Isolation.PROCESS)


@pytest.fixture
def place() -> Iterator[Path]:
    """Of sandboxes: their users have to pass through all above it."""
    with tempfile.TemporaryDirectory(prefix="rios-turns-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "apps"
        clear_up(Path(directory) / "apps")


@pytest.fixture
def host(place: Path) -> Iterator[LocalHost]:
    found = _host(place)
    yield found
    found.close()


@pytest.mark.needs("bwrap")
def test_a_start_that_goes_on_after_the_end_leaves_no_volume(
    host: LocalHost, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order("late-1", "sleep", "60", volumes=VOLUMES)
    begun, goes_on = threading.Event(), threading.Event()
    ensure = host._volumes.ensure

    def slowly(*args: Any) -> Path:
        begun.set()
        assert goes_on.wait(WAIT_S)
        return ensure(*args)

    monkeypatch.setattr(host._volumes, "ensure", slowly)
    with ThreadPoolExecutor(2) as pool:
        start = pool.submit(host.start, wanted)
        assert begun.wait(WAIT_S)
        end = pool.submit(host.forget, "org-1", "app-1", wanted.specification)
        until(lambda: host._turns.knows("app-1"), deadline_s=WAIT_S)
        goes_on.set()
        end.result(WAIT_S)
        # What it was to mount may be gone before it starts: then it says so.
        assert start.exception(WAIT_S) is None or isinstance(start.exception(), SandboxFailed)
    host.end("late-1", grace_s=0)
    host.clear("late-1")
    assert not list(place.glob("volumes/*/*/*"))
    # Whoever asks again for what is over makes none, also of the next process here.
    other = _host(place)
    for one in (host, other):
        with pytest.raises(InvalidRequest, match="app-1 was deleted"):
            one.start(order("late-2", "sleep", "60", volumes=VOLUMES))
    assert not list(place.glob("volumes/*/*/*"))
    other.close()


def test_what_was_deleted_is_remembered_for_a_day(tmp_path: Path) -> None:
    turns = VolumeTurns(tmp_path)
    with turns.making("living"):
        pass
    with turns.ending("old"):
        pass
    for name in ("living", "old"):
        os.utime(tmp_path / name, (0, 0))
    with turns.ending("new"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["living", "new"]
