"""What everybody may see: the network's page and the API, which ask nobody for anything, and files kept forever."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest

from rios.gateway.pages import asset, assets
from rios.gateway.routes import dashboard
from rios.services.published import KEPT_S, RECONCILED_S, Publisher
from rios.words.errors import LedgerUnavailable
from tests.gateway.servers import Door, problem


class Addresses(HTMLParser):
    """All that a page refers to, and whether it has scripts or styles of its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action", "poster") or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            elif name == "href":
                self.linked.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.active.append(name)
        if tag in ("script", "style", "iframe", "object", "embed", "base"):
            self.active.append(tag)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_nothing_from_elsewhere(door: Door, path: str) -> None:
    with door.client("") as http:
        response = http.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy, "scripts are under default-src: none run"
        found = Addresses(response.text)
        assert found.active == []
        assert found.loaded
        for address in (*found.loaded, *found.linked):
            assert address.startswith("/"), address
            assert not address.startswith("//"), address
            assert http.get(address).status_code == 200, address


def test_files_are_named_by_their_contents_and_kept_forever(door: Door) -> None:
    with door.client("") as http:
        for name, (content, kind) in assets().items():
            response = http.get(f"/static/{name}")
            assert response.content == content
            assert response.headers["content-type"] == kind
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
            if not kind.startswith("text/javascript"):  # a script may name a place: what it can ask is below
                assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", content)
        assert re.fullmatch(r"/static/page\.[0-9a-f]{16}\.css", asset("page.css"))
        for wrong in ("page.css", "page.0000000000000000.css", "__init__.py", "..%2f__init__.py", "base.html.jinja"):
            problem(http.get(f"/static/{wrong}"), 404)


def test_the_one_page_with_a_script_lets_it_ask_this_gateway_alone() -> None:
    rules = {name: rule for name, _, rule in (part.strip().partition(" ") for part in dashboard.SCRIPTS.split(";"))}
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"


def test_a_page_is_light_and_dark(door: Door) -> None:
    css = assets()[asset("page.css").removeprefix("/static/")][0].decode()
    dark = css[css.index("prefers-color-scheme: dark") :]
    named = set(re.findall(r"(--\w+):", css[: css.index("prefers-color-scheme: dark")]))
    assert named == set(re.findall(r"(--\w+):", dark)), "a colour has no dark twin"


def test_a_network_without_workers_and_use_is_shown(door: Door) -> None:
    with door.client("") as http:
        found = http.get("/v1/network").json()
        assert found["models"] == found["hosts"] == []
        assert (found["tokens"], found["paid_wei"], found["epoch"]) == (0, "0", None)
        assert found["reconciliation"]["sound"]
        assert "agrees to the wei" in http.get("/").text
        assert http.get("/").headers["cache-control"] == f"public, max-age={KEPT_S:g}"


def test_what_was_served_is_shown(network: Door) -> None:
    with network.client() as http:
        http.post("/v1/completions", json={"model": "demo", "prompt": "It was", "max_tokens": 3}).raise_for_status()
        usage = http.get("/v1/usage", params={"limit": 1000}).json()["data"]
        mine = sum(int(row["quantity"]) for row in usage if row["resource"] in ("tokens_in", "tokens_out"))
    with network.client("") as http:
        deadline = time.monotonic() + 60
        while (found := http.get("/v1/network").json())["tokens"] < mine and time.monotonic() < deadline:
            time.sleep(0.2)  # it may be a few seconds old
        page = http.get("/").text
    assert found["tokens"] >= mine > 0
    assert [model["name"] for model in found["models"]] == ["demo"]
    assert [host["state"] for host in found["hosts"]] == ["serving"]
    assert "<code>demo</code>" in page
    for secret in ("127.0.0.1", "worker-0", "admin", network.token, "address", "pid"):
        assert secret not in str(found), f"{secret} is not for everybody"
        assert secret not in page


def test_an_outage_shows_since_when(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    publisher = Publisher(door.gate, clock=lambda: now[0])
    first = publisher.now()
    assert publisher.now() is first, "kept"

    def away(_: Any) -> Any:
        now[0] += 60.0
        raise LedgerUnavailable("the database does not answer")

    monkeypatch.setattr(type(door.gate.tenancy), "ledger", property(away))
    now[0] += KEPT_S
    stale = publisher.now()
    assert (stale.stale_since, stale.tokens) == (first.at, first.tokens)
    now[0] += KEPT_S
    assert publisher.now().stale_since == first.at
    with pytest.raises(LedgerUnavailable):
        Publisher(door.gate, clock=lambda: now[0]).now()
    monkeypatch.undo()
    now[0] += KEPT_S
    assert publisher.now().stale_since is None


def test_books_are_not_compared_for_every_visitor(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    now, compared = [0.0], []
    publisher = Publisher(door.gate, clock=lambda: now[0])
    whole = publisher._compared
    monkeypatch.setattr(publisher, "_compared", lambda: compared.append(1) or whole())
    for _ in range(4):
        publisher.now()
        now[0] += KEPT_S
    assert len(compared) == 1
    now[0] += RECONCILED_S
    publisher.now()
    assert len(compared) == 2


def test_a_comparison_that_takes_long_leaves_the_page_new(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [0.0], {"sound": True}

    def compared() -> dict[str, Any]:
        now[0] += 60.0
        return found

    publisher = Publisher(door.gate, clock=lambda: now[0])
    monkeypatch.setattr(publisher, "_compared", compared)
    first = publisher.now()
    assert publisher.now() is first
    now[0] += KEPT_S
    assert publisher.now() is not first
    assert first.reconciliation is found


def test_the_api_is_described_whole(door: Door) -> None:
    with door.client("") as http:
        text = http.get("/docs").text
        for path in http.get("/openapi.json").json()["paths"]:
            assert f"<code>{path}</code>" in text
    assert "scope <code>settlement:write</code>" in text
    assert "<h3>Answer 201</h3>" in text
    assert "Shown in this answer alone." in text
    assert "&#34;object&#34;: &#34;chat.completion&#34;" in text  # an example of an answer
