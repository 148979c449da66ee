"""Attacks on signing in and on OAuth 2.0. Each is refused, and the honest way beside it works."""

from __future__ import annotations

import base64
import json
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from joserfc import jwt

from rios.accounts.signing import REGISTRY
from rios.gateway.routes.sign_in import safe_next
from rios.services.accounts import Accounts
from rios.words.errors import NotSignedIn
from tests.gateway.browsing import BACK, PASSWORD, Person, Program, answer, code_for, person, program, unique
from tests.gateway.servers import Door, problem
from tests.gateway.test_oauth import error, me
from tests.waiting import until

# --- codes


def test_a_code_without_pkce_is_not_given(door: Door) -> None:
    """From programs with a secret too; and `plain` is no PKCE."""
    ann, app = person(door), program(door, "usage:read")
    for changes in (
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge": "short"},
        {"code_challenge": app.challenge + "*"},
    ):
        assert answer(ann.http.get(app.asks(**changes)))["error"] == "invalid_request", changes
    assert ann.http.get(app.asks()).headers["location"].startswith("/login")


def test_a_code_is_worth_nothing_to_who_stole_it(door: Door) -> None:
    """Without the verifier, with another one, at another address, by another program."""
    ann, app, thief = person(door), program(door, "usage:read"), program(door, "usage:read")
    code = code_for(ann, app)
    error(app.redeem(code, code_verifier=""), 400, "invalid_request")
    error(app.redeem(code, code_verifier="x" * 43), 400, "invalid_grant")
    error(app.redeem(code, redirect_uri="http://127.0.0.1:9/other"), 400, "invalid_grant")
    thief.verifier = app.verifier
    error(thief.redeem(code), 400, "invalid_grant")
    error(Program(door, app.id, None, ()).redeem(code, code_verifier=app.verifier), 401, "invalid_client")
    assert app.redeem(code).status_code == 200


def test_a_replayed_code_ends_what_came_of_it(door: Door) -> None:
    ann, app = person(door), program(door, "usage:read")
    code = code_for(ann, app)
    tokens = app.redeem(code).json()
    assert me(door, tokens["access_token"]).status_code == 200
    error(app.redeem(code), 400, "invalid_grant")
    problem(me(door, tokens["access_token"]), 401)
    error(
        app.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"]),
        400,
        "invalid_grant",
    )
    assert "session.stolen" in [one.action for one in door.gate.accounts.store.audit()]


def test_a_refresh_token_that_comes_twice_ends_the_family(door: Door) -> None:
    ann, app, other = person(door), program(door, "usage:read"), program(door, "usage:read")
    first = app.redeem(code_for(ann, app)).json()
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    error(other.post("/oauth/token", **again), 400, "invalid_grant")
    with door.client("") as http:
        problem(http.post("/v1/sessions/refresh", json={"refresh_token": first["refresh_token"]}), 401)
    second = app.post("/oauth/token", **again).json()
    error(app.post("/oauth/token", **again), 400, "invalid_grant")
    error(app.post("/oauth/token", **again | {"refresh_token": second["refresh_token"]}), 400, "invalid_grant")
    problem(me(door, second["access_token"]), 401)


def test_an_id_token_is_no_access_token(door: Door) -> None:
    """It is signed by the same key, and every program's own server sees it."""
    ann, app = person(door), program(door, "openid", "usage:read")
    tokens = app.redeem(code_for(ann, app)).json()
    problem(me(door, tokens["id_token"]), 401)
    assert me(door, tokens["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({}, {"exp": 1}), ({}, {"aud": "another"}), ({}, {"iss": "https://elsewhere.example"}),
        ({"kid": "another"}, {}), ({"kid": None}, {}),
    ],
    ids=["expired", "for another audience", "of another issuer", "by another key", "by no key's name"],
)  # fmt: skip
def test_a_good_signature_excuses_nothing(door: Door, header: dict[str, Any], claims: dict[str, Any]) -> None:
    """Signed with the gateway's own key, and the same token without the mistake is taken."""
    ann = person(door)
    with door.client("") as http:
        good = http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}).json()["access_token"]
    head, body = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in good.split(".")[:2])

    def signed(header: dict[str, Any], claims: dict[str, Any]) -> str:
        said = {name: value for name, value in (head | header).items() if value is not None}
        return jwt.encode(said, body | claims, door.gate.accounts.signer._key, registry=REGISTRY)

    problem(me(door, signed(header, claims)), 401)
    assert me(door, signed({}, {"jti": "again"})).status_code == 200


def test_programs_learn_nothing_about_tokens_of_others(door: Door) -> None:
    with door.client() as http:
        lab = http.post("/v1/organisations", json={"name": unique("Lab "), "admin": unique("head")}).json()
    theirs = program(door, "usage:read", token=lab["token"], grants=["client_credentials"], redirect_uris=[])
    mine = program(door, "usage:read", grants=["client_credentials"], redirect_uris=[])
    token = mine.post("/oauth/token", grant_type="client_credentials").json()["access_token"]
    assert mine.post("/oauth/introspect", token=token).json()["active"]
    assert theirs.post("/oauth/introspect", token=token).json() == {"active": False}
    error(theirs.post("/oauth/revoke", token=token), 400, "invalid_grant")
    assert me(door, token).status_code == 200
    with httpx2.Client(base_url=door.url) as http:
        error(http.post("/oauth/introspect", data={"token": token}), 401, "invalid_client")
        error(http.post("/oauth/introspect", data={"token": token, "client_id": mine.id}), 401, "invalid_client")


# --- where browsers are sent


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.example/back",
        BACK + "/../x",
        BACK + "?a=b",
        BACK.upper(),
        "http://127.0.0.1:90/back",
        BACK + "#",
        "//evil",
        f"{BACK}@evil.example",
    ],
)
def test_nobody_is_sent_to_an_address_that_was_not_registered(door: Door, uri: str) -> None:
    """Open redirect: neither a code nor an error goes there."""
    ann, app = person(door), program(door, "usage:read")
    for changes in (
        {},
        {"response_type": "token"},
        {"scope": "nonsense"},
        {"code_challenge": None},
        {"prompt": "none"},
    ):
        response = ann.http.get(app.asks(redirect_uri=uri, **changes))
        assert response.status_code == 400, response.text
        assert "location" not in response.headers
    assert ann.http.get(app.asks(client_id="client-none")).status_code == 400


@pytest.mark.parametrize(
    "wanted",
    [
        "http://evil.example/",
        "//evil.example/account",
        "/\\evil.example",
        "\\\\evil.example/account",
        "/account\\@evil.example",
        "https:/account",
        "/account/../../evil",
        "/accounts",
        "javascript:alert(1)",
        "/account\r\nSet-Cookie: a=b",
        "/oauth/authorize.evil.example",
        "@evil.example/account",
        "",
    ],
)
def test_a_sign_in_leads_to_pages_of_the_gateway_alone(door: Door, wanted: str) -> None:
    assert safe_next(wanted) == "/account"
    ann = person(door)
    page = ann.http.get("/login", params={"next": wanted})
    response = ann.http.post(
        "/login", data=ann.form(page, "/login") | {"login": ann.login, "password": PASSWORD, "next": wanted}
    )
    assert (response.status_code, response.headers["location"]) == (303, "/account")
    assert safe_next("/oauth/device?user_code=A") == "/oauth/device?user_code=A"


# --- forms


def test_forms_of_other_sites_are_refused(door: Door) -> None:
    """CSRF, on every form: without the value of the page, with another browser's, or sent by another site."""
    ann, eve = person(door), person(door)
    app = program(door, "usage:read")
    consent = ann.sign_in(ann.get(app.asks()))
    own, foreign = ann.form(consent, "/oauth/authorize"), eve.form(eve.get("/login"), "/login")["csrf"]
    agreed = {**own, "decision": "allow"}
    forms = [
        ("/oauth/authorize", agreed), ("/oauth/device", {"request": "BBBB-BBBB", "decision": "allow"}),
        ("/login", {"login": ann.login, "password": PASSWORD}), ("/logout", {}), ("/login/outside", {}),
        ("/account/sessions", {"session_id": "x"}), ("/account/forgot", {"login": "x"}),
        ("/account/reset", {"ticket": "x", "password": "x"}), ("/account/confirm", {"ticket": "x"}),
    ]  # fmt: skip
    for path, form in forms:
        for wrong in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": foreign}):
            kept = {name: value for name, value in form.items() if name != "csrf"}
            assert ann.http.post(path, data=kept | wrong).status_code == 403, (path, wrong)
        foreign_site = {"Sec-Fetch-Site": "cross-site"}
        assert ann.http.post(path, data=form | {"csrf": own["csrf"]}, headers=foreign_site).status_code == 403, path
    assert "code" in answer(ann.http.post("/oauth/authorize", data=agreed))


def test_cookies_are_for_this_gateway_and_no_script(door: Door) -> None:
    ann = person(door)
    page = ann.http.get("/login")
    response = ann.http.post("/login", data=ann.form(page, "/login") | {"login": ann.login, "password": PASSWORD})
    kept = response.headers.get_list("set-cookie")
    assert len(kept) == 2, "a new session, and a new browser's secret"
    for one in kept:
        assert "HttpOnly" in one
        assert "SameSite=lax" in one
        assert "Domain" not in one
    for header in ("content-security-policy", "x-frame-options", "referrer-policy"):
        assert header in page.headers
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_session_that_somebody_else_prepared_is_not_taken_over(door: Door) -> None:
    """Session fixation: who put a cookie into the browser beforehand is not signed in by the victim."""
    ann, eve = person(door), person(door)
    eve.sign_in()
    name = next(name for name in eve.http.cookies if "session" in name)
    planted = eve.http.cookies[name]
    ann.http.cookies.set(name, planted, domain="127.0.0.1")
    ann.sign_in(ann.get("/login"))
    assert eve.get("/account").text.count("Sign in") > 0, "the prepared session is over"
    assert ann.login in ann.get("/account").text


def test_what_programs_call_themselves_is_text(door: Door) -> None:
    ann, app = person(door), program(door, "usage:read", name="<b onclick=alert(1)>Nice</b>")
    page = ann.sign_in(ann.get(app.asks()))
    assert "<b onclick" not in page.text
    assert "&lt;b onclick" in page.text


@pytest.mark.parametrize("name", ["client_id", "response_type", "scope", "redirect_uri", "state", "nonce", "prompt"])
def test_parameters_are_given_once_and_plain(door: Door, name: str) -> None:
    """Authlib would fail on them: its errors may name no such character."""
    ann, app = person(door), program(door, "usage:read")
    twice = ann.http.get(app.asks() + f"&{name}=x&{name}=y")
    assert twice.status_code == 400
    for value in ('"', "\\", "\x7f", "é", "\x01"):
        found = ann.http.get(app.asks(**{name: value}))
        assert found.status_code == (303 if name == "state" and value in '"\\' else 400), (value, found.text)
    error(app.post("/oauth/token", grant_type='"é'), 400, "invalid_request")
    with httpx2.Client(base_url=door.url, headers={"Authorization": "Basic /////w=="}) as http:
        assert http.post("/oauth/token", data={"grant_type": "client_credentials"}).status_code in (400, 401)


# --- guessing


@contextmanager
def _no_time_passes(door: Door) -> Iterator[None]:
    """However long it takes to ask: who has guessed is waited for by the gateway's clock, at first for a second."""
    tokens = door.gate.accounts.tokens
    now = tokens._clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_clock", lambda: now)
        yield


def test_who_guesses_passwords_waits(door: Door) -> None:
    """Brute force: after five wrong ones even the right one has to wait, whoever asks, at both doors."""
    ann = person(door)
    with _no_time_passes(door):
        for _ in range(5):
            assert ann.sign_in(password="wrong password").status_code == 401
        assert ann.sign_in().status_code == 401
        with door.client("") as http:
            problem(http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}), 401)
    until(lambda: ann.sign_in().status_code != 401, "that it may try again", deadline_s=20, pause_s=0.2)


def test_the_own_password_cannot_be_guessed_with_a_stolen_token(door: Door) -> None:
    ann = person(door)
    with door.client(ann.token) as http, _no_time_passes(door):
        for _ in range(5):
            problem(http.put("/v1/users/me/password", json={"old": "wrong", "new": "another long one"}), 401)
        problem(http.put("/v1/users/me/password", json={"old": PASSWORD, "new": "another long one"}), 401)
        problem(http.post("/v1/users/me/close", json={"login": ann.login, "password": PASSWORD}), 401)


def test_unknown_users_take_as_long(door: Door) -> None:
    """Timing: both compute a hash, which is nearly all of the time, and both write down that somebody guessed."""
    accounts: Accounts = door.gate.accounts
    known, took = person(door), {True: [], False: []}
    for _ in range(4):
        for there in (True, False):
            login = known.login if there else unique("nobody")
            began = time.thread_time()
            with pytest.raises(NotSignedIn):
                accounts.tokens.sign_in(login, "wrong password")
            took[there].append(time.thread_time() - began)
            assert accounts.store.guess(_mark(login)) is not None
    assert statistics.median(took[False]) > 0.5 * statistics.median(took[True]), took


def _mark(login: str) -> bytes:
    from rios.services.guesses import mark_of

    return mark_of(login)


def test_a_forgotten_password_tells_nobody_who_is_there(door: Door) -> None:
    ann = person(door)
    page = ann.get("/account/forgot")
    said = {ann.fill(page, "/account/forgot", login=login).text for login in (ann.login, unique("nobody"), "' OR 1=1")}
    assert len(said) == 1


def test_links_in_mails_do_not_follow_the_host_header(door: Door) -> None:
    """Who asks for somebody's new password chooses nothing of the link."""
    ann = person(door)
    page = ann.http.get("/account/forgot")
    form = ann.form(page, "/account/forgot") | {"login": ann.login}
    assert ann.http.post("/account/forgot", data=form, headers={"Host": "evil.example"}).status_code == 200
    said = [one["payload"] for one in _outbox(door) if one["topic"] == "mail"]
    assert said
    assert not [one for one in said if "evil" in one]


def _outbox(door: Door) -> list[dict[str, str]]:
    from sqlalchemy import select

    from rios.storage.models import OutboxRow

    with door.gate.accounts.ledger.database.reading() as connection:
        return [dict(row) for row in connection.execute(select(OutboxRow.__table__)).mappings()]


# --- what is another's, and what is secret


def test_programs_of_another_organisation_ask_in_vain(door: Door) -> None:
    with door.client() as http:
        labs = [
            http.post("/v1/organisations", json={"name": unique("Lab "), "admin": unique("h")}).json() for _ in "ab"
        ]
    ann, app = person(door, token=labs[0]["token"]), program(door, "usage:read", token=labs[1]["token"])
    assert ann.sign_in(ann.get(app.asks())).status_code == 400
    own = program(door, "usage:read", token=labs[0]["token"])
    assert "Allow" in ann.get(own.asks()).text
    assert "Allow" in ann.get(program(door, "usage:read").asks()).text, "the network's own are for everybody"


@pytest.mark.parametrize(
    "more", [{"role": "admin"}, {"login": "x"}, {"email_confirmed_at": 1}, {"id": "local"}], ids=str
)
def test_a_profile_has_no_other_fields(door: Door, more: dict[str, object]) -> None:
    """Mass assignment."""
    ann = person(door)
    with door.client(ann.token) as http:
        assert problem(http.patch("/v1/users/me/profile", json={"name": "Ann", **more}), 400)["param"] == next(
            iter(more)
        )
        assert http.get("/v1/users/me").json()["role"] == "developer"


def test_secrets_of_programs_are_in_no_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Authlib logs the tokens that it hands out, at DEBUG."""
    ann, app = person(door), program(door, "openid", "usage:read")
    with caplog.at_level("DEBUG"):
        code = code_for(ann, app)
        tokens = app.redeem(code).json()
        app.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        app.post("/oauth/introspect", token=tokens["access_token"])
        cookies = list(ann.http.cookies.values())
    own = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]  # the client's
    logged = "\n".join(f"{one.getMessage()} {one.__dict__}" for one in own)
    assert "/oauth/token" in logged
    assert not logging.getLogger("authlib.oauth2").isEnabledFor(logging.DEBUG)
    secrets = [code, app.secret, app.verifier, PASSWORD, *tokens.values(), *cookies]
    for secret in (one for one in secrets if isinstance(one, str) and len(one) > 30):
        assert secret not in logged


def test_nothing_in_the_database_opens_anything(door: Door) -> None:
    """Of all secrets hashes are kept."""
    ann, app = person(door), program(door, "openid", "usage:read")
    code = code_for(ann, app)
    tokens = app.redeem(code).json()
    from rios.storage.models import Base

    with door.gate.accounts.ledger.database.reading() as connection:
        kept = "\n".join(
            str(tuple(row)) for table in Base.metadata.sorted_tables for row in connection.execute(table.select())
        )
    assert ann.id in kept
    for secret in (code, app.secret, PASSWORD, tokens["refresh_token"], tokens["access_token"], ann.token):
        assert secret not in kept
    for secret in ann.http.cookies.values():
        assert secret not in kept


def test_the_pages_are_of_one_user(door: Door) -> None:
    """Nobody ends a session of another, or answers for another."""
    ann, eve = person(door), person(door)
    ann.sign_in()
    with door.client(ann.token) as http:
        (session,) = http.get("/v1/sessions").json()["data"]
    page = eve.sign_in()
    assert eve.fill(page, "/account/sessions", session_id=session["id"]).status_code == 404
    assert ann.login in ann.get("/account").text
    anonymous = Person(door)
    page = anonymous.get("/account")
    assert dict(parse_qsl(urlsplit(str(page.url)).query))["next"] == "/account"
