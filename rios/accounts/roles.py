"""The one table of roles and scopes. What is not in it is denied; documentation and tests are made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rios.words.errors import InvalidRequest

ADMIN, DEVELOPER, WORKER, VIEWER = ROLES = ("admin", "developer", "worker", "viewer")
UNATTENDED = "unattended"
"""The scope of keys for automation. No key has it but the first one of who has no other way in, and those that were
asked for with it by name."""
_ALL = frozenset(ROLES)
_BUILDERS = frozenset((ADMIN, DEVELOPER))
_EARNERS = frozenset((ADMIN, DEVELOPER, WORKER))
_ADMINS = frozenset((ADMIN,))


@dataclass(frozen=True, slots=True)
class Right:
    """One row: what a scope allows, and which roles have it."""

    scope: str
    allows: str
    roles: frozenset[str]
    network: bool = False
    """Only in the organisation that runs the network."""
    recent: bool = False
    """Changes need a recent sign-in, or a key that has `UNATTENDED`."""


TABLE = (
    Right("models:read", "see the deployed models of the organisation", _ALL),
    Right("generate", "use models; the requests are paid by the user", _BUILDERS),
    Right("deployments:write", "deploy models and take them down", _BUILDERS),
    Right("usage:read", "see the user's own usage, costs and budgets", _ALL),
    Right("reports:write", "have reports made, now and on a schedule; they are paid by the user", _BUILDERS),
    Right("budgets:write", "set the user's own budgets", _BUILDERS),
    Right("wallet:read", "see the user's own balance", _ALL),
    Right("wallet:write", "deposit, withdraw, link an address, claim what the user's workers have earned", _EARNERS),
    Right("workers:read", "see the workers of the network", _ALL),
    Right("tokens:write", "make, list and revoke the user's own keys and sessions", _ALL),
    Right("clients:write", "register programs that ask users for access by OAuth 2.0", _BUILDERS),
    Right("users:read", "see the users of the organisation", _ADMINS),
    Right("users:write", "make users in the organisation, change their roles, close them", _ADMINS, recent=True),
    Right("audit:read", "read the audit log of the organisation", _ADMINS),
    Right("webhooks:write", "have URLs told what happens in the organisation", _ADMINS, recent=True),
    Right("organisations:write", "make organisations, each with its first admin", _ADMINS, network=True, recent=True),
    Right("credit:write", "give trial credit and discounts to any user", _ADMINS, network=True, recent=True),
    Right(
        "settlement:write", "settle, reconcile, pay owners, refund, prove everybody's use", _ADMINS,
        network=True, recent=True,
    ),
    Right(UNATTENDED, "do by a key, with nobody there, what else takes a recent sign-in", _ADMINS),
)  # fmt: skip
SCOPES = tuple(right.scope for right in TABLE)
RECENT = frozenset(right.scope for right in TABLE if right.recent)
OPENID_SCOPES = frozenset(("openid", "profile", "email"))
"""What a program may be told about who the user is (OpenID Connect); no role has them, a user gives them."""


def check_role(role: object) -> str:
    """`role` if the table has it, else InvalidRequest."""
    if role not in ROLES:
        raise InvalidRequest(f"the role {role!r} is none; it must be one of {', '.join(ROLES)}")
    return str(role)


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """`scopes` if the table has each of them, else InvalidRequest."""
    found = frozenset(scopes)
    if unknown := sorted(found - set(SCOPES)):
        raise InvalidRequest(f"there is no scope {', '.join(map(repr, unknown))}; there are {', '.join(SCOPES)}")
    return found


def scopes_of(role: str, *, operator: bool) -> frozenset[str]:
    """The scopes of a role; none for a role that the table does not know.

    operator: whether the organisation is the one that runs the network.
    """
    return frozenset(right.scope for right in TABLE if role in right.roles and (operator or not right.network))


def markdown() -> str:
    """The table for people, as Markdown."""
    head = f"| scope | allows | {' | '.join(ROLES)} | recent |\n|---|---|{'---|' * len(ROLES)}---|\n"
    rows = []
    for right in TABLE:
        mark = "network" if right.network else "yes"
        cells = " | ".join(mark if role in right.roles else "" for role in ROLES)
        rows.append(f"| `{right.scope}` | {right.allows} | {cells} | {'yes' if right.recent else ''} |\n")
    return head + "".join(rows)
