"""`rios up` as a process, the commands that talk to it, and what is still there after SIGKILL."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

import rios
from rios.cli import app
from rios.dmoe.authority import Authority
from rios.dmoe.greeting import connect
from rios.dmoe.trust import Trust
from rios.words.config import settings
from rios.words.errors import RiosError, Unauthorized
from tests.gateway.servers import Door, serves, up
from tests.gateway.services import free_port
from tests.waiting import until

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands") / "home"


@pytest.fixture(scope="module")
def door(home: Path) -> Iterator[Door]:
    with up(home, "--workers", "1") as found:
        yield found


def call(*arguments: str, home: Path, code: int = 0, told: str | None = None, **variables: str) -> str:
    """What a command says: on standard output, or as its error where it fails. In this process, which is quicker.

    told: its standard input.
    """
    kept = {name: None for name in os.environ if name.startswith("RIOS_")}
    logs = {name: logging.getLogger(name).level for name in ("rios", "distributed")}
    settings.cache_clear()
    try:
        variables = {"COLUMNS": "200", "RIOS_HOME": str(home)} | variables
        done = CliRunner().invoke(app, arguments, input=told, env=kept | variables)
    finally:
        settings.cache_clear()
        for name, level in logs.items():
            logging.getLogger(name).setLevel(level)
    failed = done.exit_code or (1 if done.exception else 0)
    assert failed == code, (done.output, done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, RiosError), done.exception
        return str(done.exception)
    return done.stdout


def test_a_session_at_the_command_line(door: Door, home: Path, tmp_path: Path) -> None:
    """The lines of the README: commands that see the home act as its first admin."""
    assert call("deploy", "demo", "--dtype", "float32", "--wait", home=home) == "demo serving\n"
    assert call("generate", PROMPT, "--max-new-tokens", "5", "--model", "demo", home=home).startswith(PROMPT)
    (worker,) = json.loads(call("workers", "--scheduler", door.scheduler, "--json", home=tmp_path))
    assert worker["state"] == "serving"  # who knows the scheduler joins as this one did
    token = call("token", "create", "--scope", "generate", "--quiet", home=home).strip()
    assert token.startswith("rios_sk_")
    # From elsewhere, by URL and token alone.
    there = {"RIOS_URL": door.url, "RIOS_TOKEN": token}
    said = json.loads(call("generate", PROMPT, "--max-new-tokens", "4", "--json", home=tmp_path, **there))
    assert said["completion_tokens"] == 4
    assert "lacks" in call("users", home=tmp_path, code=1, **there)
    assert "worker-0" in call("workers", home=home)
    assert [row["login"] for row in json.loads(call("users", "--json", home=home))] == ["admin"]
    other = call("users", "add", "bob", "--role", "viewer", "--quiet", home=home).strip()
    assert "RemoteNetwork" in call("login", door.url, "--token", other, home=tmp_path)
    assert "bob" not in call("token", "list", home=tmp_path)
    assert "lacks" in call("audit", home=tmp_path, code=1)
    call("logout", home=tmp_path)
    assert "rios login" in call("audit", home=tmp_path, code=1)
    assert "user.create" in call("audit", home=home)
    assert call("audit", "verify", home=home).startswith("whole: ")
    assert json.loads(call("limits", "--json", home=home))["limit"] == "1000000"
    key = json.loads(call("token", "list", "--json", home=home))[-1]
    call("token", "revoke", key["id"], home=home)
    assert "token" in call("generate", PROMPT, home=tmp_path, code=1, **there)


def test_roles_need_no_gateway(tmp_path: Path) -> None:
    assert "settlement:write" in call("roles", home=tmp_path)


def test_a_gateway_that_was_killed_comes_back_as_it_was_and_by_tls(door: Door, home: Path) -> None:
    """Started again it is told to speak TLS, before and behind its door: what it had is the same."""
    with door.client() as http:
        user = http.post("/v1/users", json={"login": "stays", "role": "developer"}).json()
        http.post(f"/v1/users/{user['id']}/credit", json={"amount": "2 ROS"}, headers={"Idempotency-Key": "a"})
        answer = http.post("/v1/jobs", json={"model": "demo", "prompt": PROMPT, "max_new_tokens": 6}).json()
        text = http.get(f"/v1/jobs/{answer['id']}", params={"wait_s": 60}).json()["result"]["text"]
        http.post("/v1/wallet/deposits", json={"amount": "3 ROS"}, headers={"Idempotency-Key": "b"}).raise_for_status()
        assert http.post("/v1/settlement", headers={"Idempotency-Key": "c"}).json()["root"]
        before = _kept(http)
        worker = http.get("/v1/workers").json()["data"][0]["pid"]
        os.kill(worker, signal.SIGSTOP)  # so that what follows is under way when the gateway is killed
        assert http.post("/v1/jobs", json={"model": "demo", "prompt": PROMPT, "max_new_tokens": 400}).status_code == 201
        assert http.get("/v1/wallet").json()["held_wei"] != "0"
    door.process.send_signal(signal.SIGKILL)
    door.process.wait(30)
    os.kill(worker, signal.SIGCONT)
    assert "rios up" in call("audit", home=home, code=1), "the file of a gateway that was killed is no gateway"
    port = free_port()
    with up(home, "--tls", "--redirect", str(port), "--workers", "1") as again:
        assert again.url.startswith("https://")
        again.ca = home / "certs" / "ca.pem"
        _is_as_it_was(again, door.token, before, user, text)
        _is_secured(again, home, port)


def _kept(http: httpx2.Client) -> dict[str, Any]:
    """What outlives a gateway: people, keys, money here and on the chain, and the last root."""
    paths = ("/v1/wallet", "/v1/wallet/chain", "/v1/users", "/v1/audit", "/v1/costs", "/v1/earnings")
    found: dict[str, Any] = {path: http.get(path).raise_for_status().json() for path in paths}
    found["keys"] = [key["id"] for key in http.get("/v1/tokens").json()["data"]]
    found["epoch"] = http.get("/v1/network").json()["epoch"]
    return found


def _is_as_it_was(again: Door, token: str, before: dict[str, Any], user: dict[str, Any], text: str) -> None:
    with again.client() as http:
        assert again.token == token
        until(lambda: http.get("/v1/wallet").json()["held_wei"] == "0", "what was held is released", deadline_s=60)
        assert _kept(http) == before, "a job that was under way costs nothing"
        assert before["epoch"]["root"]
        books = http.get("/v1/reconciliation").json()
        assert books["sound"], books
        serves(http, "demo")
        answer = http.post("/v1/jobs", json={"model": "demo", "prompt": PROMPT, "max_new_tokens": 6}).json()
        assert http.get(f"/v1/jobs/{answer['id']}", params={"wait_s": 60}).json()["result"]["text"] == text
        with again.client(user["token"]) as own:
            assert own.get("/v1/wallet").json()["available_wei"] == str(2 * 10**18)


def _is_secured(door: Door, home: Path, port: int) -> None:
    """Plain HTTP is sent on to TLS, and a worker behind it takes members of the network alone."""
    with door.client() as http:
        answer = http.get(f"http://127.0.0.1:{port}/live", follow_redirects=True)
        assert (str(answer.url), answer.status_code) == (f"{door.url}/live", 200)
    with rios.connect(door.url, token=door.token, ca=door.ca) as network:
        (worker,) = network.workers
    host, _, data_port = worker.address.rpartition(":")
    where = (host, int(data_port))
    hello = {"role": "control", "key": "guess", "session": "x"}
    with pytest.raises(RiosError):
        connect(where, hello, timeout_s=20, max_bytes=1 << 16, trust=None)
    trust = Trust(Authority(home / "certs").host("guest"))
    with pytest.raises(Unauthorized, match="wrong key"):  # which is said by TLS, to a member
        connect(where, hello, timeout_s=20, max_bytes=1 << 16, trust=trust)


def test_what_up_refuses(home: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = call("up", "--port", port, "--workers", "1", "--home", str(tmp_path / "home"), home=tmp_path, code=1)
    assert f"cannot listen at 127.0.0.1:{port}" in said
