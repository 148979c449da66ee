"""What comes before any route: sizes, times, numbers of requests, headers, and what is no HTTP at all."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rios.gateway.limits import Limits
from rios.gateway.serve import bind
from rios.gateway.settings import GatewaySettings
from rios.words.errors import InvalidRequest, TooManyRequests
from tests.gateway.servers import Door, lean, problem, raw


def test_a_bucket_empties_and_fills() -> None:
    now = [0.0]
    limits = Limits(3, 2.0, clock=lambda: now[0])
    assert [limits.take(["a"]).remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(TooManyRequests) as caught:
        limits.take(["a"])
    assert caught.value.retry_after_s == 0.5
    now[0] = 0.49
    with pytest.raises(TooManyRequests):
        limits.take(["a"])
    now[0] = 0.5
    assert limits.take(["a"]).remaining == 0
    now[0] = 1000.0
    assert limits.take(["a"]).remaining == 2, "no bucket holds more than the burst"


def test_a_request_takes_from_all_buckets_or_from_none() -> None:
    limits = Limits(2, 1.0, clock=lambda: 0.0)
    limits.take(["a"])
    limits.take(["a"])
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            limits.take(["b", "a"])
    assert limits.take(["b"]).remaining == 1


def test_limits_are_exact_and_say_so(tmp_path: Path) -> None:
    settings = GatewaySettings(burst=5, rate_per_s=1e-6)
    with lean(tmp_path / "home", settings) as door, door.client() as http:
        left = [http.get("/v1/users/me").headers["x-ratelimit-remaining"] for _ in range(5)]
        assert left == ["4", "3", "2", "1", "0"]
        refused = http.get("/v1/users/me")
        assert problem(refused, 429)["type"] == "urn:rios:error:TooManyRequests"
        assert int(refused.headers["retry-after"]) > 1000
        _says_nothing_is_left(refused)
        assert refused.headers["x-request-id"] in refused.text
        openai = http.get("/v1/models")
        assert (openai.status_code, openai.json()["error"]["type"]) == (429, "rate_limit_error")
        assert http.get("/live").status_code == 200, "whether it lives can always be asked"
        # From another address the key is used up alone: where it is known at once, and where it has to be looked up.
        for look in (lambda: None, door.gate.accounts.tokens.heard):
            look()
            elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
            with httpx2.Client(base_url=door.url, headers=http.headers, transport=elsewhere) as other:
                _says_nothing_is_left(other.get("/v1/users/me"))


def _says_nothing_is_left(refused: httpx2.Response) -> None:
    assert refused.status_code == 429, refused.text
    said = {name: int(refused.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")}
    assert (said["limit"], said["remaining"]) == (5, 0)
    assert said["reset"] > int(refused.headers["retry-after"]), "until all of it is there, not until the first"


def test_a_long_body_is_refused(door: Door) -> None:
    with door.client() as http:
        problem(http.post("/v1/tokens", content=b" " * (1 << 20) + b"{}"), 413)

        def chunks() -> Any:
            for _ in range(20):
                yield b" " * (1 << 16)

        problem(http.post("/v1/tokens", content=chunks(), headers={"content-type": "application/json"}), 413)
        assert http.post(
            "/v1/tokens", content=b" " * (1 << 19) + b"{}", headers={"content-type": "application/json"}
        ).is_success


def test_a_slow_body_is_refused(tmp_path: Path) -> None:
    settings = GatewaySettings(burst=10**6, body_timeout_s=0.2)
    with lean(tmp_path / "home", settings) as door:
        head = "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        answered = raw(door, head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode(), end=False)
        assert answered.startswith(b"HTTP/1.1 408 ")


def test_giant_headers_are_refused(door: Door) -> None:
    answered = raw(door, b"GET /live HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 100_000 + b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"login": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe",
        b"nonsense",
        b"",
        b"[]",
        b"NaN",
    ],
    ids=["nested lists", "nested objects", "a giant number", "no text", "no JSON", "nothing", "a list", "NaN"],
)
def test_bodies_that_are_traps(door: Door, body: bytes) -> None:
    with door.client() as http:
        problem(http.post("/v1/sessions", content=body, headers={"content-type": "application/json"}), 400)
        assert http.get("/live").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /live HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /live\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_no_http_is_no_harm(door: Door, data: bytes) -> None:
    answered = raw(door, data)
    assert not answered or answered.split()[1][:1] in b"4" or b"400" in answered[:20] or b"200" in answered[:20]
    with door.client() as http:
        assert http.get("/live").status_code == 200


def test_headers_cannot_be_injected(door: Door) -> None:
    with door.client() as http:
        for wanted in ("a" * 65, "a b", "a;b", "<x>"):
            found = http.get("/live", headers={"X-Request-Id": wanted}).headers["x-request-id"]
            assert found.startswith("req-")
        assert http.get("/live", headers={"X-Request-Id": "mine-1.2_3"}).headers["x-request-id"] == "mine-1.2_3"
        answered = http.get("/v1/users/a%0d%0aX-Evil:%20yes")
        assert "x-evil" not in answered.headers


def test_browsers_are_told_to_be_careful(door: Door) -> None:
    with door.client() as http:
        headers = http.get("/v1/users/me", headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers
        assert http.options("/v1/users/me", headers={"Origin": "https://evil.example"}).status_code == 405


def test_a_forwarded_address_is_not_believed(tmp_path: Path) -> None:
    settings = GatewaySettings(burst=2, rate_per_s=1e-6)
    with lean(tmp_path / "home", settings) as door, door.client("") as http:
        statuses = [
            http.get("/v1/roles", headers={"X-Forwarded-For": f"10.0.0.{number}"}).status_code for number in range(4)
        ]
    assert statuses == [200, 200, 429, 429]


def test_health(door: Door) -> None:
    with door.client("") as http:
        assert http.get("/live").json() == {"status": "live"}
        ready = http.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == "ok"
        assert "worker" in ready.json()["checks"]["workers"]
        metrics = http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert 'rios_gateway_requests_total{method="GET",route="/live",status="200"}' in metrics.text


def test_what_is_not_there(door: Door) -> None:
    with door.client() as http:
        for path in ("/v1", "/v1/nothing", "/../etc/passwd", "/v1/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
            assert problem(http.get(path), 404)["type"] == "urn:rios:error:NotFound"
        problem(http.put("/v1/tokens", json={}), 405)
        specification = http.get("/openapi.json").json()
    assert "/v1/chat/completions" in specification["paths"]


OUTSIDE = ("../x", "/etc", "..", ".", "", "demo/../..", "a\x00b", "link", "none")


def test_a_checkpoint_outside_the_directory_is_not_there(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "good").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (models / "link").symlink_to(tmp_path / "x")
    with lean(tmp_path / "home", models=models) as door, door.client() as http:
        assert http.post("/v1/deployments", json={"name": "good", "checkpoint": "good"}).status_code == 202
        for checkpoint in OUTSIDE:
            found = problem(http.post("/v1/deployments", json={"name": "bad", "checkpoint": checkpoint}), 400)
            assert "no checkpoint" in found["detail"], checkpoint
        assert problem(http.post("/v1/deployments", json={"name": "good", "checkpoint": "good"}), 409)
        problem(http.post("/v1/deployments", json={"name": "../bad"}), 400)


def test_a_client_that_says_nothing_harms_nobody(door: Door) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    quiet = [socket.create_connection((host, int(port))) for _ in range(50)]
    started = time.monotonic()
    with door.client() as http:
        assert http.get("/live").status_code == 200
    assert time.monotonic() - started < 30
    for one in quiet:
        one.close()


def test_sql_is_a_text_like_any_other(door: Door) -> None:
    with door.client() as http:
        for text in ("' OR '1'='1", "x'; DROP TABLE people; --", "%", "\\"):
            assert http.get("/v1/users", params={"after": text}).status_code == 200
            problem(http.get(f"/v1/users/{json.dumps(text)[1:-1].replace('/', '')}"), 404)
            assert http.get("/v1/usage", params={"model": text}).json()["data"] == []
        assert http.get("/v1/users").json()["data"]


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY on what is a TCP socket by its protocol's number alone."""
    with bind("localhost", 0) as place:
        assert place.proto == socket.IPPROTO_TCP
    for host, port in (("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        with pytest.raises(InvalidRequest):
            bind(host, port)
