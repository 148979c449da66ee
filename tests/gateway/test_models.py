"""Models behind a gateway: one deployment, whichever way it is asked for, and there again after whatever happened."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.reading import read_app
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments import bound
from rios.services.tenancy import Tenancy
from tests.gateway.servers import Door, lean, problem, serves, up
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


def test_a_name_is_one_models(door: Door) -> None:
    """Whichever way it is asked for: else users would get, and pay for, another one's tokens."""
    assert door.gate is not None
    store = door.gate.accounts.store
    head = store.audit_head()
    with door.client() as http:

        def model(name: str, served: str) -> Any:
            return http.post("/v1/apps", json={"name": name, "model": "demo", "served_name": served})

        assert model("name-a", "gpt").status_code == 202
        problem(model("name-b", "gpt"), 409)
        problem(http.post("/v1/deployments", json={"name": "gpt"}), 409)
        problem(model("gpt-c", "no name"), 400)
        assert model("name-b", "other").status_code == 202
        problem(http.patch("/v1/apps/name-b", json={"fields": {"served_name": "gpt"}}), 409)
        http.patch("/v1/apps/name-a", json={"fields": {"served_name": "old"}}).raise_for_status()
        http.patch("/v1/apps/name-b", json={"fields": {"served_name": "gpt"}}).raise_for_status()
        problem(http.post("/v1/apps/name-a/rollback", json={}), 409)
        assert http.post("/v1/apps/name-b/rollback", json={}).status_code == 202
        assert http.post("/v1/apps/name-a/rollback", json={}).status_code == 202
        made = {name: http.get(f"/v1/apps/{name}").json()["id"] for name in ("name-a", "name-b")}
        for name in made:
            assert http.delete(f"/v1/apps/{name}").status_code == 202
            http.delete(f"/v1/apps/{name}")  # which is written down once
    entries = [one for one in store.audit(after=head) if one.object in made.values()]
    assert sorted((one.action, one.detail["name"]) for one in entries) == [
        ("deployment.create", "gpt"), ("deployment.create", "other"),
        ("deployment.delete", "gpt"), ("deployment.delete", "other"),
    ]  # fmt: skip


def test_what_is_bound_to_a_process_is_its_owners(door: Door) -> None:
    """Colleagues learn no place of that machine, and change nothing."""
    assert door.gate is not None
    platform = door.gate.network._apps()
    wanted = read_app({"name": "notebook", "model": "/srv/operator/mixtral"})
    with door.client() as http:
        token = http.post("/v1/users", json={"login": "bound-colleague", "role": "developer"}).json()["token"]
    with platform.engine._occupied("one"), door.client() as operator, door.client(token) as http:
        bound.begin(
            platform.store, wanted, platform.engine.name, "one", app_id="app-bound", user_id=LOCAL_USER,
            organisation_id=FIRST_ORGANISATION,
        )  # fmt: skip
        file = {"version": 1, "apps": [{"name": "notebook", "model": "demo"}]}
        answers = [http.get("/v1/apps/notebook"), http.get("/v1/apps"), http.post("/v1/apps/plan", json=file)]
        answers += [
            http.post("/v1/apps/notebook/pause"), http.delete("/v1/apps/notebook"),
            http.patch("/v1/apps/notebook", json={"fields": {"dtype": "float16"}}),
            http.post("/v1/apps/apply", json=file), http.post("/v1/apps/notebook/scale", json={"min": 0}),
            http.post("/v1/apps/notebook/restart"), http.post("/v1/apps/notebook/rollback", json={}),
        ]  # fmt: skip
        assert [one.status_code for one in answers] == [200] * 3 + [403] * 7, [one.text for one in answers]
        assert answers[0].json()["specification"]["model"] == "mixtral"
        assert not any("/srv/" in one.text for one in answers)
        assert operator.get("/v1/apps/notebook").json()["specification"]["model"] == wanted.model
        assert operator.delete("/v1/apps/notebook").status_code == 202


def test_what_was_given_up_is_tried_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.deploy.deciding._BACKOFF_S", (0.0,))
    with lean(tmp_path / "home") as door, door.client() as http:
        http.post("/v1/deployments", json={"name": "chat"}).raise_for_status()
        until(lambda: http.get("/v1/apps/chat").json()["status"] == "failed", deadline_s=WAIT_S)
        assert http.get("/v1/deployments/chat").json()["state"] == "failed"
    with lean(tmp_path / "home") as door, door.client() as http:
        causes = [one["cause"] for one in http.get("/v1/apps/chat/events").json()["data"] if one["kind"] == "restart"]
        assert causes == ["a gateway has begun to serve models"]
        until(lambda: http.get("/v1/apps/chat").json()["status"] == "failed", "and given up again", deadline_s=WAIT_S)


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
