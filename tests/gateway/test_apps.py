"""Applications behind a gateway: strangers' programs under its address get nothing of it, and give it nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rios.services.deployments import sockets
from rios.words.errors import InvalidRequest
from tests.client.conftest import Both, both  # noqa: F401  fixtures
from tests.deployments.stage import RESOURCES, WEB
from tests.gateway.servers import Door
from tests.waiting import PATIENCE, until

WAIT_S = 60.0 * PATIENCE
ECHO = """
import http.server, json, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps({"headers": dict(self.headers), "path": self.path, "env": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Set-Cookie", "session=stolen; Path=/")
        self.send_header("Content-Security-Policy", "default-src *")
        self.send_header("X-Own", "kept")
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""


TELLER = """
import http.server, json, os, urllib.error, urllib.request
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.said({})
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        token = wanted.get("token", open("/run/secrets/RIOS_TOKEN").read())
        headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        data = None if wanted["data"] is None else json.dumps(wanted["data"]).encode()
        request = urllib.request.Request(os.environ["RIOS_GATEWAY_URL"] + wanted["path"], data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.said({"status": answer.status, "body": answer.read().decode()})
        except urllib.error.HTTPError as error:
            self.said({"status": error.code, "body": error.read().decode()})
    def said(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""
SOCKET = """
import base64, hashlib, json, os, socketserver, struct
class Talk(socketserver.StreamRequestHandler):
    def say(self, kind, data):
        n = len(data)
        long = bytes([n]) if n < 126 else struct.pack(">BH", 126, n) if n < 65536 else struct.pack(">BQ", 127, n)
        self.wfile.write(bytes([0x80 | kind]) + long + data)
    def hear(self):
        kind, n = self.rfile.read(2)
        n &= 127
        n = n if n < 126 else int.from_bytes(self.rfile.read(2 if n == 126 else 8), "big")
        mask = self.rfile.read(4) * (n // 4 + 1)
        return kind & 15, bytes(a ^ b for a, b in zip(self.rfile.read(n), mask))
    def handle(self):
        path = self.rfile.readline().decode().split()[1]
        lines = iter(lambda: self.rfile.readline().decode().strip(), "")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if "sec-websocket-key" not in headers or path == "/no":
            status = "403 Forbidden" if path == "/no" else "200 OK"
            self.wfile.write(f"HTTP/1.1 {status}\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n".encode())
            return
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        chosen = headers.get("sec-websocket-protocol", "").split(",")[0]
        answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        answer += ["Sec-WebSocket-Accept: " + accept] + (["Sec-WebSocket-Protocol: " + chosen] if chosen else [])
        self.wfile.write(("\\r\\n".join(answer) + "\\r\\n\\r\\n").encode())
        while True:
            kind, data = self.hear()
            if data == b"asked": data = json.dumps({"path": path, "headers": headers}).encode()
            if data == b"bye": kind, data = 8, struct.pack(">H", 4001) + b"because"
            self.say({9: 10}.get(kind, kind), data)
            if kind == 8: return
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
Server(("0.0.0.0", int(os.environ["PORT"])), Talk).serve_forever()
"""


@pytest.fixture(scope="module")
def door(both: Both) -> Door:  # noqa: F811
    return Door(both.url, both.token, both.gate)


@pytest.fixture(scope="module")
def apps(door: Door) -> Iterator[Any]:
    with door.client() as http:
        for name, access in (("closed", "platform"), ("open", "public")):
            body = {"name": name, "command": [*WEB, ECHO], "port": 8000, "access": access, "resources": RESOURCES}
            made = http.post("/v1/apps", json=body | {"grace": 1})
            assert made.status_code == 202, made.text
        deploy = door.gate.network.deploy
        for name in ("closed", "open"):
            deploy.get(name).wait(timeout=WAIT_S)
        yield http
        for name in ("closed", "open"):
            deploy.get(name).delete()


def test_an_application_sees_no_token_and_sets_no_cookie(door: Door, apps: Any) -> None:
    found = apps.get("/apps/closed/some/path?a=b", headers={"Cookie": "rios_session=secret", "X-Mine": "kept"})
    assert found.status_code == 200
    said = found.json()
    headers = {name.lower(): value for name, value in said["headers"].items()}
    assert said["path"] == "/some/path?a=b"
    assert headers["x-mine"] == "kept"
    assert not {"authorization", "cookie"} & headers.keys()
    assert door.token not in found.text
    assert "set-cookie" not in found.headers
    assert found.headers["x-own"] == "kept"
    assert found.headers["content-security-policy"].startswith("sandbox ")
    assert "allow-same-origin" not in found.headers["content-security-policy"]


def test_who_forgets_the_slash_is_sent_on_with_all_that_was_asked(apps: Any) -> None:
    for asked in ("", "?a=b&c=%0d%0ad%20e", "?next=https://elsewhere.example/"):
        found = apps.get(f"/apps/closed{asked}", follow_redirects=False)
        assert (found.status_code, found.headers["location"]) == (308, f"/apps/closed/{asked}")


@pytest.fixture(scope="module")
def teller(door: Door, apps: Any) -> Iterator[Any]:
    """Asks the gateway of its own network for what it is told to."""
    fields = {"command": [*WEB, TELLER], "port": 8000, "egress": ["gateway"], "resources": RESOURCES, "grace": 1}
    made = apps.post("/v1/apps", json={"name": "teller", **fields})
    assert made.status_code == 202, made.text
    app = door.gate.network.deploy.get("teller")
    app.wait(timeout=WAIT_S)

    def ask(path: str, data: Any = None, **more: Any) -> tuple[int, Any]:
        found = apps.post("/apps/teller/", json={"path": path, "data": data, **more})
        assert found.status_code == 200, found.text
        said = found.json()
        return said["status"], json.loads(said["body"])

    yield ask
    app.delete()


def test_an_application_asks_the_models_of_its_network_and_nothing_else(door: Door, teller: Any) -> None:
    chat = door.gate.network.deploy.create(name="chat-of-apps", model="demo", dtype="float32").wait(timeout=300)
    assert [one["id"] for one in teller("/v1/models")[1]["data"]] == ["chat-of-apps"]
    asked = {"model": "chat-of-apps", "prompt": "It was a fine morning,", "max_tokens": 8, "temperature": 0}
    status, said = teller("/v1/completions", asked)
    assert status == 200
    alone = chat.model.generate("It was a fine morning,", max_new_tokens=8, temperature=0)
    assert said["choices"][0]["text"] == alone.text
    used = door.gate.network.billing.usage()
    paid = used[(used.model == "chat-of-apps") & (used.resource == "tokens_out")]
    assert paid.quantity.sum() == 2 * alone.usage.completion_tokens, "its user pays for both"
    for path in ("/", "/v1/apps", "/v1/tokens", "/v1/network", "/docs", "/openapi.json", "/metrics", "/apps/closed/"):
        assert teller(path)[0] == 404, path
    assert teller("/v1/models", token="rios_sk_not_a_token")[0] == 401
    assert teller("/v1/models", token="")[0] == 401
    chat.delete()


def test_the_key_of_an_application_may_no_more_at_the_gateway_itself(door: Door, teller: Any) -> None:
    found = door.gate.network.deploy.get("teller").exec(["cat", "/run/secrets/RIOS_TOKEN"]).stdout.decode()
    with door.client(found) as key:
        assert key.get("/v1/models").status_code == 200
        for path in ("/v1/tokens", "/v1/audit", "/v1/users"):
            assert key.get(path).status_code == 403, path


def test_nobody_deploys_what_may_more_than_its_user(door: Door, apps: Any) -> None:
    scopes = ["deployments:write", "models:read"]
    made = apps.post("/v1/tokens", json={"name": "no models", "scopes": scopes}).json()
    body = {"name": "sly", "command": ["sleep", "9"], "resources": {"memory": "9TiB"}}
    with door.client(made["token"]) as sly:
        found = sly.post("/v1/apps", json=body | {"egress": ["gateway"]})
        assert (found.status_code, "generate" in found.text) == (403, True)
        assert sly.post("/v1/apps", json=body).status_code == 202
        found = sly.patch("/v1/apps/sly", json={"fields": {"egress": ["gateway"]}})
        assert found.status_code == 403
        assert sly.delete("/v1/apps/sly").status_code == 202


@pytest.fixture(scope="module")
def talk(door: Door, apps: Any) -> Iterator[Any]:
    app = door.gate.network.deploy.create(name="talk", command=[*WEB, SOCKET], port=8000, resources=RESOURCES, grace=2)
    yield app.wait(timeout=WAIT_S)
    app.delete()


def ws(door: Door, path: str, token: str | None = None, **more: Any) -> Any:
    """A WebSocket at the gateway, with the first admin's token or another one."""
    token = door.token if token is None else token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = door.url.replace("http://", "ws://") + path
    return connect(url, additional_headers=headers, proxy=None, max_size=1 << 22, **{"open_timeout": WAIT_S} | more)


def closed(socket: Any) -> tuple[int, str]:
    """The code and reason by which a socket is closed, which it is soon."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=WAIT_S)
    return socket.close_code, socket.close_reason


def test_a_socket_goes_both_ways(door: Door, talk: Any) -> None:
    with ws(door, "/apps/talk/a%20b?c=d", subprotocols=["chat", "other"]) as socket:
        assert socket.subprotocol == "chat"
        for message in ("hello", "\N{SNOWMAN}", b"\0\xff", "", b"x" * 300_000):
            socket.send(message)
            assert socket.recv(timeout=WAIT_S) == message
        socket.send("asked")
        asked = json.loads(socket.recv(timeout=WAIT_S))
        assert asked["path"] == "/a%20b?c=d"
        assert not {"authorization", "cookie"} & asked["headers"].keys()
        assert door.token not in str(asked)
        socket.send("bye")
        assert closed(socket) == (4001, "because")
    local = talk.url.replace("http://", "ws://")
    with connect(f"{local}/x", proxy=None) as socket:
        socket.send("here")
        assert socket.recv(timeout=WAIT_S) == "here"


def test_who_may_open_a_socket(door: Door, talk: Any) -> None:
    for path, token, status in (
        ("/apps/talk/", "", 401), ("/apps/talk/", "rios_sk_not_a_token", 401), ("/apps/none/", None, 404),
        ("/apps/talk/no", None, 403), ("/apps/closed/", None, 502),
    ):  # fmt: skip
        with pytest.raises(InvalidStatus) as refused:
            ws(door, path, token)
        assert refused.value.response.status_code == status, path
        assert b"urn:rios:error:" in refused.value.response.body
    with pytest.raises(InvalidStatus) as refused:
        ws(door, "/v1/apps")
    assert refused.value.response.status_code == 403


def test_a_ticket_opens_a_socket_too(door: Door, talk: Any, apps: Any) -> None:
    path = apps.post("/v1/apps/talk/ticket", json={}).json()["path"]
    with ws(door, f"{path}a?b=c", "") as socket:
        socket.send("asked")
        said = json.loads(socket.recv(timeout=WAIT_S))
        assert said["path"] == "/a?b=c"
        assert path.split("/")[2] not in str(said)
    with pytest.raises(InvalidStatus) as refused:
        ws(door, f"{path[:-2]}/", "")
    assert refused.value.response.status_code == 401


def test_the_bounds_of_a_socket(door: Door, talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with ws(door, "/apps/talk/") as socket:
        socket.send(b"x" * (sockets.MESSAGE_BYTES + 1))
        assert closed(socket)[0] == 1009
    monkeypatch.setattr(sockets, "SOCKETS_MAX", 1)
    platform = door.gate.network._apps()
    until(lambda: platform.routes.sockets(platform.routes.of(talk.id)) == 0, deadline_s=60)
    with ws(door, "/apps/talk/") as socket:
        with pytest.raises(InvalidStatus) as refused:
            ws(door, "/apps/talk/")
        assert refused.value.response.status_code == 503
        socket.send("still")
        assert socket.recv(timeout=WAIT_S) == "still"
        monkeypatch.setattr(sockets, "IDLE_S", 0.3)
        assert closed(socket) == (1001, "no message for 0.3 s")


def test_a_socket_is_told_when_its_replica_ends(door: Door, talk: Any) -> None:
    with ws(door, "/apps/talk/") as socket:
        socket.send("before")
        assert socket.recv(timeout=WAIT_S) == "before"
        talk.restart()
        assert closed(socket) == (1012, "this replica ends; connect again")
    with ws(door, "/apps/talk/") as socket:
        socket.send("after")
        assert socket.recv(timeout=WAIT_S) == "after"
    talk.wait(timeout=WAIT_S)


def test_who_may_ask(door: Door, apps: Any) -> None:
    with door.client("") as nobody:
        assert nobody.get("/apps/open/").status_code == 200
        assert nobody.get("/apps/closed/").status_code == 401
        assert nobody.get("/apps/none/").status_code == 401
        assert nobody.get("/apps/open").headers["location"] == "/apps/open/"
    with door.client("rios_sk_not_a_token") as wrong:
        assert wrong.get("/apps/open/").status_code == 401
    assert apps.get("/apps/none/").status_code == 404
    made = apps.post("/v1/organisations", json={"name": "elsewhere", "admin": "head"}).json()
    with door.client(made["token"]) as other:
        assert other.get("/apps/closed/").status_code == 404
        assert other.get("/apps/open/").status_code == 200
        assert other.get("/v1/apps/closed").status_code == 404
        assert other.get("/v1/apps").json()["data"] == []
        # Whoever takes the same name later takes over nobody's address.
        body = {"name": "open", "command": ["sleep", "9"], "port": 8000, "access": "public"}
        assert other.post("/v1/apps", json=body | {"resources": {"memory": "9TiB"}}).status_code == 202
        with door.client("") as nobody:
            assert nobody.get("/apps/open/").status_code == 200
        assert other.delete("/v1/apps/open").status_code == 202


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rootfs", "/etc/passwd"),
        ("model", "/etc"),
        ("secrets", {"A": {"env": "PATH"}}),
        ("privileged", True),
        ("user", 0),
        ("volumes", {"/etc": "1MiB"}),
        ("egress", ["169.254.169.254:80"]),
        ("name", "../closed"),
    ],
)
def test_nothing_of_the_gateways_machine_can_be_asked_for(apps: Any, field: str, value: Any) -> None:
    body = {"name": "wrong", "command": ["sleep", "9"], "resources": RESOURCES, field: value}
    if field == "model":
        del body["command"]
    found = apps.post("/v1/apps", json=body)
    assert found.status_code == 400, found.text
    assert "root:" not in found.text
    if field not in ("name", "model"):
        found = apps.patch("/v1/apps/closed", json={"fields": {field: value}})
        assert found.status_code == 400, found.text


def test_values_of_secrets_are_in_no_answer(apps: Any) -> None:
    body = {"name": "keeps", "command": ["sleep", "9"], "resources": {"memory": "9TiB"}, "secrets": {"A": "shibboleth"}}
    said = [apps.post("/v1/apps", json=body).text, apps.get("/v1/apps/keeps").text, apps.get("/v1/apps").text]
    said += [
        apps.get("/v1/apps/keeps/events").text,
        apps.post("/v1/apps/plan", json={"version": 1, "apps": [body]}).text,
    ]
    said += [apps.post("/v1/apps", json=body | {"secrets": {"A": ["shibboleth"]}}).text]
    assert "shibboleth" not in "".join(said)
    assert json.loads(said[1])["specification"]["secrets"] == {"A": {"store": "A"}}
    apps.delete("/v1/apps/keeps")


def test_a_check_of_ones_own_holds_for_updates_too() -> None:
    from rios.deploy.spec import App
    from rios.services.deployments.tenants import check

    check(App(name="fine", command=("true",)))
    with pytest.raises(InvalidRequest, match="rootfs"):
        check(App(name="wrong", command=("true",), rootfs="/tmp/x.tar"))
