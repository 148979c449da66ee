"""Programs that ask users for access by OAuth 2.0, as Authlib wants to see them; what they may be made with."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import ClientMixin

from rios.accounts.roles import OPENID_SCOPES, SCOPES
from rios.accounts.tokens import fingerprint
from rios.words.errors import InvalidRequest

CODE, REFRESH, CREDENTIALS = "authorization_code", "refresh_token", "client_credentials"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
GRANTS = (CODE, REFRESH, CREDENTIALS, DEVICE)
CLIENT_SCOPES = frozenset(SCOPES) | OPENID_SCOPES
_URIS_MAX, _URI_MAX = 20, 500
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(ClientMixin):  # type: ignore[misc]  # Authlib has no types
    """A program. Public ones have no secret: they prove by PKCE alone that a code is theirs."""

    id: str
    organisation_id: str
    user_id: str
    name: str
    fingerprint: bytes | None
    redirect_uris: tuple[str, ...]
    scopes: frozenset[str]
    grants: frozenset[str]
    created_at: int
    closed_at: int | None

    @classmethod
    def of(cls, row: Any) -> Client:
        """The client that a row keeps."""
        kept = {**row, "redirect_uris": tuple(json.loads(row["redirect_uris"]))}
        return cls(**kept | {name: frozenset(json.loads(row[name])) for name in ("scopes", "grants")})

    @property
    def public(self) -> bool:
        """Whether it has no secret."""
        return self.fingerprint is None

    def get_client_id(self) -> str:
        """Its id."""
        return self.id

    def get_default_redirect_uri(self) -> str | None:
        """Where a request that names no URI is sent back to: there is one only where there is no other."""
        return self.redirect_uris[0] if len(self.redirect_uris) == 1 else None

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """What a request for `scope` is about; None where it asks for what the client may not."""
        wanted = frozenset((scope or "").split()) or self.scopes
        return " ".join(sorted(wanted)) if wanted <= self.scopes else None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether it is one of the URIs that were registered, to the letter."""
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        """Whether it is the secret."""
        return self.fingerprint is not None and hmac.compare_digest(self.fingerprint, fingerprint(client_secret))

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """With a secret it has to be shown, everywhere; without one there is none to be shown."""
        return (method == "none") == self.public

    def check_response_type(self, response_type: str) -> bool:
        """Whether it may ask users in their browser: for a code, and nothing else."""
        return response_type == "code" and CODE in self.grants

    def check_grant_type(self, grant_type: str) -> bool:
        """Whether it may get tokens in that way."""
        return grant_type in self.grants


CLI = Client(
    id="rios-cli",
    organisation_id="",
    user_id="",
    name="the command line of rios",
    fingerprint=None,
    redirect_uris=(),
    scopes=frozenset(SCOPES),
    grants=frozenset((DEVICE, REFRESH)),
    created_at=0,
    closed_at=None,
)
"""`rios login`: it is there in every network."""


def check_redirect_uris(uris: Iterable[str]) -> tuple[str, ...]:
    """`uris` if users may be sent back to each of them, else InvalidRequest."""
    found = tuple(uris)
    if len(found) > _URIS_MAX:
        raise InvalidRequest(f"there are {len(found)} redirect URIs; a program has at most {_URIS_MAX}")
    for uri in found:
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidRequest(f"the redirect URI {uri!r} is none: {error}") from error
        plain = uri.isascii() and uri.isprintable() and not set(uri) & set(' "<>\\^`{|}#*') and len(uri) <= _URI_MAX
        safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
        if not plain or not safe or not host or "@" in parts.netloc:
            raise InvalidRequest(
                f"the redirect URI {uri!r} will not do: https://, or http:// to this machine, without a fragment, a "
                f"name of a user or a wildcard, of at most {_URI_MAX} characters"
            )
    return found


def check_grants(grants: Iterable[str], *, public: bool, uris: bool) -> frozenset[str]:
    """`grants` if such a client may have them, else InvalidRequest."""
    found = frozenset(grants)
    if unknown := sorted(found - set(GRANTS)):
        raise InvalidRequest(f"there is no grant {', '.join(unknown)}; there are {', '.join(GRANTS)}")
    if public and CREDENTIALS in found:
        raise InvalidRequest(f"a public program has no secret, and so cannot use {CREDENTIALS}; make it confidential")
    if (CODE in found) != uris:
        raise InvalidRequest(f"{CODE} needs a redirect URI, and nothing else uses one")
    if not found - {REFRESH}:
        raise InvalidRequest(f"a program needs a way to get tokens: one of {', '.join(GRANTS)} besides {REFRESH}")
    return found


def check_client_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """`scopes` if there are such, else InvalidRequest."""
    found = frozenset(scopes)
    if unknown := sorted(found - CLIENT_SCOPES):
        raise InvalidRequest(f"there is no scope {', '.join(map(repr, unknown))}")
    if not found:
        raise InvalidRequest("a program needs at least one scope")
    return found
