"""What accounts are made of. Moments are microseconds of UTC since 1970."""

from __future__ import annotations

from dataclasses import dataclass

from rios.accounts.roles import UNATTENDED
from rios.words.errors import NotAllowed, SignInAgain


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """Whom users and their objects belong to."""

    id: str
    name: str
    operator: bool
    """Whether it runs the network: its admins have the rights that concern all of it."""
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or a program. `id` is also the name of the user's accounts in the ledger, and never changes."""

    id: str
    organisation_id: str
    login: str
    name: str
    role: str
    created_at: int
    closed_at: int | None
    has_password: bool
    email: str | None = None
    email_confirmed_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it may be shown."""

    id: str
    user_id: str
    name: str
    prefix: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None
    signed_in_at: int | None = None
    """When the user had signed in who made it, where that was by a session; None of a key for automation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A sign-in, and all tokens that came from it."""

    id: str
    user_id: str
    client: str
    """What signed in, as it called itself."""
    scopes: frozenset[str]
    created_at: int
    used_at: int
    expires_at: int
    revoked_at: int | None
    client_id: str | None = None
    """The program that it was given to by OAuth 2.0."""
    signed_in_at: int | None = None
    """When the user last showed who it is; None of a program by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who makes a request, and what this request may do: the role's scopes that the token has too."""

    user_id: str
    login: str
    organisation_id: str
    role: str
    operator: bool
    scopes: frozenset[str]
    by: str
    """The id of the key or session."""
    signed_in_at: int | None = None
    """When the user showed who it is; None where nobody did, as with a key for automation."""

    def require(self, scope: str) -> None:
        """Raise NotAllowed unless `scope` is among the scopes."""
        if scope not in self.scopes:
            raise NotAllowed(
                f"this needs the scope {scope!r}, which the role {self.role!r} or this token lacks; ask an admin of "
                "the organisation, or make a token that has it"
            )

    def require_recent(self, now: int, *, within_us: int) -> None:
        """Raise SignInAgain unless the user showed who it is within that time, or this is a key for automation."""
        if self.signed_in_at is None and UNATTENDED in self.scopes:
            return
        if self.signed_in_at is None or now - self.signed_in_at > within_us:
            minutes = within_us / 60_000_000
            raise SignInAgain(
                f"this takes a sign-in of the last {minutes:g} minutes: sign in again, in a browser at /login or with "
                f"`rios login URL`; programs do it by a key that was made with the scope {UNATTENDED!r}"
            )
