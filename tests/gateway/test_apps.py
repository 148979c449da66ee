"""Applications behind a gateway: strangers' programs under its address get nothing of it, and give it nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rios.words.errors import InvalidRequest
from tests.client.conftest import Both, both, no_secret_is_logged  # noqa: F401  fixtures
from tests.deployments.stage import RESOURCES, WEB
from tests.gateway.servers import Door

WAIT_S = 60.0
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
