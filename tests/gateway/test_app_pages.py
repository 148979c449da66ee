"""Applications with pages: a browser opens them, loads what they load, and gets nothing of the gateway by them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from rios.gateway.app_tickets import shown_path
from tests.client.conftest import Both, both  # noqa: F401  fixtures
from tests.deployments.stage import RESOURCES, WEB
from tests.gateway.servers import UNLIMITED, Door, serving
from tests.lab.browser import chromium
from tests.waiting import PATIENCE

WAIT_S = 60.0 * PATIENCE
PAGE = """
import http.server, json, os
PAGE = '''<html><link rel="stylesheet" href="a.css"><script src="a.js"></script><script type="module" src="m.js">
</script><body>here</body></html>'''
MODULE = '''
const say = async (asked) => { try { return (await asked).status } catch (error) { return String(error) } }
const put = {method: "PUT", headers: {"Content-Type": "application/json", "X-Own": "1"}, body: "{}"}
const of_gateway = new URL("/v1/users/me", location.href)
window.said = {script: window.script, get: await say(fetch("api")), put: await say(fetch("api", put)),
  color: getComputedStyle(document.body).color, gateway: await say(fetch(of_gateway)),
  sent: await say(fetch("api", {method: "POST", body: "x".repeat(3 << 20)}))}
document.title = "done"
'''
FILES = {"/": (PAGE, "text/html"), "/a.css": ("body { color: rgb(1, 2, 3) }", "text/css"),
  "/a.js": ("window.script = 'ran'", "text/javascript"), "/m.js": (MODULE, "text/javascript")}
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body, kind = FILES.get(self.path, (json.dumps(dict(self.headers)), "application/json"))
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body.encode())))):
            self.send_header(name, value)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body.encode())
    def do_PUT(self):
        left = int(self.headers.get("Content-Length", 0))
        while left: left -= len(self.rfile.read(min(left, 1 << 16)))
        self.do_GET()
    do_POST = do_PUT
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""
SEEN = {"script": "ran", "get": 200, "put": 200, "color": "rgb(1, 2, 3)", "sent": 200}


@pytest.fixture(scope="module")
def door(both: Both) -> Door:  # noqa: F811
    return Door(both.url, both.token, both.gate)


@pytest.fixture(scope="module")
def apps(door: Door) -> Iterator[Any]:
    deploy = door.gate.network.deploy
    made = [
        deploy.create(
            name=f"pages-{access}", command=[*WEB, PAGE], port=8000, access=access, resources=RESOURCES, grace=1
        )
        for access in ("public", "platform")
    ]
    yield [app.wait(timeout=WAIT_S) for app in made]
    for app in made:
        app.delete()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


def opened(browser: Any, url: str) -> dict[str, Any]:
    """What the page of an application found."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function("document.title == 'done'", timeout=WAIT_S * 1000)
    found: dict[str, Any] = page.evaluate("window.said")
    page.close()
    return found


def asked(url: str) -> tuple[int, str]:
    """Status and body, by a client that logs no address."""
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_browser_opens_what_is_for_everybody(browser: Any, door: Door, apps: Any) -> None:
    found = opened(browser, f"{door.url}/apps/pages-public/")
    assert "TypeError" in found.pop("gateway"), "a page of an application reads nothing of the gateway's"
    assert found == SEEN


def test_a_browser_opens_what_is_for_members_by_a_ticket(browser: Any, both: Both, apps: Any) -> None:  # noqa: F811
    with both.connect() as network:
        link = network.deploy.get("pages-platform").link(hours=0.1)
    found = opened(browser, link)
    assert "TypeError" in found.pop("gateway")
    assert found == SEEN
    status, said = asked(f"{link}headers")
    assert status == 200
    assert link.split("/")[4] not in said


def test_a_ticket_is_for_one_application_and_ends_with_who_asked(door: Door, apps: Any, both: Both) -> None:  # noqa: F811
    with door.client() as http:
        key = http.post("/v1/tokens", json={"name": "opens", "scopes": ["generate", "models:read"]}).json()
        viewer = http.post("/v1/users", json={"login": "looks-on", "role": "viewer"}).json()
    with both.connect(key["token"]) as network:
        link = network.deploy.get("pages-platform").link()
    assert asked(f"{link}x")[0] == 200
    head, ticket = link.rstrip("/").rsplit("/", 1)
    for wrong in (ticket[:-1] + ("A" if ticket[-1] != "A" else "B"), "~", "~rios_at_", "~x*", ticket + "AAAA"):
        status, said = asked(f"{head}/{wrong}/x")
        assert status == 401, wrong
        assert ticket[9:] not in said
    status, said = asked(f"{door.url}/v1/users/me")
    assert status == 401
    with door.client(viewer["token"]) as http:
        assert http.post("/v1/apps/pages-platform/ticket", json={}).status_code == 403
    with door.client(key["token"]) as http:
        assert http.post("/v1/apps/pages-platform/ticket", json={"lasts_s": 10**6}).status_code == 400
        assert http.post("/v1/apps/none/ticket", json={}).status_code == 404
    with door.client() as http:
        assert http.delete(f"/v1/tokens/{key['id']}").status_code in (200, 204)
    assert asked(f"{link}x")[0] == 401


def test_a_ticket_is_over(door: Door, apps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with door.client() as http:
        path = http.post("/v1/apps/pages-platform/ticket", json={"lasts_s": 60}).json()["path"]
    assert asked(f"{door.url}{path}x")[0] == 200
    now = door.gate.accounts.now
    monkeypatch.setattr(door.gate.accounts, "now", lambda: now() + 61_000_000)
    assert asked(f"{door.url}{path}x")[0] == 401


def test_applications_have_bounds_of_their_own(door: Door, apps: Any) -> None:
    settings = UNLIMITED.model_copy(
        update={
            "burst": 2,
            "rate_per_s": 0.001,
            "app_burst": 20,
            "app_rate_per_s": 0.001,
            "app_body_bytes_max": 2 << 20,
        }
    )
    with serving(door.gate, settings) as url, Door(url, "", door.gate).client() as http:
        assert http.post("/apps/pages-public/x", content=b"x" * (2 << 20)).status_code == 200
        assert http.post("/apps/pages-public/x", content=b"x" * ((2 << 20) + 1)).status_code == 413
        assert [http.get("/apps/pages-public/x").status_code for _ in range(19)] == [200] * 18 + [429]
        assert http.get("/v1/network").status_code == 200


def test_the_ticket_is_in_no_path_that_is_shown() -> None:
    assert shown_path("/apps/~rios_at_secret/a/b") == "/apps/~.../a/b"
    assert shown_path("/apps/name/~kept") == "/apps/name/~kept"
    assert shown_path("/apps/~x") == "/apps/~..."
