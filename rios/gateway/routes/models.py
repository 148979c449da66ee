"""Deployments of models, and the workers that serve them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway import schemas as s
from rios.gateway.answers import models as models_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.paging import After, Limit, page_of
from rios.services.tenancy import Deployed, Specification
from rios.services.views import WorkerInfo

router = APIRouter(prefix="/v1", tags=["models"])
# Who may use models may see which there are.
Reader = Annotated[Principal, Depends(needs("models:read", or_else="generate"))]
Deployer = Annotated[Principal, Depends(needs("deployments:write"))]
WorkersReader = Annotated[Principal, Depends(needs("workers:read"))]


async def models_of(request: Request, who: Principal) -> list[Deployed]:
    """What the user's organisation has, by name. A thread, which costs more than all the rest, is for the database."""
    tenancy = gate_of(request).tenancy
    known = tenancy.known_models(who)
    return await run_in_threadpool(tenancy.models, who) if known is None else known


@router.get(
    "/deployments",
    summary="The models that the organisation wants deployed",
    responses=says(models_answers.Deployments),
)
async def get_deployments(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """By name, with their states: starting, serving or failed; in pages."""
    found = [one for one in await models_of(request, who) if one.name > after]
    return page_of(found, limit, shown=s.deployed_of, cursor=lambda one: one.name)


@router.post(
    "/deployments", status_code=202, summary="Deploy a model", responses=says(models_answers.DeploymentRow, 202)
)
def post_deployment(request: Request, who: Deployer, body: s.NewDeployment) -> dict[str, Any]:
    """It starts in the background, and again whenever the network starts."""
    wanted = Specification(
        checkpoint=body.checkpoint, replicas=body.replicas, dtype=body.dtype, partial=body.partial,
        wire_dtype=body.wire_dtype, private=body.private,
    )  # fmt: skip
    return s.deployed_of(gate_of(request).tenancy.deploy(who, body.name, wanted))


@router.get("/deployments/{name}", summary="How far a deployment is", responses=says(models_answers.DeploymentRow))
def get_deployment(request: Request, who: Reader, name: str) -> dict[str, Any]:
    """One deployment."""
    return s.deployed_of(gate_of(request).tenancy.deployed(who, name))


@router.delete("/deployments/{name}", status_code=204, summary="Take a model down")
def delete_deployment(request: Request, who: Deployer, name: str) -> Response:
    """Running requests are cancelled."""
    gate_of(request).tenancy.undeploy(who, name)
    return Response(status_code=204)


@router.get("/workers", summary="The workers of the network", responses=says(models_answers.Workers))
def get_workers(request: Request, who: WorkersReader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Name, device, memory, state and experts of each, by name, in pages; for admins of the network processes and
    addresses too."""
    names = ("name", "device", "memory_bytes", "reserved_bytes", "state", "experts", "speed")
    found = sorted((one for one in gate_of(request).network.workers if one.name > after), key=lambda one: one.name)
    all_of_it = who.operator and "settlement:write" in who.scopes

    def shown(worker: WorkerInfo) -> dict[str, Any]:
        whole = asdict(worker)
        return whole if all_of_it else {name: whole[name] for name in names}

    return page_of(found, limit, shown=shown, cursor=lambda one: one.name)
