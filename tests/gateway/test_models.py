"""Models behind a gateway: one deployment, whichever way it is asked for, and there again after whatever happened."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from rios.services.tenancy import Tenancy
from tests.gateway.servers import Door, problem, serves, up
from tests.waiting import until

WAIT_S = 60.0
_SAID = {"role": "user", "content": "It was"}
_ASKED = {"model": "Demo.1", "prompt": "It was", "max_tokens": 3, "temperature": 0}


def test_no_stream_waits_while_a_model_is_looked_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that carries all of them does not ask the database."""
    loops: list[bool] = []
    real = Tenancy.model

    def model(self: Tenancy, who: Any, name: str) -> Any:
        try:
            loops.append(bool(asyncio.get_running_loop()))
        except RuntimeError:
            loops.append(False)
        return real(self, who, name)

    monkeypatch.setattr(Tenancy, "model", model)
    with door.client() as http:
        problem(http.post("/v1/jobs", json={"model": "none", "prompt": "x"}), 404)
        assert http.post("/v1/completions", json=_ASKED).status_code == 404
        assert http.post("/v1/chat/completions", json={"model": "none", "messages": [_SAID]}).status_code == 404
    assert loops == [False, False, False]


def test_a_killed_gateway_serves_the_same_models_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home, "--workers", "1") as door, door.client() as http:
        assert http.post("/v1/deployments", json={"name": "Demo.1", "dtype": "float32"}).status_code == 202
        http.post("/v1/apps", json={"name": "chat", "model": "demo"}).raise_for_status()
        for name in ("Demo.1", "chat"):
            serves(http, name)
        assert [one["name"] for one in http.get("/v1/apps").json()["data"]] == ["chat", "demo-1"]
        assert [one["name"] for one in http.get("/v1/deployments").json()["data"]] == ["Demo.1", "chat"]
        text = http.post("/v1/completions", json=_ASKED).json()["choices"][0]["text"]
        problem(http.post("/v1/deployments", json={"name": "chat"}), 409)
        assert http.delete("/v1/deployments/chat").status_code == 204
        problem(http.get("/v1/deployments/chat"), 404)
        until(lambda: [one["name"] for one in http.get("/v1/apps").json()["data"]] == ["demo-1"], deadline_s=WAIT_S)
        door.process.send_signal(signal.SIGKILL)
        door.process.wait(30)
    with up(home, "--workers", "1") as door, door.client() as http:
        serves(http, "Demo.1")
        assert http.post("/v1/completions", json=_ASKED).json()["choices"][0]["text"] == text
        until(lambda: len(http.get("/v1/apps/demo-1/replicas").json()["data"]) == 1, deadline_s=WAIT_S)
        http.post("/v1/apps/demo-1/pause").raise_for_status()
        until(lambda: http.post("/v1/completions", json=_ASKED).status_code == 503, deadline_s=WAIT_S)
        assert "paused" in http.get("/v1/deployments/Demo.1").json()["reason"]
        http.post("/v1/apps/demo-1/resume").raise_for_status()
        serves(http, "Demo.1")
