"""Who is there while the scheduler does not answer: the hosts that are known, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import rios
from rios.dmoe.membership import Membership
from rios.dmoe.scheduler import Scheduler as Way
from rios.storage.breaker import Breaker
from rios.words.config import Settings
from rios.words.errors import InvalidRequest, NetworkClosed
from tests.gateway.services import free_port
from tests.waiting import until


class Scheduler:
    """What a membership asks; it answers, or does not."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.scheduler = SimpleNamespace(identity=None)
        said = {"name": "a", "address": "127.0.0.1", "port": 1, "key": "k", "machine": "m"}
        self.workers = {"tcp://a": {"metrics": {"rios": said}}}

    def sync(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise TimeoutError("nothing came")
        return {"workers": self.workers}


def test_a_scheduler_that_does_not_answer_is_asked_by_one_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, now = Scheduler(), 0.0
    # Without its thread: what is asked here is all that is asked.
    monkeypatch.setattr("threading.Thread.start", lambda _: None)
    membership = Membership(lambda: scheduler, Settings())
    membership.breaker = Breaker("scheduler", clock=lambda: now)
    assert set(membership.hosts) == {"a"}
    scheduler.away = True
    membership.refresh()
    asked = scheduler.asked
    for _ in range(5):
        assert not membership.refresh()
    assert scheduler.asked == asked, "nobody waits for what is known not to answer"
    assert not membership.scheduler_alive
    assert set(membership.hosts) == {"a"}, "the last answer stands"
    scheduler.away, scheduler.workers = False, {}
    now = 1.0
    assert membership.refresh(), "it has changed"
    assert membership.scheduler_alive
    assert not membership.hosts


@contextlib.contextmanager
def dask_scheduler(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--dashboard-address", ":0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(port), "the scheduler", deadline_s=60)
        yield
    finally:
        process.kill()
        process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _connected(address: str) -> Way | None:
    """A way that does not wait for long; nothing where the scheduler took longer, as on a busy machine."""
    try:
        return Way(address, Settings(connect_timeout_s=1.0))
    except OSError:
        return None


def _loops() -> int:
    return sum("IO loop" in thread.name for thread in threading.enumerate())


def test_a_scheduler_that_was_away_for_longer_than_dasks_patience_is_found_again() -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    way: Way | None = None
    loops = _loops()
    try:
        with dask_scheduler(port):
            way = until(partial(_connected, address), "the first connection", deadline_s=60)
            membership = Membership(way, Settings(connect_timeout_s=1.0, membership_interval_s=0.1))
            first = way()
            until(lambda: membership.scheduler_alive, "an answer", deadline_s=60)
        until(lambda: first.status == "closed", "Dask's own client to give up", deadline_s=60)
        until(lambda: not membership.scheduler_alive, "that to be noticed", deadline_s=60)
        before = _loops()
        for _ in range(2):
            with pytest.raises(OSError, match="connect"):
                way()
        until(lambda: _loops() <= before, "the loops of attempts to end", deadline_s=60)
        with dask_scheduler(port):
            until(lambda: membership.scheduler_alive, "the scheduler to be found again", deadline_s=60)
            assert way() is not first
            membership.close()
    finally:
        if way is not None:
            way.close()
            with pytest.raises(NetworkClosed):
                way()
    until(lambda: _loops() <= loops, "all loops to end", deadline_s=60)


def test_a_client_that_did_not_close_in_time_is_collected_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, wrong.append
    try:
        port = free_port()
        with dask_scheduler(port):
            way = Way(f"tcp://127.0.0.1:{port}", Settings())
            monkeypatch.setattr(way(), "_close", lambda **_: asyncio.sleep(60))
            way.close()
            monkeypatch.undo()
            del way
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not wrong


@pytest.mark.parametrize("wrong", [{"call_timeout_s": -1}, {"workers_max": 3}, {"experts_timeout_s": "soon"}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        rios.connect("tcp://127.0.0.1:1", **wrong)
