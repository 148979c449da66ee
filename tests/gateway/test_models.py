"""Models behind a gateway: one deployment, whichever way it is asked for, and there again after whatever happened."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.gateway.servers import problem, serves, up
from tests.waiting import until

WAIT_S = 60.0
_ASKED = {"model": "Demo.1", "prompt": "It was", "max_tokens": 3, "temperature": 0}


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
