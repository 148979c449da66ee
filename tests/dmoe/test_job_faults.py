"""What goes wrong on the way of a request is told with its end: so often, of whom, and no more than went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rios.dmoe import job as module
from rios.dmoe.faults import FAILED, HEDGED, HOST_FAILED, STALLED, TRUNK_LOST, Faults
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams
from rios.dmoe.tokenizer import Tokenizing
from rios.words.errors import TrunkLost
from rios.words.events import Ended, Stream

STALL_S = 2.0


class Tab:
    """Allows `covered` tokens, and keeps what it is told at the end."""

    def __init__(self, covered: int) -> None:
        self.covered = covered
        self.ended: list[Ended] = []

    def extend(self, stream: Stream) -> None:
        stream.pause()

    def close(self, ended: Ended) -> Callable[[], None]:
        self.ended.append(ended)
        return lambda: None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the performance counter of a job says: the last of these."""
    told = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: told[-1])
    return told


def make(tab: Tab) -> Job:
    return Job(
        "0123456789abcdef", 7, [1, 2, 3], SamplingParams(max_new_tokens=100), seed=0, model="demo",
        tokenizing=Tokenizing(None), cancel=lambda _: None, tab=tab, stall_s=STALL_S,
    )  # fmt: skip


def found(tab: Tab) -> dict[tuple[str, str], tuple[int, int]]:
    (ended,) = tab.ended
    return {(one.kind, one.about): (one.count, one.longest_us) for one in ended.faults}


def test_a_request_that_nothing_happens_to_has_none(clock: list[float]) -> None:
    tab = Tab(100)
    job = make(tab)
    job.begin("a trunk")
    clock.append(200.0)  # it waited for its first token: that is the queue
    for after_s in (0.1, STALL_S, 0.1):
        clock.append(clock[-1] + after_s)
        job.take("a trunk", tokens=[5])
    job.take("a trunk", finish="length")
    assert found(tab) == {}


def test_stalls_are_counted_and_waiting_for_money_is_none(clock: list[float]) -> None:
    tab = Tab(5)
    job = make(tab)
    for after_s in (0.0, 0.1, 3.0, 0.1, 4.5):
        clock.append(clock[-1] + after_s)
        job.take(tokens=[5])
    assert job.status == "paused"
    clock.append(clock[-1] + 60.0)
    job.allow(100)
    clock.append(clock[-1] + 1.0)
    job.take(tokens=[5], finish="stop")
    assert found(tab) == {(STALLED, ""): (2, 4_500_000)}


def test_lost_trunks_and_late_hosts_are_told(clock: list[float]) -> None:
    tab = Tab(100)
    job = make(tab)
    job.begin("one")
    job.take("one", tokens=[5], faults={"host-a": [2, 0], "host-b": [0, 1]})
    job.take("one", tokens=[5], faults={"host-a": [1, 3]})
    job.begin("two")
    job.take("one", tokens=[5], faults={"host-c": [1, 0]})  # of a trunk that is not heard any more
    job.abort(TrunkLost("no trunk"))
    assert found(tab) == {
        (HOST_FAILED, "host-a"): (2, 0), (HEDGED, "host-a"): (1, 0), (HEDGED, "host-b"): (1, 0),
        (TRUNK_LOST, ""): (1, 0), (FAILED, "TrunkLost"): (1, 0),
    }  # fmt: skip


def test_who_cancels_has_no_fault(clock: list[float]) -> None:
    tab = Tab(100)
    make(tab).cancel()
    assert found(tab) == {}


@pytest.mark.parametrize("said", [{"a": 1}, {"a": [1]}, {"a": ["x", 0]}, {"a": [[], 0]}, {"a": [1, 2, 3]}])
def test_what_no_trunk_says_is_refused(said: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Faults(STALL_S).hosts(said)


def test_a_trunk_that_names_any_number_of_hosts_fills_no_memory() -> None:
    faults = Faults(STALL_S)
    faults.hosts({f"{'x' * 1000}{number}": [1, 1] for number in range(10_000)} | {"y" * 10_000: [1, 0]})
    kept = faults.found(None)
    assert len(kept) <= 256
    assert max(len(one.about) for one in kept) <= 200
