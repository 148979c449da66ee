"""Events of an organisation: as a stream that resumes, and told to webhooks, by RabbitMQ and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rios.gateway.settings import GatewaySettings
from tests.gateway.hooks import Told, told
from tests.gateway.servers import Door, lean, problem
from tests.waiting import until

HERE = {"burst": 10**6, "rate_per_s": 10**6, "drain_s": 1, "webhook_networks": "127.0.0.0/8"}


@pytest.fixture
def hook() -> Iterator[Told]:
    """Somebody who wants to be told."""
    with told() as found:
        yield found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway without a broker whose operator lets webhooks reach this machine."""
    with lean(tmp_path_factory.mktemp("plain") / "home", GatewaySettings(**HERE)) as found:
        yield found


def _user(door: Door, login: str) -> None:
    with door.client() as http:
        assert http.post("/v1/users", json={"login": login, "role": "viewer"}).status_code == 201


def _hook(door: Door, hook: Told, *events: str) -> dict[str, Any]:
    with door.client() as http:
        made = http.post("/v1/webhooks", json={"url": hook.url, "events": list(events)})
        assert made.status_code == 201, made.text
        found: dict[str, Any] = made.json()
        return found


def _events(door: Door, count: int, **headers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with door.client() as http, http.stream("GET", "/v1/events", headers=headers) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines: dict[str, str] = {}
        for line in stream.iter_lines():
            name, colon, value = line.partition(": ")
            if colon and name:
                lines[name] = value
            elif lines:
                found.append(lines)
                lines = {}
                if len(found) == count:
                    return found
    raise AssertionError(f"the stream ended after {found}")


def test_events_resume_where_a_reader_was(door: Door) -> None:
    for number in range(3):
        _user(door, f"resumed-{number}")
    with door.client() as http:
        entries = http.get("/v1/audit").json()["data"]
    first = _events(door, 2, **{"Last-Event-ID": str(entries[-4]["seq"])})
    rest = _events(door, 1, **{"Last-Event-ID": first[-1]["id"]})
    wanted = [str(one["seq"]) for one in entries[-3:]]
    assert [one["id"] for one in first + rest] == wanted
    assert json.loads(rest[0]["data"])["type"] == rest[0]["event"] == "user.create"
    with door.client() as http:
        problem(http.get("/v1/events", headers={"Last-Event-ID": "x"}), 400)


def test_a_webhook_is_told_and_can_tell_who_told_it(plain: Door, hook: Told) -> None:
    made = _hook(plain, hook, "user.")
    with plain.client() as http:
        assert http.get("/v1/webhooks").json()["data"][0].keys() == {"id", "url", "events", "created_at"}
    hook.status = 500
    _user(plain, "told")
    until(lambda: hook.paths, "it was told", deadline_s=10)
    hook.status = 204
    until(lambda: hook.events, "it is told again", deadline_s=10)
    assert hook.kinds() == ["user.create"]
    assert hook.signed_by(made["secret"], 0)
    assert not hook.signed_by(made["secret"] + "x", 0)
    with plain.client() as http:
        assert http.delete(f"/v1/webhooks/{made['id']}").status_code == 204
        problem(http.delete(f"/v1/webhooks/{made['id']}"), 404)


def test_a_redirect_is_not_followed(plain: Door, hook: Told) -> None:
    with told() as inner:
        made = _hook(plain, hook, "user.")
        hook.status, hook.headers = 307, {"Location": inner.url}
        _user(plain, "redirected")
        until(lambda: len(hook.paths) >= 2, "it is told again", deadline_s=10)
        assert not inner.paths
    with plain.client() as http:
        http.delete(f"/v1/webhooks/{made['id']}")
