"""The organisation's own secrets, which its applications take by their names. No value is in any answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from rios.accounts.values import Principal
from rios.gateway.answers import apps as apps_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.paging import After, Limit, page_of
from rios.gateway.routes.apps import Deployer, Values
from rios.services.deployments.shared_secrets import SharedSecrets

router = APIRouter(prefix="/v1/secrets", tags=["apps"])
Reader = Annotated[Principal, Depends(needs("models:read"))]


def _secrets(request: Request, who: Principal) -> SharedSecrets:
    return gate_of(request).tenancy.deployments(who).secrets


@router.get("", summary="The organisation's secrets", responses=says(apps_answers.OrganisationSecrets))
def get_secrets(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Names and when they changed, by name, in pages."""
    found = _secrets(request, who).list(after=after, limit=limit + 1)
    return page_of(found, limit, shown=dict, cursor=lambda one: str(one["name"]))


@router.put(
    "",
    summary="Keep secrets for all applications of the organisation",
    responses=says(apps_answers.OrganisationSecretsNow),
)
def put_secrets(request: Request, who: Deployer, body: Values) -> dict[str, Any]:
    """In place of those of the same names; running replicas that refer to them have them at once."""
    found = _secrets(request, who)
    found.put({name: value.get_secret_value() for name, value in body.secrets.items()})
    return {"data": found.list()}


@router.delete("", summary="Keep a secret no longer", responses=says(apps_answers.OrganisationSecretsNow))
def delete_secret(request: Request, who: Deployer, name: Annotated[str, Query(max_length=128)]) -> dict[str, Any]:
    """Refused while an application refers to it."""
    found = _secrets(request, who)
    found.delete(name)
    return {"data": found.list()}
