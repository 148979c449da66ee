"""The OAuth 2.0 and OpenID Connect server of a network, on Authlib. It knows nothing of HTTP frameworks.

Parameters come as they are in a form, each at most once; answers are status, JSON and headers.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AccessDeniedError, AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from rios.accounts.clients import CLIENT_SCOPES, CODE, CREDENTIALS, DEVICE, REFRESH, Client
from rios.accounts.roles import OPENID_SCOPES, TABLE
from rios.accounts.signing import ALGORITHM
from rios.services.oauth_grants import (
    Answer,
    CodeGrant,
    CredentialsGrant,
    DeviceEndpoint,
    DeviceGrant,
    Introspect,
    RefreshGrant,
    Revoke,
    StrictChallenge,
)
from rios.services.oauth_store import OAuthStore
from rios.services.tokens import SECOND
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from rios.accounts.values import Principal, User
    from rios.services.accounts import Accounts

_ID_TOKEN_S = 600
# RFC 6749, appendix A: what every parameter is made of. Others break the words in which errors are told.
_PLAIN = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*")
_STATE = re.compile(r"[\x20-\x7e]*")
_OPENID = {
    "openid": "know who you are at this gateway",
    "profile": "see your name and login",
    "email": "see your e-mail address",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """Who is signed in in a browser."""

    who: Principal
    signed_in_at: int
    """Microseconds of UTC since 1970."""
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user is asked before a program gets anything."""

    client: Client
    scopes: tuple[str, ...]
    allows: tuple[str, ...]
    """The same in words."""
    redirect_uri: str = ""


class SentBack(Exception):
    """The browser is sent back to the program, with an error or a code."""

    def __init__(self, location: str) -> None:
        super().__init__("the browser is sent back")
        self.location = location


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, method: str, parameters: Mapping[str, str], headers: Mapping[str, str], issuer: str) -> None:
        # Whether there is TLS is the operator's choice; Authlib would refuse to work on a laptop.
        titled = {name.title(): value for name, value in headers.items()}
        super().__init__(method, "https://rios.invalid/oauth", headers=titled)
        self.payload = BasicOAuth2Payload(dict(parameters))
        self.issuer = issuer

    @property
    def form(self) -> dict[str, str]:
        found: dict[str, str] = self.payload.data
        return found


class _Server(AuthorizationServer):  # type: ignore[misc]
    def __init__(self, store: OAuthStore) -> None:
        super().__init__(scopes_supported=sorted(CLIENT_SCOPES))
        self.store = store
        self.accounts = store.accounts
        self.register_grant(CodeGrant, [StrictChallenge()])
        for grant in (RefreshGrant, CredentialsGrant, DeviceGrant):
            self.register_grant(grant)
        for endpoint in (DeviceEndpoint, Revoke, Introspect):
            self.register_endpoint(endpoint)

    def query_client(self, client_id: str) -> Client | None:
        return self.store.client(client_id)

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Answer:
        return status, body, headers

    def id_token(self, issuer: str, client: Client, row: RowMapping) -> str:
        """Who the user is, signed for one program (OpenID Connect Core, section 2)."""
        user = self.accounts.store.user(row["user_id"])
        assert user is not None
        now_s = self.accounts.now() // SECOND
        claims = {
            "iss": issuer,
            "aud": client.id,
            "iat": now_s,
            "exp": now_s + _ID_TOKEN_S,
            "auth_time": row["signed_in_at"] // SECOND,
            "jti": secrets.token_hex(12),
            **({"nonce": row["nonce"]} if row["nonce"] else {}),
            **about(user, frozenset(_scopes(row))),
        }
        return self.accounts.signer.sign(claims, kind="JWT")


def _scopes(row: RowMapping) -> list[str]:
    return list(json.loads(row["scopes"]))


def about(user: User, scopes: frozenset[str]) -> dict[str, Any]:
    """What a program with `scopes` may be told about a user, by OpenID's names."""
    said: dict[str, Any] = {"sub": user.id}
    if "profile" in scopes:
        said |= {"preferred_username": user.login, "name": user.name or user.login}
    if "email" in scopes and user.email is not None:
        said |= {"email": user.email, "email_verified": user.email_confirmed_at is not None}
    return said


class OAuth:
    """The server."""

    def __init__(self, accounts: Accounts) -> None:
        self.store = OAuthStore(accounts)
        self._accounts = accounts
        self._server = _Server(self.store)

    # --- what is there ---------------------------------------------------------------------------------------

    @staticmethod
    def metadata(issuer: str) -> dict[str, Any]:
        """The discovery document, of OAuth 2.0 (RFC 8414) and of OpenID Connect. issuer: the gateway's URL."""
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "token_endpoint": f"{issuer}/oauth/token",
            "device_authorization_endpoint": f"{issuer}/oauth/device_authorization",
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "introspection_endpoint": f"{issuer}/oauth/introspect",
            "userinfo_endpoint": f"{issuer}/oauth/userinfo",
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "scopes_supported": sorted(CLIENT_SCOPES),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [CODE, REFRESH, CREDENTIALS, DEVICE],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "name", "preferred_username",
                                 "email", "email_verified"],
            "authorization_response_iss_parameter_supported": True,
            "request_parameter_supported": False,
            "request_uri_parameter_supported": False,
        }  # fmt: skip

    def userinfo(self, who: Principal) -> dict[str, Any]:
        """What the program that asks with this token may know about the user. Raises NotFound, NotAllowed."""
        session = self._accounts.store.session(who.by)
        user = self._accounts.store.user(who.user_id)
        if user is None:
            raise NotFound(f"there is no user {who.user_id!r}")
        return about(user, OPENID_SCOPES if session is None or session.client_id is None else session.scopes)

    # --- what programs ask -----------------------------------------------------------------------------------

    def token(self, parameters: Mapping[str, str], headers: Mapping[str, str], issuer: str) -> Answer:
        """The token endpoint (RFC 6749, section 3.2)."""
        return self._answer(self._server.create_token_response, parameters, headers, issuer)

    def endpoint(self, name: str, parameters: Mapping[str, str], headers: Mapping[str, str], issuer: str) -> Answer:
        """One of "device_authorization", "revocation", "introspection"."""

        def run(request: _Request) -> Answer:
            found: Answer = self._server.create_endpoint_response(name, request)
            return found

        return self._answer(run, parameters, headers, issuer)

    def _answer(self, run: Any, parameters: Mapping[str, str], headers: Mapping[str, str], issuer: str) -> Answer:
        if (wrong := _not_plain(parameters)) is not None:
            return _refusal(f"the parameter {wrong} has characters that none may have")
        try:
            found: Answer = run(_Request("POST", parameters, headers, issuer))
        except OAuth2Error as error:
            found = error()
        except UnicodeError:
            found = _refusal("the header Authorization is not text")
        return found

    # --- what users are asked --------------------------------------------------------------------------------

    def question(self, parameters: Mapping[str, str], browser: Browser | None, issuer: str) -> Question:
        """What to ask a user whom a program sent here; without one, whether the request is one at all.

        Raises SentBack where the program is to be told; InvalidRequest where it cannot be trusted with an answer.
        """
        grant = self._grant(parameters, browser, issuer)
        client: Client = grant.request.client
        if browser is not None and not self.store.may_be_used(client, browser.who):
            raise InvalidRequest(f"there is no program {client.id!r} for you: ask an admin of your organisation")
        if parameters.get("prompt") == "none":
            raise SentBack(self._back(grant.redirect_uri, parameters, issuer, error="interaction_required"))
        return self._asked(client, grant.request.scope.split(), browser, grant.redirect_uri)

    def decide(self, parameters: Mapping[str, str], browser: Browser, issuer: str, *, allowed: bool) -> str:
        """Where the browser goes once the user has decided: back to the program."""
        question = self.question(parameters, browser, issuer)
        grant = self._grant(parameters, browser, issuer)
        grant.request.scope = " ".join(question.scopes)
        if not allowed:
            return self._back(question.redirect_uri, parameters, issuer, error=AccessDeniedError.error)
        _, _, headers = grant.create_authorization_response(grant.redirect_uri, browser)
        return add_params_to_uri(dict(headers)["Location"], [("iss", issuer)])  # type: ignore[no-any-return]

    def device_question(self, row: RowMapping, browser: Browser) -> Question:
        """What to ask a user who typed the code of a program that waits. Raises InvalidRequest."""
        client = self.store.client(row["client_id"])
        if client is None or not self.store.may_be_used(client, browser.who):
            raise InvalidRequest("this program is not there any more")
        return self._asked(client, _scopes(row), browser, "")

    def _grant(self, parameters: Mapping[str, str], browser: Browser | None, issuer: str) -> Any:
        if (wrong := _not_plain(parameters)) is not None:
            raise InvalidRequest(f"the parameter {wrong} has characters that none may have")
        request = _Request("GET", parameters, {}, issuer)
        try:
            grant = self._server.get_consent_grant(request, end_user=browser)
        except OAuth2Error as error:
            if error.redirect_uri:
                back = {"error": error.error, "error_description": error.description or ""}
                raise SentBack(self._back(error.redirect_uri, parameters, issuer, **back)) from error
            raise InvalidRequest(f"a program sent you here wrongly: {error.description or error.error}") from error
        return grant

    @staticmethod
    def _back(redirect_uri: str, parameters: Mapping[str, str], issuer: str, **said: str) -> str:
        state = {"state": parameters["state"]} if parameters.get("state") else {}
        return str(add_params_to_uri(redirect_uri, list({**said, **state, "iss": issuer}.items())))

    def _asked(self, client: Client, scopes: list[str], browser: Browser | None, redirect_uri: str) -> Question:
        words = {right.scope: right.allows for right in TABLE} | _OPENID
        had = CLIENT_SCOPES if browser is None else browser.who.scopes | OPENID_SCOPES
        given = tuple(scope for scope in words if scope in scopes and scope in had)
        return Question(
            client=client, scopes=given, allows=tuple(words[scope] for scope in given), redirect_uri=redirect_uri
        )


def _not_plain(parameters: Mapping[str, str]) -> str | None:
    """The first parameter that has other characters than RFC 6749 allows."""
    for name, value in parameters.items():
        if not (_STATE if name == "state" else _PLAIN).fullmatch(value):
            return name if _PLAIN.fullmatch(name) else "of that name"
    return None


def _refusal(said: str) -> Answer:
    return 400, {"error": "invalid_request", "error_description": said}, [("Cache-Control", "no-store")]
