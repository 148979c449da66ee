"""What has not changed is not sent again; what goes says so in time."""

from __future__ import annotations

from datetime import date

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from rios.gateway.versions import deprecated
from tests.gateway.servers import Door


def test_what_has_not_changed_is_not_sent_again(door: Door) -> None:
    with door.client() as http:
        first = http.get("/v1/users")
        tag = first.headers["etag"]
        again = http.get("/v1/users", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        for wanted in (f"W/{tag}", f'"x", {tag}', "*"):
            assert http.get("/v1/users", headers={"If-None-Match": wanted}).status_code == 304
        assert http.get("/v1/users", headers={"If-None-Match": '"x"'}).status_code == 200
        assert http.post("/v1/users", json={"login": "tagged", "role": "viewer"}).status_code == 201
        changed = http.get("/v1/users", headers={"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        assert "etag" not in http.get("/v1/users/none").headers


def test_what_goes_says_so_in_time() -> None:
    app = FastAPI()
    said = deprecated(since=date(2026, 11, 1), sunset=date(2027, 6, 1), instead="/v2/things")

    @app.get("/v1/things", deprecated=True, dependencies=[Depends(said)])
    def get_things() -> dict[str, str]:
        return {}

    with TestClient(app) as http:
        headers = http.get("/v1/things").headers
    assert headers["deprecation"] == "@1793491200"
    assert headers["sunset"] == "Tue, 01 Jun 2027 00:00:00 GMT"
    assert headers["link"] == '</v2/things>; rel="successor-version"'
    with pytest.raises(AssertionError, match="180 days"):
        deprecated(since=date(2026, 11, 1), sunset=date(2027, 1, 1), instead="/v2/things")
