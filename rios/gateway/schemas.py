"""Bodies of requests and answers. What a schema does not name is refused, never ignored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rios.accounts.audit import AuditEntry
from rios.accounts.values import ApiKey, Session, User
from rios.billing.ledger.values import Balance, Budget, Usage
from rios.services.tenancy import Deployed
from rios.services.tokens import SignedIn
from rios.words.money import format_ros


class Strict(BaseModel):
    """Unknown fields and other types than named are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


# PostgreSQL takes no NUL in a text, and no name needs what cannot be seen.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
SEEN = r"^[^\x00-\x1f\x7f]*$"
Secret = Annotated[str, Field(min_length=1, max_length=2000)]
Dtype = Literal["float32", "bfloat16", "float16"]
Role = Literal["admin", "developer", "worker", "viewer"]


class SignIn(Strict, json_schema_extra={"examples": [{"login": "ada", "password": "four words nobody guesses"}]}):
    """Who signs in."""

    login: Name
    password: Secret


class Refresh(Strict, json_schema_extra={"examples": [{"refresh_token": "rios_refresh_Zk3…"}]}):
    """A refresh token, which is used up."""

    refresh_token: Secret


class NewPassword(
    Strict, json_schema_extra={"examples": [{"old": "four words nobody guesses", "new": "four other words, please"}]}
):
    """The user's own password, old and new."""

    old: Secret | None = Field(None, description="Left out where there is none yet.")
    new: Secret


class NewToken(
    Strict,
    json_schema_extra={
        "examples": [{"name": "notebook", "scopes": ["generate", "models:read"], "expires_in_s": 2592000}]
    },
):
    """An API key to be made."""

    name: Name = "token"
    scopes: list[str] | None = Field(None, description="All of the asking token without.")
    expires_in_s: int | None = Field(None, ge=1, le=10 * 366 * 86_400)


class NewUser(
    Strict,
    json_schema_extra={
        "examples": [{"login": "ada", "role": "developer", "name": "Ada Lovelace", "email": "ada@lab.example"}]
    },
):
    """A user to be made in the organisation."""

    login: Name
    role: Role
    name: str = Field("", max_length=200)
    password: Secret | None = None
    email: str | None = Field(None, min_length=3, max_length=254, description="An invitation is sent there.")


class NewClient(
    Strict,
    json_schema_extra={
        "examples": [
            {
                "name": "Dashboard",
                "scopes": ["generate", "models:read"],
                "grants": ["authorization_code", "refresh_token"],
                "redirect_uris": ["https://dashboard.example/back"],
            }
        ]
    },
):
    """A program to be registered."""

    name: Name
    scopes: list[str] = Field(max_length=50)
    grants: list[str] = Field(max_length=10)
    redirect_uris: list[str] = Field(default_factory=list, max_length=20)
    public: bool = Field(False, description="It can keep no secret: a program in a browser or on a user's machine.")


class ProfileChange(
    Strict, json_schema_extra={"examples": [{"affiliation": "Analytical Engines", "website": "https://ada.example"}]}
):
    """What a user says about itself; what is left out stays as it is."""

    name: str | None = Field(None, max_length=200, pattern=SEEN)
    email: str | None = Field(None, max_length=254, description='A link is sent there to confirm it; "" takes it away.')
    affiliation: str | None = Field(None, max_length=200, pattern=SEEN)
    about: str | None = Field(None, max_length=2000, pattern=SEEN)
    website: str | None = Field(None, max_length=500, pattern=SEEN)
    password: Secret | None = Field(None, description="The own one, which another e-mail address takes.")


class OrganisationChange(Strict, json_schema_extra={"examples": [{"name": "Analytical Engines"}]}):
    """What of an organisation can be changed."""

    name: Name


class Closing(Strict, json_schema_extra={"examples": [{"login": "ada", "password": "four words nobody guesses"}]}):
    """Closing the own account cannot be undone."""

    login: Name = Field(description="The own login, so that it does not happen by mistake.")
    password: Secret | None = Field(None, description="The own password, where there is one.")


class UserChange(Strict, json_schema_extra={"examples": [{"role": "viewer"}]}):
    """What of a user can be changed."""

    role: Role


class NewOrganisation(Strict, json_schema_extra={"examples": [{"name": "Analytical Engines", "admin": "ada"}]}):
    """An organisation to be made."""

    name: Name
    admin: Name = Field(description="The login of its first admin.")


class Credit(Strict, json_schema_extra={"examples": [{"amount": "5 ROS"}]}):
    """Trial credit to be given."""

    amount: str = Field(description='Such as "5 ROS".', max_length=100)


class NewQuota(Strict, json_schema_extra={"examples": [{"tokens": 1000000, "spend": "5 ROS"}]}):
    """What a user may ask for in a day."""

    tokens: int | None = Field(None, ge=0, lt=2**53, description="Prompt and answer together.")
    spend: str | None = Field(None, max_length=100, description='Such as "5 ROS".')


class NewDeployment(
    Strict, json_schema_extra={"examples": [{"name": "demo", "checkpoint": "demo", "dtype": "float32"}]}
):
    """A model to be deployed."""

    name: str = Field(max_length=96)
    checkpoint: str = Field("demo", max_length=500)
    replicas: int | None = Field(None, ge=1, le=64)
    dtype: Dtype | None = None
    partial: bool = Field(False, description="Hosts return one weighted sum per token: less traffic, other rounding.")
    wire_dtype: Dtype | None = Field(None, description="bfloat16 halves the traffic of a float32 model.")
    private: bool = Field(False, description="Hosts keep its shards on disk encrypted, or not at all.")


class NewBudget(Strict, json_schema_extra={"examples": [{"limit": "5 ROS", "hard": True}]}):
    """A budget to be set; without a limit it is taken away."""

    limit: str | None = Field(None, max_length=100)
    hard: bool = True
    alerts_bp: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default_factory=lambda: [5_000, 7_500, 9_000], max_length=20, description="Shares to be told of: 5000 is 50 %."
    )


def user_of(user: User) -> dict[str, Any]:
    """A user."""
    return asdict(user)


def key_of(key: ApiKey) -> dict[str, Any]:
    """A key as it may be shown."""
    return {**asdict(key), "scopes": sorted(key.scopes)}


def session_of(session: Session) -> dict[str, Any]:
    """A session."""
    return {**asdict(session), "scopes": sorted(session.scopes)}


def entry_of(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log."""
    names = ("seq", "at", "actor", "action", "object")
    shown = {name: getattr(entry, name) for name in names}
    return {**shown, "detail": dict(entry.detail), "hash": entry.hash.hex()}


def signed_in_of(found: SignedIn) -> dict[str, Any]:
    """Tokens, by their names in OAuth 2.0 (RFC 6749)."""
    return {
        "access_token": found.access_token,
        "token_type": "Bearer",
        "expires_in": found.expires_in_s,
        "refresh_token": found.refresh_token,
        "session_id": found.session_id,
    }


def deployed_of(one: Deployed) -> dict[str, Any]:
    """A deployment."""
    return {
        "id": one.id,
        "name": one.name,
        **one.specification.to_dict(),
        "state": one.state,
        "reason": one.reason,
        "error": one.error,
        "created_by": one.created_by,
        "created_at": one.created_at,
    }


def balance_of(balance: Balance) -> dict[str, Any]:
    """What a user has."""
    return {
        "user": balance.user_id,
        "deposited_wei": str(balance.deposited_wei),
        "trial_wei": str(balance.trial_wei),
        "held_wei": str(balance.held_wei),
        "withdrawing_wei": str(balance.withdrawing_wei),
        "overdrawn_wei": str(balance.overdrawn_wei),
        "available_wei": str(balance.available_wei),
        "available": format_ros(balance.available_wei),
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    """A usage record."""
    return {
        "usage_id": usage.usage_id,
        "request_id": usage.request_id,
        "at": usage.at,
        "user": usage.user_id,
        "model": usage.model,
        "worker": usage.worker,
        "resource": usage.resource,
        "quantity": str(usage.quantity),
        "unit": usage.unit,
        "price": str(usage.price),
        "amount_wei": str(usage.amount_wei),
        "discount": usage.discount,
        "discount_wei": str(usage.discount_wei),
        "refunded_wei": str(usage.refunded_wei),
        "epoch": usage.epoch,
    }


def budget_of(budget: Budget) -> dict[str, Any]:
    """A budget."""
    return {
        "user": budget.user_id,
        "period": str(budget.period),
        "limit_wei": str(budget.limit_wei),
        "spent_wei": str(budget.spent_wei),
        "held_wei": str(budget.held_wei),
        "alerts_bp": list(budget.alerts_bp),
        "hard": budget.hard,
    }
