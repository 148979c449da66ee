"""The streams of jobs: they say that they are alive, and a user has so many of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from rios.gateway.routes import jobs
from tests.gateway.servers import Door, problem
from tests.waiting import until


def test_a_job_that_waits_says_that_it_is_there(network: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def waits(*_: Any) -> AsyncGenerator[bytes]:
        yield b"event: piece\ndata: {}\n\n"
        await asyncio.sleep(120)

    with network.client() as http:
        path = f"/v1/jobs/{_job(http)}/events"
        monkeypatch.setattr(jobs, "_events", waits)
        monkeypatch.setattr(jobs, "_ALIVE_S", 0.05)
        with http.stream("GET", path) as stream:
            lines = (line for line in stream.iter_lines() if line)
            assert [next(lines) for _ in range(4)] == ["event: piece", "data: {}", ": alive", ": alive"]
            monkeypatch.setattr(jobs, "STREAMS_PER_USER", 1)
            with network.client() as other:
                refused = problem(other.get(path), 429)
                assert refused["detail"] == "a user has at most 1 streams of jobs; close one"
        monkeypatch.undo()
        monkeypatch.setattr(jobs, "STREAMS_PER_USER", 1)
        until(lambda: http.get(path).status_code == 200, "the place of the stream that was closed", deadline_s=30)


def _job(http: Any) -> str:
    made = http.post("/v1/jobs", json={"model": "demo", "prompt": "It was", "max_new_tokens": 1})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])
