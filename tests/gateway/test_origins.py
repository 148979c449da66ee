"""Pages of other origins: closed to all, and opened to those that the operator names."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from rios.gateway.origins import origins_of
from rios.words.errors import InvalidRequest
from tests.gateway.servers import UNLIMITED, Door, lean

NAMED, OTHER = "https://lab.example", "https://evil.example"


def asks_first(http: httpx2.Client, origin: str) -> httpx2.Response:
    """What a browser asks before it lets a page send a token along."""
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return http.options("/v1/tokens", headers={"Origin": origin, **wanted})


def opened(response: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def test_it_is_closed_by_default(door: Door) -> None:
    with door.client() as http:
        assert not opened(asks_first(http, NAMED))
        assert not opened(http.get("/v1/users/me", headers={"Origin": NAMED}))


def test_it_is_open_to_who_is_named(tmp_path: Path) -> None:
    settings = UNLIMITED.model_copy(update={"origins": f"{NAMED}, http://localhost:3000", "body_bytes_max": 50})
    with lean(tmp_path / "home", settings) as door, door.client() as http:
        for origin in (NAMED, "http://localhost:3000"):
            first = asks_first(http, origin)
            assert first.status_code == 200
            said = opened(first)
            assert said["access-control-allow-origin"] == origin
            assert "authorization" in said["access-control-allow-headers"].lower()
            assert "access-control-allow-credentials" not in said, "no cookie comes along"
            answer = http.get("/v1/users/me", headers={"Origin": origin})
            assert opened(answer)["access-control-allow-origin"] == origin
            assert "ETag" in opened(answer)["access-control-expose-headers"]
            refused = http.post("/v1/tokens", json={"name": "x" * 50}, headers={"Origin": origin})
            assert refused.status_code == 413
            assert opened(refused)["access-control-allow-origin"] == origin, "the page may read why"
        for origin in (OTHER, "null", f"{NAMED}.evil.example", "http://lab.example"):
            assert asks_first(http, origin).status_code == 400
            for response in (asks_first(http, origin), http.get("/v1/users/me", headers={"Origin": origin})):
                assert "access-control-allow-origin" not in response.headers, origin


@pytest.mark.parametrize(
    "text", ["*", "lab.example", "https://lab.example/", "https://*.example", "ftp://lab.example", "https://u@lab.example",
             "https://", "https://lab.example:x", "null"]
)  # fmt: skip
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(InvalidRequest, match="RIOS_GATEWAY_ORIGINS"):
        origins_of(text)
    assert origins_of(" https://Lab.example ,") == (NAMED,)
