"""Signing in, keys, users, organisations and the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from rios.accounts import roles
from rios.accounts.values import Principal
from rios.gateway import schemas as s
from rios.gateway.answers import accounts as accounts_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import SIGNED_IN, check_recent, gate_of, needs
from rios.gateway.forms import base_url
from rios.gateway.paging import After, AfterNumber, Limit, moment_cursor, page_of, read_moment_cursor
from rios.gateway.signing_in import forget_mail
from rios.words.money import parse_ros

router = APIRouter(prefix="/v1", tags=["accounts"])
SignedIn = Annotated[Principal, Depends(needs(SIGNED_IN))]
OwnTokens = Annotated[Principal, Depends(needs("tokens:write"))]
UsersReader = Annotated[Principal, Depends(needs("users:read"))]
UsersWriter = Annotated[Principal, Depends(needs("users:write"))]
Auditor = Annotated[Principal, Depends(needs("audit:read"))]
Founder = Annotated[Principal, Depends(needs("organisations:write"))]
Giver = Annotated[Principal, Depends(needs("credit:write"))]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


@router.get("/roles", summary="The table of roles and scopes", responses=says(accounts_answers.Rights))
async def get_roles() -> dict[str, Any]:
    """Each scope with the roles that have it."""
    return {
        "data": [
            {
                "scope": r.scope, "allows": r.allows, "roles": sorted(r.roles), "network": r.network,
                "recent": r.recent,
            }
            for r in roles.TABLE
        ]
    }  # fmt: skip


@router.post(
    "/sessions", status_code=201, summary="Sign in with a password", responses=says(accounts_answers.SignedIn, 201)
)
def post_session(request: Request, body: s.SignIn) -> dict[str, Any]:
    """An access token for an hour, and a refresh token for 30 days."""
    client = request.headers.get("user-agent", "")
    return s.signed_in_of(gate_of(request).accounts.tokens.sign_in(body.login, body.password, client=client))


@router.post(
    "/sessions/refresh",
    status_code=201,
    summary="New tokens for a refresh token",
    responses=says(accounts_answers.SignedIn, 201),
)
def post_refresh(request: Request, body: s.Refresh) -> dict[str, Any]:
    """The refresh token is used up; a second use ends the session."""
    return s.signed_in_of(gate_of(request).accounts.tokens.refresh(body.refresh_token))


@router.get("/sessions", summary="The user's own living sessions", responses=says(accounts_answers.Sessions))
def get_sessions(request: Request, who: OwnTokens, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Oldest first, in pages."""
    tokens = gate_of(request).accounts.tokens
    found = tokens.sessions(who, after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=s.session_of, cursor=lambda one: moment_cursor(one.created_at, one.id))


@router.delete("/sessions/{session_id}", status_code=204, summary="End a session")
def delete_session(request: Request, who: OwnTokens, session_id: str) -> Response:
    """All its tokens end within 5 seconds."""
    gate_of(request).accounts.tokens.revoke_session(who, session_id)
    return Response(status_code=204)


@router.post("/tokens", status_code=201, summary="Make an API key", responses=says(accounts_answers.NewApiKey, 201))
def post_token(request: Request, who: OwnTokens, body: s.NewToken) -> dict[str, Any]:
    """The answer alone has the key itself. One for automation ("unattended") takes a recent sign-in."""
    if roles.UNATTENDED in (body.scopes or ()):
        check_recent(request, who)
    key, secret = gate_of(request).accounts.tokens.create_key(
        who, body.name, scopes=body.scopes, expires_in_s=body.expires_in_s
    )
    return {**s.key_of(key), "token": secret}


@router.get("/tokens", summary="The user's own API keys", responses=says(accounts_answers.ApiKeys))
def get_tokens(request: Request, who: OwnTokens, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Oldest first, revoked ones too, in pages."""
    found = gate_of(request).accounts.tokens.keys(who, after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=s.key_of, cursor=lambda one: moment_cursor(one.created_at, one.id))


@router.delete("/tokens/{key_id}", status_code=204, summary="Revoke an API key")
def delete_token(request: Request, who: OwnTokens, key_id: str) -> Response:
    """It ends within 5 seconds."""
    gate_of(request).accounts.tokens.revoke_key(who, key_id)
    return Response(status_code=204)


@router.get("/users/me", summary="Who this token stands for, and what it may", responses=says(accounts_answers.Me))
def get_me(request: Request, who: SignedIn) -> dict[str, Any]:
    """The user, the organisation, and the scopes of this token."""
    user = gate_of(request).accounts.user(who, who.user_id)
    return {**s.user_of(user), "operator": who.operator, "scopes": sorted(who.scopes)}


@router.put("/users/me/password", status_code=204, summary="Change the user's own password")
def put_password(request: Request, who: OwnTokens, body: s.NewPassword) -> Response:
    """All other sessions end. Where there is none yet, a token that may all that the role may will do."""
    gate_of(request).accounts.tokens.set_password(who, body.new, old=body.old)
    return Response(status_code=204)


@router.get("/users", summary="The users of the organisation", responses=says(accounts_answers.Users))
def get_users(request: Request, who: UsersReader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """By id, in pages."""
    found = gate_of(request).accounts.users(who, after=after, limit=limit + 1)
    return page_of(found, limit, shown=s.user_of, cursor=lambda one: one.id)


@router.post("/users", status_code=201, summary="Make a user", responses=says(accounts_answers.UserMade, 201))
def post_user(request: Request, who: UsersWriter, body: s.NewUser) -> dict[str, Any]:
    """The answer alone has the user's first key. With an e-mail address, a link to choose a password is sent there."""
    user, secret = gate_of(request).accounts.create_user(
        who, body.login, role=body.role, name=body.name, password=body.password, email=body.email,
        url=base_url(request),
    )  # fmt: skip
    return {**s.user_of(user), "token": secret}


@router.get("/users/{user_id}", summary="A user of the organisation", responses=says(accounts_answers.UserRow))
def get_user(request: Request, who: UsersReader, user_id: str) -> dict[str, Any]:
    """One user."""
    return s.user_of(gate_of(request).accounts.user(who, user_id))


@router.patch("/users/{user_id}", summary="Give a user another role", responses=says(accounts_answers.UserRow))
def patch_user(request: Request, who: UsersWriter, user_id: str, body: s.UserChange) -> dict[str, Any]:
    """The user's tokens may no more than the new role."""
    return s.user_of(gate_of(request).accounts.change_role(who, user_id, body.role))


@router.delete("/users/{user_id}", status_code=204, summary="Close a user")
def delete_user(request: Request, who: UsersWriter, user_id: str) -> Response:
    """Login, name and address are forgotten, all tokens and schedules of reports end; the ledger stays whole."""
    forget_mail(request, gate_of(request).accounts.close_user(who, user_id))
    return Response(status_code=204)


@router.post("/users/{user_id}/credit", status_code=204, summary="Give a user trial credit")
def post_credit(request: Request, who: Giver, user_id: str, body: s.Credit, key: Key) -> Response:
    """Once for each Idempotency-Key."""
    amount_wei = parse_ros(body.amount, name="the credit")
    gate_of(request).accounts.give_credit(who, user_id, amount_wei, key=key)
    return Response(status_code=204)


@router.get(
    "/users/{user_id}/quota", summary="What a user may ask for in a day", responses=says(accounts_answers.Quota)
)
def get_quota(request: Request, who: SignedIn, user_id: str) -> dict[str, Any]:
    """Null for no bound; days are those of UTC. One's own, or for admins anybody's of the organisation."""
    found = gate_of(request).tenancy.quotas.get(who, user_id)
    spend = None if found.spend_wei is None else str(found.spend_wei)
    return {"tokens": found.tokens, "spend_wei": spend, "used_tokens": found.used_tokens}


@router.put("/users/{user_id}/quota", status_code=204, summary="Bound what a user may ask for in a day")
def put_quota(request: Request, who: UsersWriter, user_id: str, body: s.NewQuota) -> Response:
    """What is left out is not bounded. Tokens are counted from the moment that there is a bound."""
    spend_wei = None if body.spend is None else parse_ros(body.spend, name="the spend")
    gate_of(request).tenancy.quotas.set(who, user_id, tokens=body.tokens, spend_wei=spend_wei)
    return Response(status_code=204)


@router.post(
    "/organisations",
    status_code=201,
    summary="Make an organisation",
    responses=says(accounts_answers.OrganisationMade, 201),
)
def post_organisation(request: Request, who: Founder, body: s.NewOrganisation) -> dict[str, Any]:
    """The answer alone has the first admin's key."""
    organisation, admin, secret = gate_of(request).accounts.create_organisation(who, body.name, admin=body.admin)
    return {"id": organisation.id, "name": organisation.name, "admin": s.user_of(admin), "token": secret}


@router.get("/audit", summary="Who did what in the organisation", responses=says(accounts_answers.AuditRows))
def get_audit(request: Request, who: Auditor, after: AfterNumber = 0, limit: Limit = 100) -> dict[str, Any]:
    """In their order, in pages."""
    found = gate_of(request).accounts.audit(who, after=after, limit=limit + 1)
    return page_of(found, limit, shown=s.entry_of, cursor=lambda one: one.seq)


@router.get(
    "/audit/verify",
    summary="Whether the whole log is as it was written",
    responses=says(accounts_answers.AuditVerified),
)
def get_audit_verified(request: Request, who: Auditor) -> dict[str, Any]:
    """The first entry that is missing or was changed, of all organisations; null where there is none."""
    return gate_of(request).accounts.verified_audit()
