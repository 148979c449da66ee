"""Signing in through an outside OpenID provider, by its URL: code with PKCE, state, nonce, and a checked ID token.

The provider's URL is the operator's setting, never a user's: nobody makes the gateway ask elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from rios.accounts.roles import ADMIN, check_role
from rios.accounts.signing import Registry
from rios.accounts.store import add, first, record
from rios.accounts.tokens import fingerprint
from rios.services.tickets import OUTSIDE, new_ticket, use_ticket
from rios.storage.models import OrganisationRow, PersonRow
from rios.storage.sign_in_models import IdentityRow
from rios.words.errors import GatewayLost, InvalidRequest, NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.accounts import Accounts
    from rios.services.oauth import Browser

_REGISTRY = Registry("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
_ANSWER_S, _FRESH_S, _STATE_S, _SKEW_S = 10.0, 600.0, 600, 60
_ANSWER_BYTES_MAX = 1 << 20
_SECOND = 1_000_000
_REFUSED = "the sign-in at the other provider did not succeed; begin again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An OpenID provider, and how this gateway is known there."""

    url: str
    """Its issuer."""
    client_id: str
    client_secret: str = field(repr=False)
    name: str = "another provider"
    role: str = ""
    """What whoever comes from there for the first time becomes, in the network's organisation; "" lets in only those
    who were linked before."""
    ca: str = ""
    """File with the certificate of who certified it; those that this machine trusts without."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise InvalidRequest(f"the OpenID provider {self.url!r} must be at https://")
        if self.role and check_role(self.role) == ADMIN:
            raise InvalidRequest("nobody becomes an admin by coming from elsewhere; choose another role")


class OpenId:
    """Sign-ins through one provider. Safe for threads."""

    def __init__(self, accounts: Accounts, provider: Provider) -> None:
        self._accounts = accounts
        self.provider = provider
        verify: Any = provider.ca or True
        self._http = httpx2.Client(timeout=_ANSWER_S, follow_redirects=False, verify=verify)
        self._lock = threading.Lock()
        self._said: tuple[dict[str, Any], float] | None = None
        self._keys: tuple[KeySet, float] | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def begin(self, *, back: str, visitor: str, next_: str, browser: Browser | None) -> str:
        """Where to send the browser. Raises GatewayLost where the provider does not answer.

        back: this gateway's own URL for the answer; visitor: the cookie of the browser, which has to come with it.
        """
        verifier, nonce, now = secrets.token_urlsafe(48), secrets.token_urlsafe(24), self._accounts.now()
        kept = {
            "verifier": verifier, "nonce": nonce, "next": next_, "back": back, "visitor": fingerprint(visitor).hex(),
            "session": None if browser is None else browser.session_id,
        }  # fmt: skip
        user_id = None if browser is None else browser.who.user_id
        place = self._discovered()["authorization_endpoint"]
        state = self._accounts.store.transact(
            lambda connection: new_ticket(connection, OUTSIDE, user_id, kept, now, lasts_s=_STATE_S)
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "client_id": self.provider.client_id, "redirect_uri": back,
            "scope": "openid profile email", "state": state, "nonce": nonce, "code_challenge": challenge,
            "code_challenge_method": "S256",
        }  # fmt: skip
        return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}"

    def end(self, parameters: dict[str, str], *, visitor: str, browser: Browser | None) -> tuple[str, str]:
        """The user whom the provider's answer is about, and where the browser wanted to go.

        A browser that was signed in when it began is linked. Raises NotSignedIn, GatewayLost.
        """
        now = self._accounts.now()
        used = self._accounts.store.transact(
            lambda connection: use_ticket(connection, parameters.get("state", ""), OUTSIDE, now)
        )
        if used is None or not hmac.compare_digest(used[1]["visitor"], fingerprint(visitor).hex()):
            raise NotSignedIn(_REFUSED)
        user_id, kept = used
        if user_id is not None and (browser is None or browser.session_id != kept["session"]):
            raise NotSignedIn(_REFUSED)
        said = self._discovered()
        if parameters.get("iss", said["issuer"]) != said["issuer"] or not parameters.get("code"):
            raise NotSignedIn(_REFUSED)
        claims = self._claims(self._redeem(parameters["code"], kept), nonce=kept["nonce"])
        return self._user_of(claims, linked_to=user_id), kept["next"]

    # --- the provider ----------------------------------------------------------------------------------------

    def _discovered(self) -> dict[str, Any]:
        with self._lock:
            if self._said is not None and self._said[1] > time.monotonic():
                return self._said[0]
        said = self._ask("GET", f"{self.provider.url.rstrip('/')}/.well-known/openid-configuration")
        needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
        if any(not isinstance(said.get(name), str) for name in needed) or said["issuer"] != self.provider.url:
            raise GatewayLost(f"{self.provider.url} is not the issuer that its discovery document names")
        with self._lock:
            self._said = said, time.monotonic() + _FRESH_S
        return said

    def _redeem(self, code: str, kept: dict[str, Any]) -> str:
        said, form = self._discovered(), {
            "grant_type": "authorization_code", "code": code, "redirect_uri": kept["back"],
            "code_verifier": kept["verifier"],
        }  # fmt: skip
        credentials = {"client_id": self.provider.client_id, "client_secret": self.provider.client_secret}
        headers: dict[str, str] = {}
        if "client_secret_basic" in said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
            pair = ":".join(quote(part, safe="") for part in credentials.values())
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= credentials
        found = self._ask("POST", said["token_endpoint"], data=form, headers=headers).get("id_token")
        if not isinstance(found, str):
            raise NotSignedIn(_REFUSED)
        return found

    def _claims(self, token: str, *, nonce: str) -> dict[str, Any]:
        """What an ID token says, all of it checked (OpenID Connect Core, section 3.1.3.7)."""
        claims = self._verified(token)
        now_s, audience = self._accounts.now() // _SECOND, claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else list(audience or ())
        good = (
            claims.get("iss") == self.provider.url
            and self.provider.client_id in audiences
            and claims.get("azp", self.provider.client_id) == self.provider.client_id
            and type(claims.get("exp")) is int
            and now_s < claims["exp"] + _SKEW_S
            and type(claims.get("iat")) is int
            and claims["iat"] - _SKEW_S <= now_s
            and hmac.compare_digest(str(claims.get("nonce", "")), nonce)
            and isinstance(claims.get("sub"), str)
            and 0 < len(claims["sub"]) <= 255
        )
        if not good:
            raise NotSignedIn(_REFUSED)
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            return self._decoded(token, fresh=False)
        except (JoseError, ValueError):  # a key that is not known may be a new one
            try:
                return self._decoded(token, fresh=True)
            except (JoseError, ValueError) as error:
                raise NotSignedIn(_REFUSED) from error

    def _decoded(self, token: str, *, fresh: bool) -> dict[str, Any]:
        return dict(jwt.decode(token, self._key_set(fresh=fresh), registry=_REGISTRY).claims)

    def _key_set(self, *, fresh: bool) -> KeySet:
        with self._lock:
            if not fresh and self._keys is not None and self._keys[1] > time.monotonic():
                return self._keys[0]
        try:
            found = KeySet.import_key_set(self._ask("GET", self._discovered()["jwks_uri"]))  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise GatewayLost(f"{self.provider.url} has no keys that can be used") from error
        with self._lock:
            self._keys = found, time.monotonic() + _FRESH_S
        return found

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, url, **more)
            found = response.json() if response.is_success and len(response.content) <= _ANSWER_BYTES_MAX else None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            why = type(error).__name__
            raise GatewayLost(f"the OpenID provider {self.provider.url} does not answer: {why}") from None
        if not isinstance(found, dict):
            if response.status_code in (400, 401):
                raise NotSignedIn(_REFUSED)
            raise GatewayLost(f"the OpenID provider {self.provider.url} answers {response.status_code}")
        return found

    # --- its users -------------------------------------------------------------------------------------------

    def _user_of(self, claims: dict[str, Any], *, linked_to: str | None) -> str:
        now, issuer, subject = self._accounts.now(), self.provider.url, claims["sub"]

        def run(connection: Connection) -> str:
            known = first(connection, IdentityRow, IdentityRow.issuer == issuer, IdentityRow.subject == subject)
            if known is not None:
                if linked_to not in (None, known["user_id"]):
                    raise NotSignedIn("that account at the other provider belongs to another user here")
                return str(known["user_id"])
            # Never by the e-mail address alone: who controls an address elsewhere would get the account here.
            user_id = linked_to or self._new_user(connection, claims, now)
            add(connection, IdentityRow, issuer=issuer, subject=subject, user_id=user_id, created_at=now)
            person = first(connection, PersonRow, PersonRow.id == user_id)
            assert person is not None
            record(
                connection, at=now, organisation_id=person["organisation_id"], actor=user_id, action="identity.link",
                object=user_id, detail={"issuer": issuer},
            )  # fmt: skip
            return user_id

        return self._accounts.store.transact(run)

    def _new_user(self, connection: Connection, claims: dict[str, Any], now: int) -> str:
        if not self.provider.role:
            raise NotSignedIn(
                "nobody here is linked to that account: sign in with your password first and link it, or ask an admin"
            )
        organisation = first(connection, OrganisationRow, OrganisationRow.operator.is_(True))
        assert organisation is not None
        wanted = re.sub(r"[^a-z0-9._@+-]", "", str(claims.get("preferred_username") or "user").lower())[:100]
        wanted = wanted if re.match(r"[a-z0-9]", wanted) else f"user{wanted}"
        taken = first(connection, PersonRow, PersonRow.login == wanted) is not None
        login = f"{wanted}-{secrets.token_hex(3)}" if taken else wanted
        name = re.sub(r"[^ -~\u00a0-\uffff]", "", str(claims.get("name") or ""))[:200]
        return self._accounts.add_from_outside(connection, organisation["id"], login, name, self.provider.role, now)
