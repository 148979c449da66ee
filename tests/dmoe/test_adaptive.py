"""Dask's workers by the scaler of deployments, on a cluster of Dask's own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rios
from rios.words.errors import InvalidRequest
from tests.waiting import until

WAIT_S = 60.0
QUICK = {"interval": "50ms", "stabilise": "10s", "start": "10s"}
_may = threading.Event()
FASTER = 20.0
"""Scalers look back for most of a minute: a minute of theirs takes three seconds here."""


def _adapt(cluster: Any, **options: Any) -> Any:
    scaler = cluster.adapt(Adaptive=rios.TargetTracking, **{**QUICK, **options})
    scaler._clock = lambda: FASTER * time.monotonic()
    return scaler


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
    ) as found:
        yield found


def _workers(cluster: Any) -> int:
    return len(cluster.scheduler_info["workers"])


def test_workers_follow_a_load_up_and_down_with_causes(cluster: Any) -> None:
    load = [0.0]
    scaler = _adapt(cluster, minimum=1, maximum=3, load=lambda: load[0], target=2)
    assert repr(scaler) == "<TargetTracking of 1 to 3 workers, 2 each>"
    load[0] = 11.0
    until(lambda: _workers(cluster) == 3, deadline_s=WAIT_S)
    load[0] = 3.0
    until(lambda: _workers(cluster) == 2, deadline_s=WAIT_S)
    load[0] = 0.0
    until(lambda: _workers(cluster) == 1, deadline_s=WAIT_S)
    ways = [(one.before, one.wanted) for one in scaler.changes]
    assert ways[0][0] == 1
    assert [after for _, after in ways] == [before for before, _ in ways[1:]] + [1]
    assert max(after for _, after in ways) == 3
    assert "a load of" in scaler.changes[0].cause
    assert "were needed for" in str(scaler.changes[-2])
    assert "nothing was asked for" in str(scaler.changes[-1])
    scaler.stop()


def test_to_zero_and_back_by_what_dask_itself_would_have(cluster: Any) -> None:
    from distributed import Client

    scaler = _adapt(cluster, minimum=0, maximum=3, idle="5s", target_duration="100ms", load=None, target=1)
    until(lambda: _workers(cluster) == 0, deadline_s=WAIT_S)
    _may.clear()
    with Client(cluster) as client:
        answers = client.map(_slowly, range(30))
        until(lambda: _workers(cluster) == 3, deadline_s=WAIT_S)
        _may.set()
        assert client.gather(answers) == list(range(30))
        del answers
        until(lambda: _workers(cluster) == 0, deadline_s=WAIT_S)
    assert scaler.changes[0].wanted == 0
    scaler.stop()


def _slowly(number: int) -> int:
    """As long as the test says: the workers are of its own process."""
    assert _may.wait(2 * WAIT_S)
    time.sleep(0.1)
    return number


def test_a_load_that_nobody_says_changes_nothing(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()
    said: list[Any] = [OSError("away"), None]

    def load() -> Any:
        if len(said) > 1:
            found = said.pop(0)
            if isinstance(found, Exception):
                raise found
            return found
        asked.set()
        return _later(9.0)

    scaler = _adapt(cluster, minimum=1, maximum=2, load=load, target=5)
    assert asked.wait(WAIT_S)
    until(lambda: _workers(cluster) == 2, deadline_s=WAIT_S)
    assert [one.message for one in caplog.records].count("nobody says how much there is to do") == 1
    scaler.stop()
    cluster.scale(1)


async def _later(value: float) -> float:
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize("wrong", [{"minimum": 3, "maximum": 2}, {"maximum": 0, "minimum": 0}, {"target": 0}])
def test_no_room_to_scale_in_is_said_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="room to scale in"):
        rios.TargetTracking(None, **wrong)  # type: ignore[arg-type]
