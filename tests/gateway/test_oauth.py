"""OAuth 2.0 and OpenID Connect as programs and users have them, over HTTP and in a browser without scripts."""

from __future__ import annotations

import json

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from rios.accounts.signing import REGISTRY
from tests.gateway.browsing import BACK, Program, answer, code_for, person, program
from tests.gateway.servers import Door, problem

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


def me(door: Door, token: str) -> httpx2.Response:
    with door.client(token) as http:
        return http.get("/v1/users/me")


def error(response: httpx2.Response, status: int, name: str) -> None:
    assert (response.status_code, response.json()["error"]) == (status, name), response.text
    assert "no-store" in response.headers["cache-control"]


def test_a_code_becomes_tokens_that_are_renewed_and_given_back(door: Door) -> None:
    ann, app = person(door), program(door, "usage:read", "generate", "openid", "profile")
    page = ann.get(app.asks())
    assert page.status_code == 200
    assert 'name="password"' in page.text
    consent = ann.sign_in(page)
    assert "see the user&#39;s own usage" in consent.text
    assert f"form-action 'self' {BACK.removesuffix('/back')}" in consent.headers["content-security-policy"]
    said = answer(ann.fill(consent, "/oauth/authorize", follow=False, decision="allow"))
    assert (said["state"], said["iss"]) == ("st", door.url)
    tokens = app.redeem(said["code"]).json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token", "id_token"}
    assert tokens["scope"] == "generate openid profile usage:read"
    own = me(door, tokens["access_token"]).json()
    assert (own["id"], own["scopes"]) == (ann.id, ["generate", "usage:read"])
    with door.client(tokens["access_token"]) as http:
        problem(http.get("/v1/tokens"), 403)
        assert http.get("/oauth/userinfo").json() == {
            "sub": ann.id, "preferred_username": ann.login, "name": ann.login,
        }  # fmt: skip
        keys = KeySet.import_key_set(http.get("/.well-known/jwks.json").json())
    claims = jwt.decode(tokens["id_token"], keys, registry=REGISTRY).claims
    assert (claims["iss"], claims["aud"], claims["sub"], claims["nonce"]) == (door.url, app.id, ann.id, "no")
    renewed = app.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"]).json()
    active = app.post("/oauth/introspect", token=renewed["access_token"]).json()
    assert (active["active"], active["sub"], active["client_id"]) == (True, ann.id, app.id)
    assert app.post("/oauth/introspect", token=renewed["refresh_token"]).json()["active"]
    assert app.post("/oauth/introspect", token="made up").json() == {"active": False}
    assert app.post("/oauth/revoke", token=renewed["refresh_token"]).status_code == 200
    assert app.post("/oauth/introspect", token=renewed["access_token"]).json() == {"active": False}
    problem(me(door, renewed["access_token"]), 401)


def test_a_refresh_may_ask_for_less_and_never_for_more(door: Door) -> None:
    """RFC 6749, section 6: the session keeps what it has, and what is refused uses nothing up."""
    ann, app = person(door), program(door, "usage:read", "wallet:read", "generate")
    tokens = app.redeem(code_for(ann, app, scope="usage:read wallet:read")).json()

    def again(tokens: dict[str, str], scope: str) -> httpx2.Response:
        return app.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"], scope=scope)

    for wrong in ("usage:read generate", "everything"):
        error(again(tokens, wrong), 400, "invalid_scope")
    less = again(tokens, "usage:read").json()
    assert less["scope"] == "usage:read"
    assert me(door, less["access_token"]).json()["scopes"] == ["usage:read"]
    whole = again(less, "").json()
    assert whole["scope"] == "usage:read wallet:read"
    assert me(door, whole["access_token"]).json()["scopes"] == ["usage:read", "wallet:read"]


def test_a_program_gets_no_more_than_the_user_has(door: Door) -> None:
    """Role escalation: a viewer gives a program what a viewer may, whatever it asks for."""
    eve, app = person(door, "viewer"), program(door, "users:write", "generate", "usage:read")
    tokens = app.redeem(code_for(eve, app)).json()
    assert tokens["scope"] == "usage:read"
    with door.client(tokens["access_token"]) as http:
        problem(http.post("/v1/users", json={"login": "mine", "role": "viewer"}), 403)
    narrow = program(door, "usage:read")
    assert answer(eve.http.get(narrow.asks(scope="usage:read generate")))["error"] == "invalid_scope"


def test_a_user_may_say_no(door: Door) -> None:
    ann, app = person(door), program(door, "usage:read")
    page = ann.sign_in(ann.get(app.asks()))
    said = answer(ann.fill(page, "/oauth/authorize", follow=False, decision="deny"))
    assert (said["error"], said["state"]) == ("access_denied", "st")
    assert answer(ann.http.get(app.asks(prompt="none")))["error"] == "interaction_required"


def test_a_program_acts_for_its_maker(door: Door) -> None:
    app = program(door, "usage:read", grants=["client_credentials"], redirect_uris=[])
    tokens = app.post("/oauth/token", grant_type="client_credentials").json()
    assert "refresh_token" not in tokens
    assert me(door, tokens["access_token"]).json()["id"] == "local"
    error(app.post("/oauth/token", grant_type="client_credentials", scope="generate"), 400, "invalid_scope")
    wrong = Program(door, app.id, "rios_cs_wrong", ())
    error(wrong.post("/oauth/token", grant_type="client_credentials"), 401, "invalid_client")
    with door.client() as http:
        assert app.id in [one["id"] for one in http.get("/v1/clients").json()["data"]]
        assert http.delete(f"/v1/clients/{app.id}").status_code == 204
    problem(me(door, tokens["access_token"]), 401)
    error(app.post("/oauth/token", grant_type="client_credentials"), 401, "invalid_client")


def test_a_program_without_a_browser_waits_for_its_user(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    cli, ann = Program(door, "rios-cli", None, ()), person(door)
    begun = cli.post("/oauth/device_authorization").json()
    assert begun["verification_uri"] == f"{door.url}/oauth/device"
    with monkeypatch.context() as patched:
        patched.setattr("rios.services.oauth_store.POLL_S", 3600)  # however long it takes until it asks again
        for why in ("authorization_pending", "slow_down"):
            error(cli.post("/oauth/token", grant_type=DEVICE, device_code=begun["device_code"]), 400, why)
    page = ann.sign_in(ann.get(begun["verification_uri_complete"].removeprefix(door.url)))
    assert begun["user_code"] in page.text
    done = ann.fill(page, "/oauth/device", decision="allow")
    assert "connected" in done.text
    assert ann.fill(page, "/oauth/device", decision="allow").status_code == 404, "once"
    tokens = cli.post("/oauth/token", grant_type=DEVICE, device_code=begun["device_code"]).json()
    assert me(door, tokens["access_token"]).json()["id"] == ann.id
    error(cli.post("/oauth/token", grant_type=DEVICE, device_code=begun["device_code"]), 400, "invalid_request")
    other = cli.post("/oauth/device_authorization").json()
    typed = ann.get(f"/oauth/device?user_code={other['user_code'].lower().replace('-', ' ')}")
    assert "refused" in ann.fill(typed, "/oauth/device", decision="deny").text
    error(cli.post("/oauth/token", grant_type=DEVICE, device_code=other["device_code"]), 400, "access_denied")
    assert ann.get("/oauth/device?user_code=BBBB-BBBB").status_code == 404


def test_what_is_there_can_be_discovered(door: Door) -> None:
    with door.client("") as http:
        said = http.get("/.well-known/openid-configuration").json()
        assert http.get("/.well-known/oauth-authorization-server").json() == said
        assert said["issuer"] == door.url
        assert said["code_challenge_methods_supported"] == ["S256"]
        places = [value for name, value in said.items() if name.endswith(("_endpoint", "_uri"))]
        assert len(places) == 7
        for place in places:
            assert {http.get(place).status_code, http.post(place).status_code} != {404}, place


def test_sessions_of_programs_are_seen_and_ended_by_their_user(door: Door) -> None:
    ann, app = person(door), program(door, "usage:read")
    tokens = app.redeem(code_for(ann, app)).json()
    page = ann.get("/account")
    assert "program" in page.text
    with door.client(ann.token) as http:
        (session,) = [one for one in http.get("/v1/sessions").json()["data"] if one["client_id"] == app.id]
    assert ann.fill(page, "/account/sessions", session_id=session["id"]).status_code == 200
    problem(me(door, tokens["access_token"]), 401)
    error(
        app.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"]),
        400,
        "invalid_grant",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"redirect_uris": ["http://evil.example/"]},
        {"redirect_uris": ["https://good.example/#part"]},
        {"redirect_uris": ["https://user@good.example/"]},
        {"redirect_uris": ["https://*.example/"]},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": []},
        {"grants": ["password"]},
        {"grants": ["client_credentials"], "redirect_uris": [], "public": True},
        {"grants": ["refresh_token"], "redirect_uris": []},
        {"scopes": ["everything"]},
        {"scopes": []},
        {"organisation_id": "network"},
    ],
    ids=json.dumps,
)
def test_programs_that_are_not_registered(door: Door, body: dict[str, object]) -> None:
    good = {"name": "p", "scopes": ["usage:read"], "grants": ["authorization_code"], "redirect_uris": [BACK]}
    with door.client() as http:
        problem(http.post("/v1/clients", json=good | body), 400)
