"""Specifications with functions in them are longer than other bodies: of who may deploy, and counted for it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

import rios
from tests.gateway.servers import UNLIMITED, Door, lean, problem, raw

MIB = 1 << 20
TAKES = (("POST", ""), ("POST", "/plan"), ("POST", "/apply"), ("PATCH", "/long"))
RESOURCES = {"memory": "9TiB"}
"""No host has room for it."""


def head(method: str, path: str, token: str, length: int) -> bytes:
    """The headers of a request whose body does not come."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def test_a_function_of_several_mib_is_deployed(door: Door) -> None:
    held = {"table": b"x" * (3 * MIB)}

    def function(_: Any = None) -> int:
        return len(held["table"])

    with rios.connect(door.url, token=door.token) as network:
        app = network.deploy.create(name="long", python=function, resources=RESOURCES)
        held["table"] = b"y" * (4 * MIB)
        assert app.update(python=function) == 2
        sent = {"name": "long", "python": app.specification["python"], "resources": RESOURCES}
        with door.client() as http:
            assert http.post("/v1/apps/plan", json={"version": 1, "apps": [sent]}).status_code == 200
            assert http.post("/v1/apps/apply", json={"version": 1, "apps": [sent]}).status_code == 202
        app.delete(wait=False)


@pytest.mark.parametrize(("method", "path"), TAKES)
def test_nothing_is_read_of_who_may_not(door: Door, method: str, path: str) -> None:
    """Each is answered though its body does not come."""
    with door.client() as http:
        viewer = http.post("/v1/users", json={"login": f"viewer-{method}{path[1:]}", "role": "viewer"}).json()["token"]
    path = f"/v1/apps{path}"
    for token, length, status in (
        ("", 2 * MIB, 401), ("rios_sk_not_a_token", 2 * MIB, 401), (viewer, 2 * MIB, 403), (door.token, 21 * MIB, 413),
        ("", 21 * MIB, 413),
    ):  # fmt: skip
        answered = raw(door, head(method, path, token, length), end=False)
        assert answered.startswith(f"HTTP/1.1 {status} ".encode()), (status, answered[:200])
        assert b"urn:rios:error:" in answered


def test_other_bodies_stay_short(door: Door) -> None:
    long = json.dumps({"name": "x" * (2 * MIB)}).encode()
    with door.client() as http:
        for method, path in (
            ("POST", "/v1/tokens"), ("PUT", "/v1/apps/long/secrets"), ("POST", "/v1/apps/long/exec"),
            ("PUT", "/v1/apps"), ("POST", "/v1/apps/long"), ("PATCH", "/v1/apps/long/scale"),
        ):  # fmt: skip
            problem(http.request(method, path, content=long), 413)
        # Whoever does not say how long it is may say as much as others.
        problem(http.post("/v1/apps", content=iter([long]), headers={"content-type": "application/json"}), 413)


def test_a_long_body_counts_as_many_requests(tmp_path: Path) -> None:
    settings = UNLIMITED.model_copy(update={"burst": 12, "rate_per_s": 0.001, "deploy_body_bytes_max": 8 * MIB})

    def post(http: httpx2.Client, mib: int) -> httpx2.Response:
        text = base64.b64encode(b"x" * (mib * MIB * 3 // 4)).decode()
        return http.post("/v1/apps", json={"name": "long", "command": ["true"], "env": {"WRONG NAME": text}})

    with lean(tmp_path / "home", settings) as door, door.client() as http:
        problem(post(http, 9), 413)
        found = post(http, 5)
        problem(found, 400)
        assert found.headers["x-ratelimit-remaining"] == "4", "one each, and six for somewhat more than 5 MiB"
        problem(post(http, 5), 429)
        problem(http.get("/v1/apps"), 429)
