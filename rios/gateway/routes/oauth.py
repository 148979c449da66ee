"""OAuth 2.0 and OpenID Connect, for programs; what users see of it is in `sign_in`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic

from rios.accounts.clients import CREDENTIALS, Client
from rios.accounts.roles import UNATTENDED
from rios.accounts.values import Principal
from rios.gateway import schemas as s
from rios.gateway.answers import accounts as accounts_answers
from rios.gateway.answers import oauth as oauth_answers
from rios.gateway.answers.oauth import form
from rios.gateway.answers.words import Answer, says
from rios.gateway.auth import SIGNED_IN, check_recent, needs
from rios.gateway.forms import Form, base_url
from rios.gateway.paging import After, Limit, page_of
from rios.services.oauth import OAuth
from rios.services.oauth_grants import Answer as Told

router = APIRouter(tags=["oauth"])
SignedIn = Annotated[Principal, Depends(needs(SIGNED_IN))]
Maker = Annotated[Principal, Depends(needs("clients:write"))]
_client = HTTPBasic(scheme_name="Client", auto_error=False, description="A program's id and secret; or in the form.")
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error of OAuth 2.0 (RFC 6749), or a problem.",
        "model": oauth_answers.OAuthError,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def _for_clients(
    path: str, summary: str, answer: type[Answer], *fields: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return router.post(
        path,
        summary=summary,
        openapi_extra=form(*fields),
        dependencies=[Depends(_client)],
        responses={**says(answer), **_ERRORS},
    )


def oauth_of(request: Request) -> OAuth:
    """The server of the network."""
    found: OAuth = request.app.state.oauth
    return found


def client_of(client: Client) -> dict[str, Any]:
    """A program as it may be shown."""
    return {
        "id": client.id,
        "name": client.name,
        "public": client.public,
        "redirect_uris": list(client.redirect_uris),
        "scopes": sorted(client.scopes),
        "grants": sorted(client.grants),
        "user_id": client.user_id,
        "created_at": client.created_at,
    }


def _said(answer: Told) -> Response:
    status, body, headers = answer
    kept = {name: value for name, value in headers if name.lower() != "content-type"}
    return JSONResponse(body, status, kept)


@router.get(
    "/.well-known/oauth-authorization-server",
    summary="What the OAuth 2.0 server can do (RFC 8414)",
    responses=says(oauth_answers.Metadata),
)
async def get_metadata(request: Request) -> dict[str, Any]:
    """Its addresses, grants and methods."""
    return oauth_of(request).metadata(base_url(request))


@router.get(
    "/.well-known/openid-configuration",
    summary="The same, where OpenID Connect looks for it",
    responses=says(oauth_answers.Metadata),
)
async def get_configuration(request: Request) -> dict[str, Any]:
    """Its addresses, grants and methods."""
    return oauth_of(request).metadata(base_url(request))


@router.post(
    "/oauth/token",
    summary="Tokens for a program",
    openapi_extra=form("grant_type", "code", "redirect_uri", "code_verifier", "client_id"),
    responses={**says(oauth_answers.Tokens), **_ERRORS},
)
def post_token(request: Request, form: Form) -> Response:
    """For a code with its PKCE verifier, a refresh token, a device code, or a program's own credentials."""
    return _said(oauth_of(request).token(form, request.headers, base_url(request)))


@_for_clients(
    "/oauth/device_authorization", "Codes for a program without a browser", oauth_answers.DeviceCodes,
    "client_id", "scope",
)  # fmt: skip
def post_device_authorization(request: Request, form: Form) -> Response:
    """RFC 8628: the user types one of them at the address that is answered."""
    return _said(oauth_of(request).endpoint("device_authorization", form, request.headers, base_url(request)))


@_for_clients("/oauth/revoke", "Give a token back", oauth_answers.Revoked, "token")
def post_revoke(request: Request, form: Form) -> Response:
    """RFC 7009: the whole session ends within 5 seconds."""
    return _said(oauth_of(request).endpoint("revocation", form, request.headers, base_url(request)))


@_for_clients("/oauth/introspect", "What a token is good for", oauth_answers.Introspected, "token")
def post_introspect(request: Request, form: Form) -> Response:
    """RFC 7662, for programs with a secret: about their own tokens, and those of their organisation's users."""
    return _said(oauth_of(request).endpoint("introspection", form, request.headers, base_url(request)))


@router.get(
    "/oauth/userinfo", summary="Who the user is, as far as the program may know", responses=says(oauth_answers.UserInfo)
)
def get_userinfo(request: Request, who: SignedIn) -> dict[str, Any]:
    """OpenID Connect Core, section 5.3."""
    return oauth_of(request).userinfo(who)


@router.post(
    "/v1/clients",
    status_code=201,
    summary="Register a program that asks users for access",
    responses=says(accounts_answers.ProgramMade, 201),
)
def post_client(request: Request, who: Maker, body: s.NewClient) -> dict[str, Any]:
    """The answer alone has its secret; a public program has none. Users of other organisations do not see it.

    One that acts by itself for automation ("unattended") takes a recent sign-in.
    """
    if UNATTENDED in body.scopes and CREDENTIALS in body.grants:
        check_recent(request, who)
    client, secret = oauth_of(request).store.create_client(
        who, body.name, scopes=body.scopes, grants=body.grants, redirect_uris=body.redirect_uris, public=body.public
    )
    return {**client_of(client), "client_secret": secret}


@router.get("/v1/clients", summary="The programs of the organisation", responses=says(accounts_answers.Programs))
def get_clients(request: Request, who: Maker, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """By id, in pages."""
    found = oauth_of(request).store.clients(who, after=after, limit=limit + 1)
    return page_of(found, limit, shown=client_of, cursor=lambda one: one.id)


@router.delete("/v1/clients/{client_id}", status_code=204, summary="End a program")
def delete_client(request: Request, who: Maker, client_id: str) -> Response:
    """All sessions that users gave it end within 5 seconds."""
    oauth_of(request).store.close_client(who, client_id)
    return Response(status_code=204)
