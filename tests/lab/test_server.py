"""The server half over HTTP and WebSocket: Jupyter's sign-in, XSRF and authorizer, and networks that are found."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websocket

from tests.lab.jupyter import DEADLINE_S, Jupyter, jupyter
from tests.waiting import until

READERS = """
from jupyter_server.auth import Authorizer


class Readers(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "rios" or action == "read"


c.ServerApp.authorizer_class = Readers
"""


@pytest.fixture(scope="module")
def network(server: Jupyter) -> Iterator[str]:
    """The id of a local network with one worker, started by the server."""
    made = server.ask("POST", "/rios/networks", json={"kind": "local", "workers": 1})
    assert made.status_code == 201, made.text
    yield made.json()["id"]
    server.ask("DELETE", f"/rios/networks/{made.json()['id']}")


@pytest.fixture(scope="module")
def other(server: Jupyter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """Another server of the same machine user, under JupyterHub's kind of prefix; its users may only read."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_server_config.py").write_text(READERS)
    with jupyter(folder, base_url="/user/bob/", runtime=server.runtime) as one:
        yield one


@contextlib.contextmanager
def _signed_in(server: Jupyter) -> Iterator[httpx2.Client]:
    """A browser's cookies, without a token."""
    with httpx2.Client(base_url=server.url, follow_redirects=True, timeout=DEADLINE_S) as client:
        client.get(f"{server.url}/lab", params={"token": server.token})
        yield client


def _file(server: Jupyter, network_id: str) -> Path:
    return server.runtime / f"rios-network-{network_id}.json"


@contextlib.contextmanager
def _following(server: Jupyter) -> Iterator[Any]:
    header = {"Authorization": f"token {server.token}"}
    made = websocket.WebSocket()
    try:
        made.settimeout(DEADLINE_S)
        made.connect(server.url.replace("http://", "ws://") + "/rios/stream", header=header)
        yield made
    finally:
        made.shutdown()


def _handshake(server: Jupyter, headers: dict[str, str]) -> int:
    """The status with which the WebSocket's first request is answered: 101 where it is taken."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        lines = [f"GET {server.base_url.rstrip('/')}/rios/stream HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += [
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(raw.recv(100).split()[1])


def _next(tab: Any, key: str) -> Any:
    """The next message that has this."""
    while True:
        said = json.loads(tab.recv())
        if key in said:
            return said[key]


def test_strangers_get_nothing(server: Jupyter, network: str) -> None:
    for path in ("/rios/networks", f"/rios/networks/{network}/state", f"/rios/networks/{network}/usage"):
        assert httpx2.get(f"{server.url}{path}").status_code == 403
    assert _handshake(server, {}) == 403


def test_a_cookie_alone_moves_nothing(server: Jupyter, network: str) -> None:
    """A form on another site sends the cookie, and has no way to the XSRF token."""
    with _signed_in(server) as client:
        assert client.get(f"/rios/networks/{network}/state").status_code == 200
        body = {"action": "deposit", "amount": "1 ROS"}
        assert client.post(f"/rios/networks/{network}/plan", json=body).status_code == 403
        assert client.delete(f"/rios/networks/{network}").status_code == 403
        cookies = {one.name: one.value for one in client.cookies.jar}
        header = {"X-XSRFToken": str(cookies["_xsrf"])}
        assert client.post(f"/rios/networks/{network}/plan", json=body, headers=header).status_code == 200
        evil = {**header, "Origin": "https://evil.example"}
        assert client.post(f"/rios/networks/{network}/plan", json=body, headers=evil).status_code in (403, 404)
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    assert _handshake(server, {"Cookie": cookie, "Origin": server.url}) == 101
    assert _handshake(server, {"Cookie": cookie, "Origin": "https://evil.example"}) == 403


def test_keys_stay_on_the_server(server: Jupyter, network: str) -> None:
    said = json.loads(_file(server, network).read_text())
    assert _file(server, network).stat().st_mode & 0o777 == 0o600
    assert Path(said["socket"]).stat().st_mode & 0o777 == 0o600
    assert Path(said["socket"]).parent.stat().st_mode & 0o777 == 0o700
    shown = server.ask("GET", "/rios/networks").text + server.ask("GET", f"/rios/networks/{network}/state").text
    assert said["key"] not in shown
    assert said["socket"] not in shown
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=said["socket"])) as client:
        assert client.get("http://panel/state").status_code == 403
        assert client.get("http://panel/state", headers={"X-Rios-Key": "guess"}).status_code == 403
        assert client.get("http://panel/state", headers={"X-Rios-Key": said["key"]}).status_code == 200


def test_files_that_others_could_write_are_not_believed(server: Jupyter, network: str) -> None:
    said = json.loads(_file(server, network).read_text())
    fake = "f" * 16
    file = _file(server, fake)
    file.touch(mode=0o600)
    file.write_text(json.dumps({**said, "id": fake}))
    assert server.ask("GET", f"/rios/networks/{fake}/state").status_code == 200, "the copy works where it is private"
    file.chmod(0o640)
    assert server.ask("GET", f"/rios/networks/{fake}/state").status_code == 404
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        assert server.ask("GET", f"/rios/networks/{fake}/state").status_code == 404
        os.chown(file, 0, 0)
    file.write_text(json.dumps({**said, "id": fake, "kernel": "another-server-s", "child": None}))
    assert server.ask("GET", f"/rios/networks/{fake}/state").status_code == 404
    file.unlink()
    file.symlink_to(_file(server, network))
    assert server.ask("GET", f"/rios/networks/{fake}/state").status_code == 404
    file.unlink()


def test_what_a_dead_process_left_is_swept_up(server: Jupyter, network: str) -> None:
    said = json.loads(_file(server, network).read_text())
    with subprocess.Popen(["true"]) as ended:
        ended.wait(DEADLINE_S)
    file = _file(server, "e" * 16)
    file.touch(mode=0o600)
    file.write_text(json.dumps({**said, "id": "e" * 16, "pid": ended.pid}))
    server.ask("GET", "/rios/networks")
    assert not file.exists()


def test_a_plan_is_done_once(server: Jupyter, network: str) -> None:
    root = f"/rios/networks/{network}"
    plan = server.ask("POST", f"{root}/plan", json={"action": "deposit", "amount": "2.000000000000000001 ROS"}).json()
    deposited = next(one for one in plan["changes"] if one["what"] == "deposited")
    assert int(deposited["after_wei"]) - int(deposited["before_wei"]) == 2_000_000_000_000_000_001
    first = server.ask("POST", f"{root}/act", json={"plan": plan["plan"]})
    again = server.ask("POST", f"{root}/act", json={"plan": plan["plan"]})
    assert first.status_code == 200, first.text
    assert first.json() == again.json()
    wallet = server.ask("GET", f"{root}/state").json()["sections"]["wallet"]["data"]
    assert wallet["deposited_wei"] == deposited["after_wei"]
    assert server.ask("POST", f"{root}/act", json={"plan": "made up"}).status_code == 404


@pytest.mark.parametrize(
    ("action", "given", "status"),
    [
        ("deposit", {"amount": "1e5 ROS"}, 400),
        ("deposit", {"amount": "-1"}, 400),
        ("deposit", {"amount": "0"}, 400),
        ("deposit", {"amount": "9" * 60}, 400),
        ("withdraw", {"amount": "5000"}, 400),
        ("budget", {"amount": "1", "period": "hour"}, 400),
        ("claim", {}, 400),
        ("drain", {}, 400),
        ("settle", {"amount": "1"}, 400),
    ],
)
def test_refusals_say_what_is_wrong(server: Jupyter, network: str, action: str, given: Any, status: int) -> None:
    answer = server.ask("POST", f"/rios/networks/{network}/plan", json={"action": action, **given})
    assert answer.status_code == status
    assert len(answer.json()["detail"]) > 20


def test_events_are_taken_up_where_they_were_left(server: Jupyter, network: str) -> None:
    root = f"/rios/networks/{network}"
    with _following(server) as tab:
        assert network in [one["id"] for one in _next(tab, "networks")]
        last = server.ask("GET", f"{root}/state").json()["last"]
        tab.send(json.dumps({"follow": network, "last": last}))
        seen = _next(tab, "event")["id"]
    plan = server.ask("POST", f"{root}/plan", json={"action": "budget", "amount": "7", "period": "day"}).json()
    server.ask("POST", f"{root}/act", json={"plan": plan["plan"]})
    with _following(server) as tab:
        tab.send(json.dumps({"follow": network, "last": seen}))
        event = _next(tab, "event")
        while event["data"]["name"] != "spend":
            assert event["name"] == "section"
            event = _next(tab, "event")
        assert event["data"]["section"]["data"]["budgets"][0]["limit_wei"] == str(7 * 10**18)
    with _following(server) as tab:
        tab.send(json.dumps({"follow": network, "last": "00000000.1"}))
        assert _next(tab, "event")["name"] == "reset", "of another process: everything is read anew"


def test_two_users_see_their_own_and_the_authorizer_is_asked(server: Jupyter, other: Jupyter, network: str) -> None:
    # Beside it, of the same user, those of notebooks that other tests left open.
    assert network in [one["id"] for one in server.ask("GET", "/rios/networks").json()["networks"]]
    assert other.ask("GET", "/rios/networks").json() == {"networks": []}
    assert other.ask("GET", f"/rios/networks/{network}/state").status_code == 404
    assert other.ask("POST", "/rios/networks", json={"kind": "local", "workers": 1}).status_code == 403
    assert other.ask("POST", f"/rios/networks/{network}/plan", json={"action": "settle"}).status_code == 403
    assert other.ask("DELETE", f"/rios/networks/{network}").status_code == 403


def test_a_network_that_ends_is_not_there_any_more(server: Jupyter, network: str) -> None:
    assert server.ask("POST", "/rios/networks", json={"kind": "local", "workers": 99}).status_code == 400
    refused = server.ask(
        "POST", "/rios/networks", json={"kind": "remote", "url": "http://127.0.0.1:9", "token": "s3cret"}
    )
    assert refused.status_code == 503
    assert "s3cret" not in refused.text
    assert "s3cret" not in server.log.read_text()
    with _following(server) as tab:
        tab.send(json.dumps({"follow": network, "last": None}))
        _next(tab, "following")
        pid = json.loads(_file(server, network).read_text())["pid"]
        assert server.ask("DELETE", f"/rios/networks/{network}").status_code == 204
        assert _next(tab, "lost")["type"] == "NetworkClosed"
    until(lambda: not Path(f"/proc/{pid}").exists(), "the network's process ended", deadline_s=DEADLINE_S)
    assert not _file(server, network).exists()
