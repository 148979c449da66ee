"""The routes of accounts: signing in, keys, users, organisations, the audit log; and who may not."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from fastapi.routing import APIRoute

from rios.accounts import roles
from rios.gateway.app import PUBLIC, ROUTERS, create_app, unguarded
from rios.gateway.document import scope_of
from rios.gateway.settings import GatewaySettings
from tests.gateway.servers import Door, problem

PASSWORD = "correct horse battery"
_NAMES = iter(range(10**6))


def unique(word: str) -> str:
    return f"{word}{next(_NAMES)}"


def user(door: Door, role: str, **more: Any) -> dict[str, Any]:
    with door.client() as http:
        response = http.post("/v1/users", json={"login": unique(role), "role": role, **more})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def organisation(door: Door) -> dict[str, Any]:
    with door.client() as http:
        response = http.post("/v1/organisations", json={"name": unique("Lab "), "admin": unique("head")})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


EVERY = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
ROUTES = [route for route in EVERY if route.include_in_schema]


def test_a_session_from_sign_in_to_its_end(door: Door) -> None:
    ann = user(door, "developer", password=PASSWORD)
    with door.client("") as http:
        first = http.post("/v1/sessions", json={"login": ann["login"].upper(), "password": PASSWORD})
        assert first.status_code == 201
        tokens = first.json()
        assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
        assert first.headers["cache-control"] == "no-store"
        second = http.post("/v1/sessions/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    with door.client(second["access_token"]) as http:
        me = http.get("/v1/users/me").json()
        assert (me["id"], me["role"]) == (ann["id"], "developer")
        sessions = http.get("/v1/sessions").json()["data"]
        assert [one["id"] for one in sessions] == [tokens["session_id"]]
        assert sessions[0]["client"].startswith("python-httpx")
        assert http.delete(f"/v1/sessions/{tokens['session_id']}").status_code == 204
        problem(http.get("/v1/users/me"), 401)
    with door.client(tokens["access_token"]) as http:
        problem(http.get("/v1/users/me"), 401)
    with door.client("") as http:
        problem(http.post("/v1/sessions/refresh", json={"refresh_token": second["refresh_token"]}), 401)


def test_a_stolen_refresh_token_ends_the_session(door: Door) -> None:
    ann = user(door, "viewer", password=PASSWORD)
    with door.client("") as http:
        first = http.post("/v1/sessions", json={"login": ann["login"], "password": PASSWORD}).json()
        second = http.post("/v1/sessions/refresh", json={"refresh_token": first["refresh_token"]}).json()
        problem(http.post("/v1/sessions/refresh", json={"refresh_token": first["refresh_token"]}), 401)
        problem(http.post("/v1/sessions/refresh", json={"refresh_token": second["refresh_token"]}), 401)
    with door.client(second["access_token"]) as http:
        problem(http.get("/v1/users/me"), 401)


def test_wrong_sign_ins_look_alike(door: Door) -> None:
    ann = user(door, "viewer", password=PASSWORD)
    nobody = user(door, "viewer")  # has no password at all
    with door.client("") as http:
        said = set()
        for login, password in ((ann["login"], "wrong"), ("nobody", "wrong"), (nobody["login"], ""), ("' OR 1=1", "x")):
            response = http.post("/v1/sessions", json={"login": login, "password": password or "x"})
            said.add(problem(response, 401)["detail"])
    assert len(said) == 1


def test_a_key_from_its_making_to_its_end(door: Door) -> None:
    with door.client() as http:
        made = http.post("/v1/tokens", json={"name": "ci", "scopes": ["models:read"], "expires_in_s": 3600}).json()
        assert made["token"].startswith(made["prefix"])
        listed = http.get("/v1/tokens").json()["data"]
        assert made["id"] in [one["id"] for one in listed]
        assert made["token"] not in json.dumps(listed)
        with door.client(made["token"]) as own:
            assert own.get("/v1/deployments").status_code == 200
            problem(own.get("/v1/users"), 403)
            problem(own.post("/v1/tokens", json={}), 403)
            assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204
            problem(own.get("/v1/deployments"), 401)
        problem(http.delete("/v1/tokens/key-none"), 404)
        assert http.post("/v1/tokens", json={"scopes": ["everything"]}).status_code == 400


def test_users_come_in_pages(door: Door) -> None:
    lab = organisation(door)
    with door.client(lab["token"]) as http:
        made = [http.post("/v1/users", json={"login": unique("p"), "role": "viewer"}).json()["id"] for _ in range(4)]
        found, after = [], ""
        while after is not None:
            page = http.get("/v1/users", params={"limit": 2, "after": after}).json()
            assert len(page["data"]) <= 2
            found += [one["id"] for one in page["data"]]
            after = page["next"]
        assert sorted([*made, lab["admin"]["id"]]) == found
        assert http.patch(f"/v1/users/{made[0]}", json={"role": "developer"}).json()["role"] == "developer"
        assert http.delete(f"/v1/users/{made[0]}").status_code == 204
        assert http.get(f"/v1/users/{made[0]}").json()["login"].startswith("closed:")
        assert problem(http.delete(f"/v1/users/{lab['admin']['id']}"), 403)["detail"].startswith(
            "an organisation keeps"
        )


def test_what_is_somebodys_names_the_login_until_the_account_is_closed(door: Door) -> None:
    lab = organisation(door)
    with door.client(lab["token"]) as http:
        made = http.post("/v1/users", json={"login": unique("d"), "role": "developer"}).json()
        app = {"name": "theirs", "command": ["sleep", "9"], "resources": {"memory": "9TiB"}}  # which fits nowhere
        with door.client(made["token"]) as own:
            assert own.post("/v1/apps", json=app).status_code == 202

        def owner() -> tuple[str, str]:
            (found,) = http.get("/v1/apps").json()["data"]
            return found["owner"], found["owner_login"]

        assert owner() == (made["id"], made["login"])
        assert http.delete(f"/v1/users/{made['id']}").status_code == 204
        assert owner() == (made["id"], f"closed:{made['id']}")


def test_the_audit_log_can_be_read(door: Door) -> None:
    lab = organisation(door)
    with door.client(lab["token"]) as http:
        made = http.post("/v1/users", json={"login": unique("a"), "role": "viewer"}).json()
        rows = http.get("/v1/audit").json()["data"]
    assert [(row["action"], row["object"]) for row in rows] == [("user.create", made["id"])]
    assert rows[0]["actor"] == lab["admin"]["id"]
    assert door.gate.accounts.verify_audit() is None


def test_no_route_is_open_by_mistake(door: Door) -> None:
    app = create_app(door.gate, GatewaySettings())
    assert unguarded(app) == []
    operations = {
        (method.upper(), path): said for path, found in app.openapi()["paths"].items() for method, said in found.items()
    }
    assert {one for one, said in operations.items() if "security" not in said} == PUBLIC, "and the document says so"
    assert operations.keys() == {(method, route.path) for route in ROUTES for method in route.methods or ()}

    @app.get("/v1/forgotten")
    def forgotten() -> None:
        """Asks for nothing."""

    assert unguarded(app) == [("GET", "/v1/forgotten")]
    assert {scope_of(route) for route in ROUTES} - {None, ""} <= set(roles.SCOPES)


def status_of(http: Any, method: str, path: str, body: dict[str, Any]) -> int:
    """Of the answer, which may be a stream that does not end."""
    with http.stream(method, path, json=body) as answer:
        return int(answer.status_code)


def test_every_route_asks_for_a_token(door: Door) -> None:
    with door.client("") as http:
        for route in ROUTES:
            for method in route.methods or ():
                path = re.sub(r"{\w+}", "x", route.path)
                status = status_of(http, method, path, {})
                assert (status == 401) == ((method, route.path) not in PUBLIC), (method, path, status)


def test_what_is_not_in_the_document_is_for_a_signed_in_browser(door: Door) -> None:
    """A token does not help there, and there is nothing else that the document leaves out."""
    hidden = {(method, route.path) for route in EVERY if not route.include_in_schema for method in route.methods or ()}
    panel = "/dashboard/panel/{what:path}"
    fixed = {("GET", "/dashboard"), ("GET", "/dashboard/panel/events"), ("GET", "/dashboard/panel/file")}
    assert hidden == {*fixed, ("GET", panel), ("POST", panel)}
    for token in ("", user(door, "admin")["token"]):
        with door.client(token) as http:
            page = http.get("/dashboard", follow_redirects=False)
            assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fdashboard")
            for method, path in hidden - {("GET", "/dashboard")}:
                assert status_of(http, method, path.replace("{what:path}", "wallet"), {}) == 401, (method, path)


@pytest.mark.parametrize("role", roles.ROLES)
def test_every_route_holds_to_the_table(door: Door, role: str) -> None:
    """Each route, asked with an empty body by each role: 403 exactly where the table says no."""
    token = user(door, role)["token"]
    may = roles.scopes_of(role, operator=True)
    with door.client(token) as http:
        for route in ROUTES:
            scope = scope_of(route)
            for method in route.methods or ():
                if scope is None or (method, route.path) == ("POST", "/v1/settlement"):
                    continue  # the latter would settle
                path = re.sub(r"{\w+}", "x", route.path)
                status = status_of(http, method, path, {"surprise": 1})
                assert (status == 403) == (scope != "" and scope not in may), (method, path, status)


def test_nobody_becomes_more_than_he_is(door: Door) -> None:
    developer, viewer = user(door, "developer"), user(door, "viewer")
    for one in (developer, viewer):
        with door.client(one["token"]) as http:
            problem(http.patch(f"/v1/users/{one['id']}", json={"role": "admin"}), 403)
            problem(http.post("/v1/users", json={"login": unique("e"), "role": "admin"}), 403)
            problem(http.post("/v1/tokens", json={"scopes": ["users:write"]}), 403)
            problem(http.post("/v1/organisations", json={"name": "Mine", "admin": unique("e")}), 403)
    with door.client() as http:  # a token that may make users makes none that may more than itself
        made = http.post("/v1/tokens", json={"scopes": ["users:write", "users:read", "unattended"]}).json()
    with door.client(made["token"]) as http:
        problem(http.post("/v1/users", json={"login": unique("e"), "role": "admin"}), 403)
        problem(http.patch(f"/v1/users/{viewer['id']}", json={"role": "admin"}), 403)
    with door.client() as http:  # nor does one that may register programs register one that may more by itself
        made = http.post("/v1/tokens", json={"scopes": ["clients:write"], "expires_in_s": 60}).json()
    alone = {"name": "mine", "grants": ["client_credentials"], "redirect_uris": []}
    with door.client(made["token"]) as http:
        found = problem(http.post("/v1/clients", json=alone | {"scopes": ["clients:write", "users:write"]}), 403)
        assert "users:write" in found["detail"]
        assert http.post("/v1/clients", json=alone | {"scopes": ["clients:write", "openid"]}).status_code == 201
    lab = organisation(door)
    with door.client(lab["token"]) as http:  # the admin of an organisation is none of the network
        problem(http.post("/v1/organisations", json={"name": "Mine", "admin": unique("e")}), 403)
        problem(http.post("/v1/settlement"), 403)


@pytest.mark.parametrize(
    "more",
    [{"operator": True}, {"organisation_id": "network"}, {"id": "local"}, {"scopes": []}, {"closed_at": 1}],
    ids=str,
)
def test_fields_that_are_not_for_the_caller_are_refused(door: Door, more: dict[str, Any]) -> None:
    with door.client() as http:
        found = problem(http.post("/v1/users", json={"login": unique("m"), "role": "viewer", **more}), 400)
    assert found["param"] == next(iter(more))
    assert found["type"] == "urn:rios:error:InvalidRequest"


def test_forged_access_tokens_are_refused(door: Door) -> None:
    ann = user(door, "viewer", password=PASSWORD)
    with door.client("") as http:
        good = http.post("/v1/sessions", json={"login": ann["login"], "password": PASSWORD}).json()["access_token"]
        keys = http.get("/.well-known/jwks.json").json()["keys"]
    assert keys[0]["kty"] == "OKP"
    assert "d" not in keys[0]
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    better = part({**claims, "sub": "local"})
    none = part({"alg": "none", "typ": "at+jwt", "kid": keys[0]["kid"]})
    for token in (
        f"{head}.{better}.{signature}",
        f"{none}.{better}.",
        f"{none}.{body}.",
        f"{head}.{body}.",
        good + "A",
    ):
        with door.client(token) as http:
            problem(http.get("/v1/users/me"), 401)
    with door.client(good) as http:
        assert http.get("/v1/users/me").status_code == 200


def test_secrets_are_in_no_answer_twice_and_in_no_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        made = user(door, "viewer", password=PASSWORD)
        with door.client(made["token"]) as http:
            http.get("/v1/users/me")
        with door.client("") as http:
            tokens = http.post("/v1/sessions", json={"login": made["login"], "password": PASSWORD}).json()
            http.post("/v1/sessions", json={"login": made["login"], "password": [PASSWORD]})
            http.post("/v1/sessions/refresh", json={"refresh_token": tokens["refresh_token"]})
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "/v1/users/me" in logged
    for secret in (PASSWORD, made["token"], door.token, tokens["access_token"], tokens["refresh_token"]):
        assert secret not in logged
