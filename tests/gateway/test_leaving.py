"""Who leaves before the answer: what was being begun for him is ended, and its place is the next one's."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from rios.gateway import events
from rios.gateway.routes import jobs
from rios.services.generation import Model
from tests.gateway.servers import UNLIMITED, Door, problem, serving
from tests.holding import held_after
from tests.waiting import until

_LONG = {"model": "demo", "prompt": "It was a fine morning,", "temperature": 0.0}
_ROUTES = (("/v1/completions", "max_tokens"), ("/v1/jobs", "max_new_tokens"))


class Held:
    """Requests that are being submitted until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.may, self.left = threading.Event(), threading.Event(), threading.Event()
        self.jobs: list[Any] = []
        submit, gone = Model.submit, events._gone

        def held(model: Model, *given: Any, **more: Any) -> Any:
            self.came.set()
            assert self.may.wait(60)
            self.jobs.append(submit(model, *given, **more))
            return self.jobs[-1]

        async def heard(receive: Any) -> None:
            await gone(receive)
            self.left.set()

        monkeypatch.setattr(Model, "submit", held)
        monkeypatch.setattr(events, "_gone", heard)


@pytest.fixture
def narrow(network: Door) -> Iterator[Door]:
    """A gateway that has one place to generate."""
    with serving(network.gate, UNLIMITED.model_copy(update={"running_max": 1})) as url:
        yield Door(url, network.token, gate=network.gate)


@pytest.mark.parametrize(("path", "length"), _ROUTES, ids=["openai", "jobs"])
def test_who_leaves_while_it_is_submitted_cancels(
    narrow: Door, monkeypatch: pytest.MonkeyPatch, path: str, length: str
) -> None:
    held = Held(monkeypatch)
    leaving = http.client.HTTPConnection(narrow.url.removeprefix("http://"), timeout=30)
    headers = {"Authorization": f"Bearer {narrow.token}", "Content-Type": "application/json"}
    with closing(leaving), narrow.client() as client:
        leaving.request("POST", path, json.dumps({**_LONG, length: 450}), headers)
        assert held.came.wait(30)
        leaving.close()
        assert held.left.wait(30), "the gateway did not look whether the client is there"
        with held_after(40):  # a quick machine may generate all of it before that is heard of
            held.may.set()
            until(lambda: [one for one in held.jobs if one.status == "cancelled"], "the end of the job", deadline_s=30)
        assert len(held.jobs[0].token_ids) < 450
        assert client.post(path, json={**_LONG, length: 1}).status_code in (200, 201), "the place is free"


def test_a_job_that_gets_no_place_says_so_while_its_client_waits(narrow: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    monkeypatch.setattr(jobs, "_PLACE_S", 0.2)
    with narrow.client() as client:
        first = threading.Thread(target=lambda: client.post("/v1/jobs", json={**_LONG, "max_new_tokens": 1}))
        first.start()
        assert held.came.wait(30)
        refused = problem(client.post("/v1/jobs", json={**_LONG, "max_new_tokens": 1}), 503)
        assert "no place" in refused["detail"]
        held.may.set()
        first.join(60)
    assert len(held.jobs) == 1
