"""Snapshots of applications' volumes: taken, listed, and kept no longer. New volumes begin with one by its id."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from rios.gateway.answers import apps as apps_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of
from rios.gateway.paging import After, Limit, moment_cursor, page_of, read_moment_cursor
from rios.gateway.routes.apps import Deployer, Reader
from rios.gateway.schemas import Strict
from rios.services.deployments.snapshots import COPIES_MAX, AppSnapshots, Snapshot

router = APIRouter(prefix="/v1/apps", tags=["apps"])


class Wanted(Strict, json_schema_extra={"examples": [{"path": "/data", "copies": 2}]}):
    """Of which volume, and by how many hosts it is to be kept."""

    path: Annotated[str, Field(max_length=4096)] = Field(description="Where the application mounts the volume.")
    copies: int = Field(default=1, ge=1, le=COPIES_MAX)


def _snapshots(request: Request, who: Reader | Deployer, name: str) -> AppSnapshots:
    return gate_of(request).tenancy.deployments(who).get(name).snapshots


def _row(one: Snapshot) -> dict[str, Any]:
    return {**asdict(one), "hosts": list(one.hosts)}


@router.get(
    "/{name}/snapshots", summary="The snapshots of an application's volumes", responses=says(apps_answers.SnapshotRows)
)
def get_snapshots(request: Request, who: Reader, name: str, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Oldest first, in pages."""
    found = _snapshots(request, who, name).list(after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=_row, cursor=lambda one: moment_cursor(one.created_at, one.id))


@router.post(
    "/{name}/snapshots",
    status_code=202,
    summary="Take a snapshot of a volume",
    responses=says(apps_answers.SnapshotRow, 202),
)
def post_snapshot(request: Request, who: Deployer, name: str, body: Wanted) -> dict[str, Any]:
    """Of all its files at one moment, while the application waits; it is taken in the background."""
    return _row(_snapshots(request, who, name).take(body.path, copies=body.copies, wait=False))


@router.get("/{name}/snapshots/{snapshot}", summary="A snapshot", responses=says(apps_answers.SnapshotRow))
def get_snapshot(request: Request, who: Reader, name: str, snapshot: str) -> dict[str, Any]:
    """What became of it, and which hosts keep it."""
    return _row(_snapshots(request, who, name).get(snapshot))


@router.delete(
    "/{name}/snapshots/{snapshot}",
    status_code=202,
    summary="Keep a snapshot no longer",
    responses=says(apps_answers.SnapshotRow, 202),
)
def delete_snapshot(request: Request, who: Deployer, name: str, snapshot: str) -> dict[str, Any]:
    """Hosts that do not answer forget it when they are back. Volumes that began with it stay."""
    found = _snapshots(request, who, name)
    was = found.get(snapshot)
    found.delete(snapshot)
    return _row(was)
