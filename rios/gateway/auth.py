"""Who makes a request, whether it may, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.words.errors import NotSignedIn

if TYPE_CHECKING:
    from rios.gateway.limits import Limiter
    from rios.services.gate import Gate

_bearer = HTTPBearer(auto_error=False, description="An API key or an access token.")
SIGNED_IN = ""
"""The scope of routes that every signed-in user may call."""


def gate_of(request: Request) -> Gate:
    """What the gateway stands before."""
    found: Gate = request.app.state.gate
    return found


def buckets_of(who: Principal) -> list[str]:
    """The buckets of a signed-in user, besides that of the address."""
    return [f"key:{who.by}", f"user:{who.user_id}"]


def needs(scope: str, *, or_else: str | None = None) -> Callable[..., Awaitable[Principal]]:
    """A dependency: whoever makes the request, if the token has `scope` and there is room. The scope is on it.

    or_else: a scope that will do as well.
    """

    async def who(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Principal:
        if credentials is None:
            raise NotSignedIn("there is no token: send `Authorization: Bearer TOKEN`")
        tokens = gate_of(request).accounts.tokens
        principal = tokens.known(credentials.credentials)
        if principal is None:
            principal = await run_in_threadpool(tokens.authenticate, credentials.credentials)
        limits: Limiter = request.app.state.limits
        wanted = [name for name in buckets_of(principal) if name not in request.state.limited]
        if wanted:
            request.state.room = await limits.room(wanted)
        if scope != SIGNED_IN and or_else not in principal.scopes:
            principal.require(scope)
        return principal

    who.scope = scope  # type: ignore[attr-defined]
    return who
