"""Who makes a request, whether it may, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from rios.accounts.roles import RECENT
from rios.accounts.values import Principal
from rios.words.errors import NotSignedIn

if TYPE_CHECKING:
    from rios.gateway.limits import Limiter
    from rios.gateway.settings import GatewaySettings
    from rios.services.gate import Gate

SIGNED_IN = ""
"""The scope of routes that every signed-in user may call."""
_LOOKS = ("GET", "HEAD")


def gate_of(request: HTTPConnection) -> Gate:
    """What the gateway stands before."""
    found: Gate = request.app.state.gate
    return found


def buckets_of(who: Principal) -> list[str]:
    """The buckets of a signed-in user, besides that of the address."""
    return [f"key:{who.by}", f"user:{who.user_id}"]


async def principal_of(request: Request) -> Principal:
    """Who makes a request. Raises NotSignedIn."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise NotSignedIn("there is no token: send `Authorization: Bearer TOKEN`")
    principal: Principal | None = request.state.known
    if principal is None:
        principal = await run_in_threadpool(gate_of(request).accounts.tokens.authenticate, token.strip())
    return principal


def check_recent(request: HTTPConnection, who: Principal) -> None:
    """Raise SignInAgain where `who` signed in too long ago for what only an admin may do."""
    require_recent(gate_of(request), request.app.state.settings, who)


def require_recent(gate: Gate, settings: GatewaySettings, who: Principal) -> None:
    """As `check_recent`, where no request is asked any more."""
    who.require_recent(gate.accounts.now(), within_us=int(settings.recent_s * 1_000_000))


class _Needs(HTTPBearer):
    """A dependency that is a scheme of security itself: one step of FastAPI's for each request instead of two."""

    def __init__(self, scope: str, or_else: str | None) -> None:
        super().__init__(
            scheme_name="HTTPBearer", description="An API key or an access token.", auto_error=False
        )  # fmt: skip
        self.scope = scope
        self._or_else = or_else

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]
        """Who makes the request. Raises NotSignedIn, TooManyRequests, NotAllowed, SignInAgain."""
        principal = await principal_of(request)
        limits: Limiter = request.app.state.limits
        wanted = [name for name in buckets_of(principal) if name not in request.state.limited]
        if wanted:
            request.state.room = await limits.room(wanted)
        if self.scope != SIGNED_IN and self._or_else not in principal.scopes:
            principal.require(self.scope)
        if self.scope in RECENT and request.method not in _LOOKS:
            check_recent(request, principal)
        return principal


def needs(scope: str, *, or_else: str | None = None) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency: whoever makes the request, if the token has `scope` and there is room. The scope is on it.

    or_else: a scope that will do as well.
    """
    return _Needs(scope, or_else)
