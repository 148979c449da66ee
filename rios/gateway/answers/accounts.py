"""Answers about users, keys, sessions, organisations, the audit log and programs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, Hash, Login, Moment, OrganisationId, Page, Rows, Scopes, UserId, Wei

RoleName = Literal["admin", "developer", "worker", "viewer"]
Email = Annotated[str, Field(examples=["ada@lab.example"])]
Key = Annotated[str, Field(description="Shown in this answer alone.", examples=["rios_key_4sJ8…"])]
KeyId = Annotated[str, Field(examples=["key-90b1c7d25e3f4a68"])]
SessionId = Annotated[str, Field(examples=["session-2b7e151628aed2a6"])]


class RightRow(Answer):
    """A scope."""

    scope: str = Field(examples=["users:write"])
    allows: str = Field(examples=["make users in the organisation, change their roles, close them"])
    roles: list[RoleName] = Field(description="Which roles have it.")
    network: bool = Field(description="Only in the organisation that runs the network.")
    recent: bool = Field(description="Changes take a recent sign-in.")


class Rights(Rows[RightRow]):
    """The table of roles and scopes."""


class SignedIn(Answer):
    """Tokens, by their names in OAuth 2.0 (RFC 6749)."""

    access_token: str = Field(examples=["eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoi…"])
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds.", examples=[3600])
    refresh_token: str = Field(description="Good once.", examples=["rios_refresh_Zk3…"])
    session_id: SessionId


class SessionRow(Answer):
    """A sign-in, and all tokens that came from it."""

    id: SessionId
    user_id: UserId
    client: str = Field(description="What signed in, as it called itself.", examples=["rios"])
    scopes: Scopes
    created_at: Moment
    used_at: Moment
    expires_at: Moment
    revoked_at: Moment | None
    client_id: str | None = Field(description="The program that it was given to by OAuth 2.0.", examples=[None])
    signed_in_at: Moment | None = Field(description="When the user last showed who it is; null of a program by itself.")


class Sessions(Page[SessionRow]):
    """The user's own living sessions."""


class ApiKeyRow(Answer):
    """A key as it may be shown."""

    id: KeyId
    user_id: UserId
    name: str = Field(examples=["notebook"])
    prefix: str = Field(description="How the key itself begins.", examples=["rios_key_4sJ8"])
    scopes: Scopes
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    revoked_at: Moment | None = Field(examples=[None])
    signed_in_at: Moment | None = Field(
        description="When who made it had signed in; null of a key for automation.", examples=[None]
    )


class ApiKeys(Page[ApiKeyRow]):
    """The user's own keys."""


class NewApiKey(ApiKeyRow):
    """A key that was made."""

    token: Key


class UserRow(Answer):
    """A person or a program."""

    id: UserId
    organisation_id: OrganisationId
    login: Login
    name: str = Field(examples=["Ada Lovelace"])
    role: RoleName
    created_at: Moment
    closed_at: Moment | None = Field(examples=[None])
    has_password: bool
    email: Email | None
    email_confirmed_at: Moment | None


class Users(Page[UserRow]):
    """The users of the organisation."""


class UserMade(UserRow):
    """A user that was made."""

    token: Key


class Me(UserRow):
    """Who a token stands for, and what it may."""

    operator: bool = Field(description="Whether the organisation runs the network.")
    scopes: Scopes


class Quota(Answer):
    """What a user may ask for in a day of UTC; null for no bound."""

    tokens: int | None = Field(examples=[1_000_000])
    spend_wei: Wei | None
    used_tokens: int = Field(examples=[4096])


class OrganisationMade(Answer):
    """An organisation that was made, with its first admin's key."""

    id: OrganisationId
    name: str = Field(examples=["Analytical Engines"])
    admin: UserRow
    token: Key


class OrganisationRow(Answer):
    """An organisation."""

    id: OrganisationId
    name: str = Field(examples=["Analytical Engines"])
    operator: bool = Field(description="Whether it runs the network.")
    created_at: Moment
    members: int


class AuditRow(Answer):
    """Who did what to which object."""

    seq: int
    at: Moment
    actor: UserId
    action: str = Field(examples=["key.create"])
    object: str = Field(examples=["key-90b1c7d25e3f4a68"])
    detail: dict[str, Any] = Field(examples=[{"name": "notebook"}])
    hash: Hash


class AuditRows(Page[AuditRow]):
    """The audit log of the organisation."""


class AuditVerified(Answer):
    """Whether the log is as it was written."""

    broken_at: int | None = Field(description="The first entry that is missing or was changed.", examples=[None])
    entries: int = Field(examples=[120])
    head: str = Field(
        description="The hash of the last entry; empty without one. Kept elsewhere, it shows that none was cut off.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class Profile(Answer):
    """What a user says about itself."""

    name: str = Field(examples=["Ada Lovelace"])
    email: Email | None
    email_confirmed_at: Moment | None
    affiliation: str = Field(examples=["Analytical Engines"])
    about: str = Field(examples=["Notes upon the memoir"])
    website: str = Field(examples=["https://ada.example"])


class ProfileText(Answer):
    """What a user says about itself besides name and address."""

    affiliation: str = Field(examples=["Analytical Engines"])
    about: str = Field(examples=["Notes upon the memoir"])
    website: str = Field(examples=["https://ada.example"])


class Identity(Answer):
    """How another provider knows the user."""

    issuer: str = Field(examples=["https://login.university.example"])
    subject: str = Field(examples=["248289761001"])


class Act(Answer):
    """What the user did, or what was done to it."""

    at: Moment
    action: str = Field(examples=["key.create"])
    object: str = Field(examples=["key-90b1c7d25e3f4a68"])


class Spent(Answer):
    """What the user spent at one moment."""

    at: Moment
    request_id: str = Field(examples=["req-7d1f0c2b9a4e5f60"])
    model: str = Field(examples=["demo"])
    amount_wei: Wei


class ClosedProgram(Answer):
    """A program that the user registered."""

    id: str = Field(examples=["client-77c2"])
    name: str = Field(examples=["Dashboard"])
    created_at: Moment
    closed_at: Moment | None
    redirect_uris: list[str] = Field(examples=[["https://dashboard.example/back"]])
    scopes: Scopes
    grants: list[str] = Field(examples=[["authorization_code"]])


class Everything(Answer):
    """All that is kept of a user; no secret."""

    user: UserRow
    profile: ProfileText
    tokens: list[ApiKeyRow]
    sessions: list[SessionRow]
    identities: list[Identity]
    programs: list[ClosedProgram]
    schedules: list[dict[str, Any]] = Field(description="Of reports.")
    acts: list[Act]
    usage: list[Spent]
    available_wei: Wei


class Program(Answer):
    """A program that asks users for access."""

    id: str = Field(examples=["client-77c2"])
    name: str = Field(examples=["Dashboard"])
    public: bool = Field(description="It can keep no secret.")
    redirect_uris: list[str] = Field(examples=[["https://dashboard.example/back"]])
    scopes: Scopes
    grants: list[str] = Field(examples=[["authorization_code", "refresh_token"]])
    user_id: UserId
    created_at: Moment


class Programs(Page[Program]):
    """The programs of the organisation."""


class ProgramMade(Program):
    """A program that was registered."""

    client_secret: str | None = Field(
        description="Shown in this answer alone; null of a public one.", examples=["rios_client_9vT…"]
    )
