"""`net.jobs` behind an address at which two gateways answer in turn: it ends, and tells each change once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from rios.client.jobs import RemoteJobs
from rios.services.jobs import Jobs, JobView

COUNT = 1500


def view(number: int) -> JobView:
    return JobView(
        id=f"job-{number}", kind="generation", name=f"demo {number}", model="demo", owner="local", state="done",
        tokens=4, tokens_max=4, prompt_tokens=2, tokens_per_second=1.0, started_at=float(number), ended_at=number + 1.0,
        cost_wei=7, posted=True, hosts=(), error="",
    )  # fmt: skip


class InTurn:
    """Two gateways of one network behind one address, which know the same jobs."""

    def __init__(self, count: int) -> None:
        self.gateways = (Jobs(), Jobs())
        self.asked = 0
        self.put([view(number) for number in range(count)])

    def put(self, views: list[JobView]) -> None:
        for jobs in self.gateways:
            jobs.put([(one, "another gateway") for one in views], lambda _: None)

    def get(self, path: str, *, since: int, wait_s: float, limit: int) -> dict[str, Any]:
        assert path == "/v1/jobs"
        jobs = self.gateways[self.asked % 2]
        self.asked += 1
        version, found = jobs.peek(since, "local", limit=limit)
        if not found:
            time.sleep(min(wait_s, 0.05))
        return {"data": [one.to_dict() for one in found], "version": version, "more": len(found) == limit}


@pytest.mark.timeout(60)
def test_a_long_list_ends_and_is_whole() -> None:
    http = InTurn(COUNT)
    found = RemoteJobs(http).all()  # type: ignore[arg-type]
    assert len(found) == len({one.id for one in found}) >= 1000
    assert http.asked < 100


@pytest.mark.timeout(60)
def test_a_change_is_told_once_and_nothing_is_asked_all_the_time() -> None:
    http = InTurn(20)
    jobs = RemoteJobs(http)  # type: ignore[arg-type]
    version, found = jobs.changed(0, 1.0)
    assert len(found) == 20
    asked = http.asked
    version, found = jobs.changed(version, 1.2)
    assert found == []
    assert http.asked - asked < 30
    new = replace(view(3), cost_wei=8)
    http.put([new])
    version, found = jobs.changed(version, 5.0)
    assert found == [new]
