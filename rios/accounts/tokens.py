"""Opaque tokens (API keys, refresh tokens), and what an access token must say to be taken.

A key is shown once; kept are its first characters, by which people know it, and its SHA-256. A hash without salt or
stretching is enough for 256 random bits: nobody can try them all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rios.words.errors import NotSignedIn

KEY, REFRESH = "rios_sk_", "rios_rt_"
_PREFIX_CHARACTERS = 6
AUDIENCE = "rios"
ACCESS_S = 3_600
REFRESH_S = 30 * 86_400


def new_secret(kind: str) -> str:
    """A new token of `kind` (KEY or REFRESH): 256 random bits."""
    return kind + secrets.token_urlsafe(32)


def prefix_of(secret: str) -> str:
    """The beginning of a token, which may be shown."""
    kind = next((kind for kind in (KEY, REFRESH) if secret.startswith(kind)), "")
    return secret[: len(kind) + _PREFIX_CHARACTERS]


def fingerprint(secret: str) -> bytes:
    """What is kept of a token: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What an access token says (RFC 7519). Times are in whole seconds since 1970."""

    issuer: str
    subject: str
    """The user's id."""
    session: str
    scopes: frozenset[str]
    issued_at_s: int
    expires_at_s: int
    id: str

    def to_dict(self) -> dict[str, Any]:
        """The claims by their registered names; scopes as one text (RFC 8693)."""
        return {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": self.subject,
            "sid": self.session,
            "scope": " ".join(sorted(self.scopes)),
            "iat": self.issued_at_s,
            "nbf": self.issued_at_s,
            "exp": self.expires_at_s,
            "jti": self.id,
        }

    @classmethod
    def checked(cls, claims: Mapping[str, Any], *, issuer: str, now_s: int) -> Claims:
        """The claims of a token whose signature is good, or NotSignedIn that says what is wrong with them."""
        texts = ("iss", "sub", "sid", "scope", "jti")
        times = ("iat", "nbf", "exp")
        if any(type(claims.get(name)) is not str for name in texts) or any(
            type(claims.get(name)) is not int for name in times
        ):
            raise NotSignedIn("the access token lacks a claim, or has one of another type; sign in again")
        if claims["iss"] != issuer:
            raise NotSignedIn("the access token is of another issuer; sign in at this gateway")
        if not _meant(claims.get("aud")):
            raise NotSignedIn(f"the access token is for another audience than {AUDIENCE!r}; sign in at this gateway")
        if now_s >= claims["exp"]:
            raise NotSignedIn("the access token has expired; refresh it or sign in again")
        if now_s < claims["nbf"]:
            raise NotSignedIn("the access token is not valid yet; is the clock right?")
        return cls(
            issuer=claims["iss"],
            subject=claims["sub"],
            session=claims["sid"],
            scopes=frozenset(claims["scope"].split()),
            issued_at_s=claims["iat"],
            expires_at_s=claims["exp"],
            id=claims["jti"],
        )


def _meant(audience: object) -> bool:
    if isinstance(audience, str):
        return audience == AUDIENCE
    return isinstance(audience, Iterable) and AUDIENCE in list(audience)
