"""What belongs to another organisation, or to another user, answers as what does not exist: on every route there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import insert

from rios.accounts.store import first
from rios.services import accounts, oauth_store, tokens, webhooks
from rios.services.deployments.kept_volumes import KeptVolumes
from rios.services.deployments.store import AppStore
from rios.services.reports.own import UserReports
from rios.services.tenancy import Tenancy
from rios.storage.deployment_models import AppKeptVolumeRow
from tests.gateway.servers import Door, problem, serves
from tests.gateway.tenants import NOBODY, answers, ids, masked, operations, parameters, specification_of
from tests.reports import notebooks

PASSWORD = "correct horse battery"
# Names in paths that are no ids of anybody's objects.
_WORDS = {"period", "provider", "discount"}
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


def keeps_volume(door: Door, organisation_id: str, app: str) -> str:
    """The id of a volume that a deployment of an organisation left, as the tables know it."""
    store = door.gate.tenancy._platform().store
    one = store.named(organisation_id, app)
    row = {
        "id": f"vol-{app}", "app_id": one.id, "organisation_id": organisation_id, "path": "/data", "host": "elsewhere",
        "quota_bytes": 1 << 20, "state": "kept", "taker": "", "taker_path": "", "kept_at": 1,
    }  # fmt: skip
    store.transact(lambda batch: batch.connection.execute(insert(AppKeptVolumeRow), [row]))
    return row["id"]


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
        keeps_volume(network, made["id"], "alpha-app")
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


@dataclass
class Pair:
    """An organisation without workers, with an object for each kind of route; and the admin of another one."""

    organisations: list[str]
    stranger: str
    known: dict[str, str]
    """The id of an object, by how the paths of its routes begin."""


@pytest.fixture(scope="module")
def pair(door: Door) -> Pair:
    with door.client() as http:
        made = [
            http.post("/v1/organisations", json={"name": name, "admin": f"head-{name}"}).json()
            for name in ("gamma", "delta")
        ]
    with door.client(made[0]["token"]) as http:

        def post(path: str, **body: Any) -> dict[str, Any]:
            return dict(http.post(path, json=body).raise_for_status().json())

        user = post("/v1/users", login="gamma-two", role="viewer", password=PASSWORD)
        program = {"name": "gamma program", "scopes": ["models:read"], "grants": ["client_credentials"]}
        known = {
            "/v1/deployments/": post("/v1/deployments", name="gamma-model")["name"],
            "/v1/apps/": post("/v1/apps", name="gamma-app", command=["sleep", "9"])["name"],
            "/v1/volumes/": keeps_volume(door, made[0]["id"], "gamma-app"),
            "/v1/users/": user["id"],
            "/v1/clients/": post("/v1/clients", **program)["id"],
            "/v1/tokens/": post("/v1/tokens", name="gamma key")["id"],
            "/v1/sessions/": post("/v1/sessions", login="gamma-two", password=PASSWORD)["session_id"],
            "/v1/webhooks/": post("/v1/webhooks", url="https://93.184.216.34/never")["id"],
            "/v1/reports/": post("/v1/reports/schedules", name="cost", cron="0 6 * * *")["id"],
        }
    return Pair([one["id"] for one in made], made[1]["token"], known)


def _by_id_alone(module: Any) -> Callable[[pytest.MonkeyPatch, Pair], None]:
    """What is looked for by id and owner is looked for by its id."""
    return lambda patch, _: patch.setattr(
        module, "first", lambda connection, table, one, *_: first(connection, table, one)
    )


def _models(patch: pytest.MonkeyPatch, pair: Pair) -> None:
    real = Tenancy._models
    patch.setattr(Tenancy, "_models", lambda self, _: [one for of in pair.organisations for one in real(self, of)])


def _apps(patch: pytest.MonkeyPatch, pair: Pair) -> None:
    real = AppStore.named
    patch.setattr(AppStore, "named", lambda self, _, name: real(self, pair.organisations[0], name))


def _volumes(patch: pytest.MonkeyPatch, pair: Pair) -> None:
    real = KeptVolumes.__init__
    patch.setattr(
        KeptVolumes,
        "__init__",
        lambda self, platform, **more: real(self, platform, **more | {"organisation_id": pair.organisations[0]}),
    )


def _everybodys(patch: pytest.MonkeyPatch, _: Pair) -> None:
    real = UserReports.__init__
    patch.setattr(
        UserReports, "__init__", lambda self, reports, **more: real(self, reports, **more | {"everybodys": True})
    )


OPEN: dict[str, Callable[[pytest.MonkeyPatch, Pair], None]] = {
    "/v1/deployments/": _models,
    "/v1/apps/": _apps,
    "/v1/volumes/": _volumes,
    "/v1/users/": _by_id_alone(accounts),
    "/v1/clients/": _by_id_alone(oauth_store),
    "/v1/tokens/": _by_id_alone(tokens),
    "/v1/sessions/": _by_id_alone(tokens),
    "/v1/webhooks/": _by_id_alone(webhooks),
    "/v1/reports/": _everybodys,
}
"""How each kind of door is opened to everybody."""


@pytest.mark.parametrize("kind", OPEN)
def test_a_door_that_is_open_is_seen(door: Door, pair: Pair, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its defence, the same search finds what one organisation shows to another."""
    known = {pair.known[kind]}
    assert shown(door, pair.stranger, known, only=(kind,)) == []
    OPEN[kind](monkeypatch, pair)
    assert shown(door, pair.stranger, known, only=(kind,))


def test_each_kind_of_door_was_opened(network: Door) -> None:
    """But those of what only a network with workers has, which the searches above compare."""
    prefixes = {re.match(r"/v1/[a-z]+/", path).group() for _, path, _ in _with_ids(network)}  # type: ignore[union-attr]
    assert prefixes - set(OPEN) <= {"/v1/jobs/", "/v1/models/", "/v1/usage/", "/v1/budgets/", "/v1/invoices/"}


def test_every_route_has_an_id_that_it_knows(network: Door, lab: Lab) -> None:
    """Else the search above would compare nothing with nothing. Last, for it takes down what it is shown."""
    specification = specification_of(network)
    missing = []
    order = {"GET": 0, "PUT": 1, "PATCH": 1, "POST": 1, "DELETE": 2}
    last = [(order[one[0]], "/tokens/" in one[1], -len(one[1])) for one in _with_ids(network)]
    ordered = [one for _, one in sorted(zip(last, _with_ids(network), strict=True), key=lambda pair: pair[0])]
    fits: dict[str, list[str]] = {}  # by how a path begins, what routes there knew: asked first
    with (
        network.client() as operator,
        network.client(lab.token) as http,
        network.client(lab.colleague) as colleague,
    ):
        for method, path, said in ordered:
            kind = path.partition("{")[0]
            own = lab.ids if method == "GET" else lab.ids - {lab.admin["id"]}
            known = [*filter(own.__contains__, fits.get(kind, ())), *sorted(own - set(fits.get(kind, ())))]
            ways = (
                one
                for client in (http, colleague, operator)
                for nothing in [answers(client, specification, method, path, said, NOBODY)]
                for one in known
                if _differs(answers(client, specification, method, path, said, one), nothing, one)
            )
            if (way := next(ways, None)) is None:
                missing.append(f"{method} {path}")
            elif way not in fits.setdefault(kind, []):
                fits[kind].append(way)
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
