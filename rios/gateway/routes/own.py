"""The own account and the own organisation: profile, export, closing, members' organisation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from rios.accounts.values import Organisation, Principal
from rios.gateway import schemas as s
from rios.gateway.answers import accounts as accounts_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import SIGNED_IN, gate_of, needs
from rios.gateway.forms import base_url
from rios.gateway.signing_in import forget_mail
from rios.services.people import People
from rios.words.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["accounts"])
SignedIn = Annotated[Principal, Depends(needs(SIGNED_IN))]
Own = Annotated[Principal, Depends(needs("tokens:write"))]
UsersWriter = Annotated[Principal, Depends(needs("users:write"))]


def _people(request: Request) -> People:
    return People(gate_of(request).accounts)


@router.get("/users/me/profile", summary="What the user says about itself", responses=says(accounts_answers.Profile))
def get_profile(request: Request, who: SignedIn) -> dict[str, Any]:
    """With the address, and when it was confirmed."""
    return _profile(request, who)


@router.patch("/users/me/profile", summary="Change it", responses=says(accounts_answers.Profile))
def patch_profile(request: Request, who: Own, body: s.ProfileChange) -> dict[str, Any]:
    """A new e-mail address takes the own password, and counts once the link that is sent there was opened."""
    changes = {name: text for name, text in body.model_dump(exclude={"password"}).items() if text is not None}
    _people(request).change_profile(who, changes, url=base_url(request), password=body.password)
    return _profile(request, who)


@router.get("/users/me/export", summary="All that is kept of the user", responses=says(accounts_answers.Everything))
def get_export(request: Request, who: Own) -> dict[str, Any]:
    """Account, profile, keys, sessions, identities elsewhere, acts, and what was spent; no secret."""
    return _people(request).export(who)


@router.post("/users/me/close", summary="Close the own account", responses=says(accounts_answers.Everything))
def post_close(request: Request, who: Own, body: s.Closing) -> dict[str, Any]:
    """The answer is the export, which is nowhere else afterwards; what was spent stays in the ledger, under an id."""
    accounts = gate_of(request).accounts
    user = accounts.user(who, who.user_id)
    if body.login.strip().lower() != user.login:
        raise InvalidRequest(f"the login is not {body.login!r}; nothing was closed")
    accounts.tokens.prove(who, body.password)
    found = _people(request).close(who)
    forget_mail(request, user.email)
    return found


@router.get("/organisation", summary="The own organisation", responses=says(accounts_answers.OrganisationRow))
def get_organisation(request: Request, who: SignedIn) -> dict[str, Any]:
    """Its name, and how many members it has; `/v1/users` lists them for admins."""
    return _organisation(*gate_of(request).accounts.organisation(who))


@router.patch(
    "/organisation", summary="Give the own organisation another name", responses=says(accounts_answers.OrganisationRow)
)
def patch_organisation(request: Request, who: UsersWriter, body: s.OrganisationChange) -> dict[str, Any]:
    """Names are unique in the network."""
    return _organisation(*gate_of(request).accounts.rename_organisation(who, body.name))


def _profile(request: Request, who: Principal) -> dict[str, Any]:
    user = gate_of(request).accounts.user(who, who.user_id)
    own = {"name": user.name, "email": user.email, "email_confirmed_at": user.email_confirmed_at}
    return {**own, **_people(request).profile(who)}


def _organisation(organisation: Organisation, members: int) -> dict[str, Any]:
    return {**asdict(organisation), "members": members}
