"""How programs get tokens, on Authlib's grants: what those leave open is closed here.

Authlib issues a code without a challenge, takes `plain`, and lets programs with a secret go without PKCE: all three are
refused. It checks first and marks a code as used afterwards; here both is one transaction.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError, InvalidScopeError, grants
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant

from rios.accounts.tokens import new_secret
from rios.services.oauth_store import (
    CODE_SECRET,
    DEVICE_S,
    DEVICE_SECRET,
    POLL_S,
    Given,
    OAuthStore,
    new_user_code,
)
from rios.services.tokens import SECOND, SignedIn
from rios.words.errors import InvalidRequest, NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from rios.accounts.clients import Client

# At DEBUG it logs the tokens that it hands out.
logging.getLogger("authlib").setLevel(logging.INFO)

_ALL = ["client_secret_basic", "client_secret_post", "none"]
_SECRET = ["client_secret_basic", "client_secret_post"]
_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Pragma", "no-cache")]
Answer = tuple[int, Any, list[tuple[str, str]]]


def tokens_of(found: SignedIn, *, refresh: bool = True) -> dict[str, Any]:
    """The answer of the token endpoint (RFC 6749, section 5.1)."""
    said = {
        "access_token": found.access_token,
        "token_type": "Bearer",
        "expires_in": found.expires_in_s,
        "scope": " ".join(sorted(found.scopes)),
    }
    return {**said, "refresh_token": found.refresh_token} if refresh else said


class StrictChallenge(CodeChallenge):  # type: ignore[misc]
    """PKCE, from everybody, and S256 alone."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)
    DEFAULT_CODE_CHALLENGE_METHOD = "S256"

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Refuse a request for a code that could be used by whoever sees it."""
        data = grant.request.payload.data
        if not data.get("code_challenge") or data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: send code_challenge, and code_challenge_method=S256")
        super().validate_code_challenge(grant, redirect_uri)

    def get_authorization_code_challenge(self, authorization_code: Code) -> str:
        """The challenge of a code: each has one."""
        return str(authorization_code.row["challenge"])

    def get_authorization_code_challenge_method(self, authorization_code: Code) -> str:
        """How it is compared."""
        return "S256"


class Code:
    """A code that was given out."""

    def __init__(self, row: RowMapping) -> None:
        self.row = row

    def get_redirect_uri(self) -> str:
        """Where it was sent: whoever brings it has to know."""
        return str(self.row["redirect_uri"])

    def get_scope(self) -> str:
        """What it is good for."""
        return " ".join(json.loads(self.row["scopes"]))


class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """A code from the user's browser, for tokens."""

    TOKEN_ENDPOINT_AUTH_METHODS = _ALL

    def generate_authorization_code(self) -> str:
        """256 random bits."""
        return new_secret(CODE_SECRET)

    def save_authorization_code(self, code: str, request: Any) -> None:
        """Keep what the user agreed to."""
        browser = request.user
        given = Given(
            client_id=request.client.id,
            user_id=browser.who.user_id,
            redirect_uri=request.payload.redirect_uri or request.client.get_default_redirect_uri(),
            scopes=frozenset(request.scope.split()),
            nonce=request.payload.data.get("nonce"),
            challenge=request.payload.data["code_challenge"],
            signed_in_at=browser.signed_in_at,
        )
        store_of(self).give(code, given)

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        """What a code stands for."""
        row = store_of(self).code(code, client)
        return None if row is None else Code(row)

    def create_token_response(self) -> Answer:
        """The tokens, for a code that all was found right of."""
        row, client = self.request.authorization_code.row, self.request.client
        try:
            found = store_of(self).redeem(row, client)
        except NotSignedIn as error:
            raise InvalidGrantError("The user is closed.") from error
        if found is None:
            raise InvalidGrantError("The code was used before.")
        said = tokens_of(found, refresh=client.check_grant_type("refresh_token"))
        if "openid" in found.scopes:
            said["id_token"] = self.server.id_token(self.request.issuer, client, row)
        return 200, said, _HEADERS


class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    """New tokens for a refresh token, each good once (`Tokens.refresh`)."""

    TOKEN_ENDPOINT_AUTH_METHODS = _ALL

    def validate_token_request(self) -> None:
        """Who asks, and for what."""
        self.request.client = self._validate_request_client()
        if not self.request.form.get("refresh_token"):
            raise InvalidRequestError("Missing 'refresh_token' in request.")

    def create_token_response(self) -> Answer:
        """The tokens, with the scopes that the session has, or fewer of them."""
        wanted = frozenset((self.request.payload.scope or "").split())
        try:
            found = self.server.accounts.tokens.refresh(
                self.request.form["refresh_token"], client_id=self.request.client.id, scopes=wanted
            )
        except NotSignedIn as error:
            raise InvalidGrantError("The refresh token is unknown, expired, revoked or was used before.") from error
        except InvalidRequest as error:
            raise InvalidScopeError(
                "A refresh has the scopes that were given, or fewer; the token is still good."
            ) from error
        return 200, tokens_of(found), _HEADERS


class CredentialsGrant(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """A program for itself: it acts for who made it."""

    TOKEN_ENDPOINT_AUTH_METHODS = _SECRET

    def create_token_response(self) -> Answer:
        """The token; another can be had at any time, so none to refresh it."""
        client = self.request.client
        allowed = client.get_allowed_scope(self.request.payload.scope)
        if allowed is None:
            raise InvalidScopeError("The program was not registered with this scope.")
        try:
            found = store_of(self).by_credentials(client, frozenset(allowed.split()))
        except NotSignedIn as error:
            raise InvalidGrantError("The user that the program acts for is closed.") from error
        return 200, tokens_of(found, refresh=False), _HEADERS


class Waiting:
    """A program that waits for a user."""

    def __init__(self, row: RowMapping, expired: bool) -> None:
        self.row = row
        self._expired = expired

    def get_client_id(self) -> str:
        """Which program."""
        return str(self.row["client_id"])

    def get_user_code(self) -> str:
        """What the user types."""
        return str(self.row["user_code"])

    def is_expired(self) -> bool:
        """Whether it has waited too long."""
        return self._expired


class DeviceGrant(DeviceCodeGrant):  # type: ignore[misc]
    """Tokens for a program whose user has said yes in a browser."""

    def query_device_credential(self, device_code: str) -> Waiting | None:
        """What the program waits for."""
        store = store_of(self)
        self._row = row = store.device(device_code)
        return None if row is None else Waiting(row, row["expires_at"] <= store.now())

    def query_user_grant(self, user_code: str) -> tuple[str, bool] | None:
        """What the user said; None where nothing yet."""
        row = self._row
        return None if row is None or row["approved"] is None else (row["user_id"], bool(row["approved"]))

    def should_slow_down(self, credential: Waiting) -> bool:
        """Whether it asks too often."""
        return store_of(self).polled(credential.row)

    def create_token_response(self) -> Answer:
        """The tokens, once."""
        try:
            found = store_of(self).redeem_device(self.request.credential.row, self.request.client)
        except NotSignedIn as error:
            raise InvalidGrantError("The user is closed.") from error
        if found is None:
            raise InvalidGrantError("The device code was used before.")
        return 200, tokens_of(found), _HEADERS


class DeviceEndpoint(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    """Where a program begins to wait (RFC 8628)."""

    EXPIRES_IN, INTERVAL = DEVICE_S, POLL_S

    def create_endpoint_response(self, request: Any) -> Answer:
        """The codes, and where the user goes."""
        client = self.authenticate_client(request)
        if not client.check_grant_type(DeviceGrant.GRANT_TYPE):
            raise OAuth2Error(error="unauthorized_client", description="The program may not use the device flow.")
        allowed = client.get_allowed_scope(request.payload.scope)
        if allowed is None:
            raise InvalidScopeError("The program was not registered with this scope.")
        device_code, user_code = new_secret(DEVICE_SECRET), new_user_code()
        store_of(self).begin_device(device_code, user_code, client.id, frozenset(allowed.split()))
        place = f"{request.issuer}/oauth/device"
        said = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": place,
            "verification_uri_complete": f"{place}?user_code={user_code}",
            "expires_in": self.EXPIRES_IN,
            "interval": self.INTERVAL,
        }
        return 200, said, _HEADERS


class Known:
    """A session by one of its tokens."""

    def __init__(self, row: RowMapping, claims: dict[str, Any], now: int) -> None:
        self.row = row
        self.claims = claims
        self._now = now

    def check_client(self, client: Client) -> bool:
        """Whether it is this program's."""
        return bool(self.row["client_id"] == client.id)

    def is_expired(self) -> bool:
        """Whether it is over."""
        return bool(self.row["expires_at"] <= self._now)

    def is_revoked(self) -> bool:
        """Whether somebody ended it."""
        return self.row["revoked_at"] is not None


def _known(store: OAuthStore, token: str) -> Known | None:
    row, claims = store.session_of(token)
    return None if row is None else Known(row, claims, store.now())


class Revoke(RevocationEndpoint):  # type: ignore[misc]
    """A program gives a token back (RFC 7009): the whole session ends."""

    CLIENT_AUTH_METHODS = _ALL

    def query_token(self, token_string: str, token_type_hint: str | None) -> Known | None:
        """The session of a token."""
        return _known(store_of(self), token_string)

    def revoke_token(self, token: Known, request: Any) -> None:
        """End it."""
        store_of(self).end(token.row)


class Introspect(IntrospectionEndpoint):  # type: ignore[misc]
    """A program with a secret asks what a token is good for (RFC 7662): its own, or of its organisation's users."""

    CLIENT_AUTH_METHODS = _SECRET

    def query_token(self, token_string: str, token_type_hint: str | None) -> Known | None:
        """The session of a token."""
        return _known(store_of(self), token_string)

    def check_permission(self, token: Known, client: Client, request: Any) -> bool:
        """Whether this program may know."""
        if token.check_client(client):
            return True
        user = self.server.accounts.store.user(token.row["user_id"])
        return user is not None and user.organisation_id == client.organisation_id

    def introspect_token(self, token: Known) -> dict[str, Any]:
        """What is said of a token that is good; of a user who is closed there is none."""
        user = self.server.accounts.store.user(token.row["user_id"])
        if user is None or user.closed_at is not None:
            return {"active": False}
        said = {"sub": user.id, "username": user.login, "client_id": token.row["client_id"] or ""}
        if token.claims:
            return {**token.claims, **said, "token_type": "Bearer"}
        scopes = " ".join(json.loads(token.row["scopes"]))
        return {**said, "scope": scopes, "exp": token.row["expires_at"] // SECOND}


def store_of(one: Any) -> OAuthStore:
    """Where the server of a grant or an endpoint keeps things."""
    found: OAuthStore = one.server.store
    return found
