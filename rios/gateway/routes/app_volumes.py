"""Volumes that deleted applications left: listed, and removed. New applications take one by its id."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from rios.gateway.answers import apps as apps_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of
from rios.gateway.paging import After, Limit, moment_cursor, page_of, read_moment_cursor
from rios.gateway.routes.apps import Deployer, Reader
from rios.services.deployments.kept_volumes import KeptVolumes

router = APIRouter(prefix="/v1/volumes", tags=["apps"])


def _volumes(request: Request, who: Reader | Deployer) -> KeptVolumes:
    return gate_of(request).tenancy.deployments(who).volumes


@router.get("", summary="The organisation's kept volumes", responses=says(apps_answers.KeptVolumeRows))
def get_volumes(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Those of applications that were deleted; the first that were left come first, in pages."""
    found = _volumes(request, who).list(after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=asdict, cursor=lambda one: moment_cursor(one.deleted_at, one.id))


@router.get("/{volume}", summary="A kept volume", responses=says(apps_answers.KeptVolumeRow))
def get_volume(request: Request, who: Reader, volume: str) -> dict[str, Any]:
    """Where it lies, and who takes it."""
    return asdict(_volumes(request, who).get(volume))


@router.delete(
    "/{volume}", status_code=202, summary="Remove a kept volume", responses=says(apps_answers.KeptVolumeRow, 202)
)
def delete_volume(request: Request, who: Deployer, volume: str) -> dict[str, Any]:
    """For good, with all that is in it. A host that does not answer does so when it is back."""
    found = _volumes(request, who)
    was = found.get(volume)
    found.delete(volume)
    return asdict(was)
