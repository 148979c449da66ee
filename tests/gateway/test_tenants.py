"""What belongs to another organisation, or to another user, answers as what does not exist: on every route there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from rios.services.tenancy import Tenancy
from tests.gateway.servers import Door, problem, serves
from tests.gateway.tenants import NOBODY, answers, ids, masked, operations, parameters, specification_of
from tests.reports import notebooks

PASSWORD = "correct horse battery"
# Names in paths that are no ids of anybody's objects.
_WORDS = {"period", "provider"}
# These objects are their user's alone: a colleague does not see them either.
_OWN = ("/v1/jobs/", "/v1/tokens/", "/v1/sessions/", "/v1/usage/", "/v1/reports/")


@dataclass
class Lab:
    """An organisation with objects of every kind, and all ids that it sees."""

    admin: dict[str, Any]
    token: str
    colleague: str
    job: str
    ids: set[str]


def organisation(network: Door, name: str) -> dict[str, Any]:
    with network.client() as http:
        lab: dict[str, Any] = http.post("/v1/organisations", json={"name": name, "admin": f"head-{name}"}).json()
        credit = {"Idempotency-Key": name}
        done = http.post(f"/v1/users/{lab['admin']['id']}/credit", json={"amount": "2 ROS"}, headers=credit)
        assert done.status_code == 204, done.text
    return lab


@pytest.fixture(scope="module")
def lab(network: Door) -> Lab:
    made = organisation(network, "alpha")
    with network.client(made["token"]) as http:
        colleague = {"login": "alpha-two", "role": "developer", "password": PASSWORD}
        second = http.post("/v1/users", json=colleague).raise_for_status().json()
        signed_in = http.post("/v1/sessions", json={"login": "alpha-two", "password": PASSWORD}).json()
        http.post("/v1/tokens", json={"name": "alpha key"}).raise_for_status()
        program = {"name": "alpha program", "scopes": ["models:read"], "grants": ["client_credentials"]}
        http.post("/v1/clients", json=program).raise_for_status()
        hook = {"url": "https://93.184.216.34/never", "events": ["never.told"]}
        http.post("/v1/webhooks", json=hook).raise_for_status()
        http.post("/v1/deployments", json={"name": "alpha-model", "dtype": "float32"}).raise_for_status()
        serves(http, "alpha-model")
        app = {"name": "alpha-app", "command": ["sleep", "9"], "resources": {"memory": "9TiB"}}  # which fits nowhere
        http.post("/v1/apps", json=app).raise_for_status()
        notebooks.write(network.gate.network._settings.home / "reports", "small", *notebooks.SMALL)
        http.post("/v1/reports/runs", json={"name": "small"}).raise_for_status()
        http.post("/v1/reports/schedules", json={"name": "small", "cron": "0 6 * * *"}).raise_for_status()
        asked = {"model": "alpha-model", "prompt": "It was", "max_new_tokens": 2}
        job = http.post("/v1/jobs", json=asked).json()["id"]
        assert http.get(f"/v1/jobs/{job}", params={"wait_s": 60}).json()["result"]
        found = ids(http, specification_of(network)) | {job}
    assert {"alpha-model", made["admin"]["id"], job} <= found
    assert [one for one in found if ":" in one or one.startswith("key-")]
    found.add(signed_in["session_id"])
    return Lab(made["admin"], made["token"], second["token"], job, found)


@pytest.fixture(scope="module")
def strangers(network: Door) -> dict[str, str]:
    """An admin and a developer of another organisation."""
    made = organisation(network, "beta")
    with network.client(made["token"]) as http:
        developer = http.post("/v1/users", json={"login": "beta-two", "role": "developer"}).json()
    return {"admin": made["token"], "developer": developer["token"]}


def _with_ids(network: Door) -> list[tuple[str, str, Any]]:
    specification = specification_of(network)
    found = [
        (method, path, said)
        for method, path, said in operations(specification)
        if parameters(path) and not set(parameters(path)) <= _WORDS and "security" in said
    ]
    assert len(found) > 10
    return found


def shown(network: Door, token: str, known: set[str], *, only: tuple[str, ...] = ("/",)) -> list[str]:
    """Operations that answer otherwise about a known id than about one that nothing has."""
    specification = specification_of(network)
    found = []
    with network.client(token) as http:
        for method, path, said in _with_ids(network):
            if path.startswith(only):
                nothing = answers(http, specification, method, path, said, NOBODY)
                assert nothing[0] >= 400, (method, path, nothing)
                found += [
                    f"{method} {path} {one}"
                    for one in sorted(known)
                    if _differs(answers(http, specification, method, path, said, one), nothing, one)
                ]
    return found


def _differs(answer: tuple[int, str], nothing: tuple[int, str], one: str) -> bool:
    """Whether something is told. An id may be a word of the message too: it is left out of both."""
    return (answer[0], masked(answer[1], one)) != (nothing[0], masked(nothing[1], one))


@pytest.mark.parametrize("role", ["admin", "developer"])
def test_another_organisations_ids_are_nothing(network: Door, lab: Lab, strangers: dict[str, str], role: str) -> None:
    with network.client(strangers[role]) as http:
        own = ids(http, specification_of(network))
    assert shown(network, strangers[role], lab.ids - own) == []


def test_another_users_ids_are_nothing(network: Door, lab: Lab) -> None:
    with network.client(lab.token) as http:
        made = http.post("/v1/users", json={"login": "alpha-three", "role": "developer"}).json()
    with network.client(made["token"]) as http:
        own = ids(http, specification_of(network)) - {lab.job}
    assert shown(network, made["token"], lab.ids - own, only=_OWN) == []


def test_a_door_that_is_open_is_seen(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its defence, the same search finds what one organisation shows to another."""
    with door.client() as http:
        made = [
            http.post("/v1/organisations", json={"name": name, "admin": f"head-{name}"}).json()
            for name in ("gamma", "delta")
        ]
    with door.client(made[0]["token"]) as http:
        http.post("/v1/deployments", json={"name": "gamma-model"}).raise_for_status()
        known = ids(http, specification_of(door))
    assert shown(door, made[1]["token"], {"gamma-model"}, only=("/v1/deployments/",)) == []
    real = Tenancy._models
    everybodys = [one["id"] for one in made]
    monkeypatch.setattr(Tenancy, "_models", lambda self, _: [one for of in everybodys for one in real(self, of)])
    assert shown(door, made[1]["token"], {"gamma-model"}, only=("/v1/deployments/",))
    assert "gamma-model" in known


def test_every_route_has_an_id_that_it_knows(network: Door, lab: Lab) -> None:
    """Else the search above would compare nothing with nothing. Last, for it takes down what it is shown."""
    specification = specification_of(network)
    missing = []
    order = {"GET": 0, "PUT": 1, "PATCH": 1, "POST": 1, "DELETE": 2}
    last = [(order[one[0]], "/tokens/" in one[1], -len(one[1])) for one in _with_ids(network)]
    ordered = [one for _, one in sorted(zip(last, _with_ids(network), strict=True), key=lambda pair: pair[0])]
    with (
        network.client() as operator,
        network.client(lab.token) as http,
        network.client(lab.colleague) as colleague,
    ):
        for method, path, said in ordered:
            ways: list[str] = []
            for client in (http, colleague, operator):
                nothing = answers(client, specification, method, path, said, NOBODY)
                known = sorted(lab.ids if method == "GET" else lab.ids - {lab.admin["id"]})
                ways += [
                    one
                    for one in known
                    if _differs(answers(client, specification, method, path, said, one), nothing, one)
                ]
                if ways:
                    break
            if not ways:
                missing.append(f"{method} {path}")
    assert missing == [], "no id of the lab is of this kind: have the fixture make one"


TRAPS = (
    "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "....//....//etc/passwd", "/etc/passwd",
    "..\\..\\windows", "C:\\x", "file:///etc/passwd", "a\x00b", "a\r\nX-Evil: yes", "' OR '1'='1", "${7*7}", "{{7*7}}",
    "x" * 5000, "\u202e", "-1", "none;id", "<script>",
)  # fmt: skip


def test_no_path_leads_out(door: Door) -> None:
    """Each route with a name in its path, given what has led out of other programs."""
    specification = specification_of(door)
    asked = 0
    with door.client() as http:
        for method, path, said in operations(specification):
            for trap in TRAPS if parameters(path) else ():
                status, text = answers(http, specification, method, path, said, trap)
                asked += 1
                assert status < 500 or status == 503, (method, path, trap, text)
                assert status >= 300 or method == "PUT", (method, path, trap, status, text)
                assert "root:" not in text
        problem(http.get("/static/..%2f..%2fcommands.py"), 404)
    assert asked > 200
