"""What only an admin may do takes a recent sign-in, or a key that was made for automation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import update

from rios.accounts import roles
from rios.gateway.document import scope_of
from rios.storage.models import ApiKeyRow, SessionRow
from tests.gateway.browsing import PASSWORD, Person, Program, code_for, person, program, unique
from tests.gateway.servers import UNLIMITED, Door, problem
from tests.gateway.test_accounts import ROUTES, status_of
from tests.gateway.test_oauth import DEVICE

ACTS = [
    (method, re.sub(r"{\w+}", "x", route.path))
    for route in ROUTES
    for method in route.methods or ()
    if scope_of(route) in roles.RECENT and method != "GET"
]
NEVER_ACTS = ("POST", "/v1/settlement")
"""It would settle."""


def age(door: Door) -> None:
    """All sign-ins of now are too long ago."""
    by = int(UNLIMITED.recent_s * 1_000_000) + 1

    def run(connection: Any) -> None:
        for table in (SessionRow, ApiKeyRow):
            connection.execute(update(table).values(signed_in_at=table.signed_in_at - by))

    door.gate.accounts.store.transact(run)
    door.gate.accounts.tokens.forget()


def signed_in(door: Door, ann: Person) -> str:
    with door.client("") as http:
        return str(http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}).json()["access_token"])


def key(door: Door, token: str, *scopes: str) -> str:
    """A key that another token makes; with all of its own scopes where none are named."""
    with door.client(token) as http:
        response = http.post("/v1/tokens", json={"scopes": list(scopes) or None})
    assert response.status_code == 201, response.text
    return str(response.json()["token"])


def acts(door: Door, token: str) -> bool:
    """Whether a token may give the organisation another name, which is an act of admins."""
    with door.client(token) as http:
        response = http.patch("/v1/organisation", json={"name": unique("Lab ")})
        if response.status_code == 200:
            return True
        assert problem(response, 403)["type"] == "urn:rios:error:SignInAgain"
        return False


def test_every_act_of_admins_takes_a_recent_sign_in(door: Door) -> None:
    """Each route that the table says it of, by a session that was recent and is old then."""
    assert {scope_of(route) for route in ROUTES if scope_of(route) in roles.RECENT} == roles.RECENT
    token = signed_in(door, person(door, "admin"))
    with door.client(token) as http:
        for method, path in ACTS:
            if (method, path) != NEVER_ACTS:
                assert status_of(http, method, path, {"surprise": 1}) != 403, (method, path)
        age(door)
        for method, path in ACTS:
            found = problem(http.request(method, path, json={"surprise": 1}), 403)
            assert found["type"] == "urn:rios:error:SignInAgain", (method, path)
        assert http.get("/v1/users").status_code == 200, "to look is no act"
        assert http.get("/v1/webhooks").status_code == 200
        said = http.get("/openapi.json").json()["paths"]
    marked = {
        (method.upper(), re.sub(r"{\w+}", "x", path))
        for path, operations in said.items()
        for method, one in operations.items()
        if one.get("x-rios-recent")
    }
    assert marked == set(ACTS)


def test_a_refresh_is_no_sign_in(door: Door) -> None:
    ann = person(door, "admin")
    with door.client("") as http:
        first = http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}).json()
        age(door)
        second = http.post("/v1/sessions/refresh", json={"refresh_token": first["refresh_token"]}).json()
    assert not acts(door, second["access_token"])
    assert acts(door, signed_in(door, ann))


def test_a_key_has_the_sign_in_of_who_made_it(door: Door) -> None:
    """So `rios login` acts for a while, and what lies in its file does not for a month."""
    ann = person(door, "admin")
    session = signed_in(door, ann)
    made = key(door, session)
    of_it = key(door, made)
    assert acts(door, made)
    assert acts(door, of_it)
    age(door)
    assert not acts(door, made)
    assert not acts(door, of_it)
    assert not acts(door, key(door, made)), "nor does it become new by another"


def test_a_key_for_automation_is_asked_for_by_name(door: Door) -> None:
    wanted = ("users:write", "tokens:write", roles.UNATTENDED)
    made = key(door, signed_in(door, person(door, "admin")), *wanted)
    plain = key(door, door.token)
    old = signed_in(door, person(door, "admin"))
    age(door)
    assert acts(door, made)
    assert not acts(door, plain), "all scopes of its own are without this one"
    with door.client(old) as http:
        found = problem(http.post("/v1/tokens", json={"scopes": list(wanted)}), 403)
        assert found["type"] == "urn:rios:error:SignInAgain"
    with door.client(key(door, made)) as http:
        problem(http.post("/v1/tokens", json={"scopes": [roles.UNATTENDED]}), 403)


def test_a_schedule_tells_no_webhook_of_an_old_sign_in(door: Door) -> None:
    token = signed_in(door, person(door, "admin"))
    age(door)
    body = {"name": "cost", "cron": "0 6 * * *", "webhooks": ["https://93.184.216.34/told"]}
    with door.client(token) as http:
        found = problem(http.post("/v1/reports/schedules", json=body), 403)
        assert found["type"] == "urn:rios:error:SignInAgain"
    with door.client() as http:
        assert http.post("/v1/reports/schedules", json=body).status_code == 201


def test_the_first_key_acts_where_nothing_else_can(door: Door) -> None:
    """Who has a password signs in; who is given neither that nor a link has the key alone."""
    assert acts(door, door.token)
    assert acts(door, person(door, "admin", password=None).token)
    assert not acts(door, person(door, "admin").token)
    assert not acts(door, person(door, "admin", password=None, email="head@lab.example").token)


def test_programs_have_the_sign_in_of_their_user(door: Door) -> None:
    ann, app = person(door, "admin"), program(door, "users:write", roles.UNATTENDED)
    tokens = app.redeem(code_for(ann, app)).json()
    assert acts(door, tokens["access_token"])
    age(door)
    assert not acts(door, tokens["access_token"])
    assert not acts(door, app.redeem(code_for(ann, app)).json()["access_token"]), "the browser's own is as old"
    cli = Program(door, "rios-cli", None, ())
    bob = person(door, "admin")
    begun = cli.post("/oauth/device_authorization").json()
    page = bob.sign_in(bob.get(begun["verification_uri_complete"].removeprefix(door.url)))
    bob.fill(page, "/oauth/device", decision="allow")
    waited = cli.post("/oauth/token", grant_type=DEVICE, device_code=begun["device_code"]).json()
    assert acts(door, waited["access_token"])
    age(door)
    assert not acts(door, waited["access_token"])


def test_no_session_of_an_older_version_is_as_a_key_for_automation(door: Door) -> None:
    """They do not say when their user signed in; that was when they began."""
    cli, asked = Program(door, "rios-cli", None, ()), f"users:write {roles.UNATTENDED}"
    bob = person(door, "admin")
    begun = cli.post("/oauth/device_authorization", scope=asked).json()
    page = bob.sign_in(bob.get(begun["verification_uri_complete"].removeprefix(door.url)))
    own = signed_in(door, bob)
    by = int(UNLIMITED.recent_s * 1_000_000) + 1
    mine = update(SessionRow).where(SessionRow.user_id == bob.id)
    older = mine.values(signed_in_at=None, created_at=SessionRow.created_at - by)
    door.gate.accounts.store.transact(lambda connection: connection.execute(older))
    door.gate.accounts.tokens.forget()
    assert not acts(door, own)
    bob.fill(page, "/oauth/device", decision="allow")
    waited = cli.post("/oauth/token", grant_type=DEVICE, device_code=begun["device_code"]).json()
    assert roles.UNATTENDED in waited["scope"]
    assert not acts(door, waited["access_token"])


@pytest.mark.parametrize("more", [(), (roles.UNATTENDED,)], ids=["plain", "for automation"])
def test_a_program_by_itself_is_as_a_key(door: Door, more: tuple[str, ...]) -> None:
    app = program(door, "users:write", *more, grants=["client_credentials"], redirect_uris=[])
    token = app.post("/oauth/token", grant_type="client_credentials").json()["access_token"]
    assert acts(door, token) == bool(more)
    maker = signed_in(door, person(door, "admin"))
    age(door)
    body = {"name": "late", "scopes": ["users:write", *more], "grants": ["client_credentials"]}
    with door.client(maker) as http:
        assert http.post("/v1/clients", json=body).status_code == (403 if more else 201)
