"""The user's own generations by all routes and at all gateways: those that run, and those that are remembered."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway.answers import jobs as jobs_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.events import unless_gone
from rios.services.jobs import Jobs, JobView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
User = Annotated[Principal, Depends(needs("generate"))]
Reader = Annotated[Principal, Depends(needs("usage:read", or_else="generate"))]
"""Which jobs there were is in the usage too; what they were asked and answered is not."""
_LOOK_S = 0.25
_WAIT_MAX_S = 60.0


@router.get("", summary="The user's own generations, or what of them changed", responses=says(jobs_answers.JobRows))
async def get_jobs(
    request: Request,
    who: Reader,
    since: Annotated[int, Query(ge=0, lt=2**53, description="The version of an answer before.")] = 0,
    wait_s: Annotated[float, Query(ge=0, le=_WAIT_MAX_S)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Of all gateways of the network; what another one runs comes about two seconds later. `version` is the `since` of
    the next question; where nothing changed, waits up to `wait_s`. A `since` that another gateway gave begins anew.
    `gateway` is what this one is called.
    """
    jobs = gate_of(request).network.jobs
    version, found = await _peek(jobs, since, who.user_id, limit)
    if wait_s and not found:
        version, found = await unless_gone(request, _changed(jobs, since, who.user_id, limit, wait_s))
    said = {"version": version, "more": len(found) == limit, "gateway": gate_of(request).once.gateway}
    return {"data": [_shown(one, who) for one in found], **said}


@router.get("/{job_id}/view", summary="A generation as the list has it", responses=says(jobs_answers.JobRow))
async def get_view(request: Request, who: Reader, job_id: str) -> dict[str, Any]:
    """Of any gateway."""
    jobs = gate_of(request).network.jobs  # its price is the ledger's, which may take a while
    return _shown(await run_in_threadpool(jobs.view, job_id, who.user_id), who)


@router.get(
    "/{job_id}/request",
    summary="What a generation was asked for with, and its answer so far",
    responses=says(jobs_answers.JobAsked),
)
async def get_request(request: Request, who: User, job_id: str) -> dict[str, Any]:
    """Of a job that ended too, for as long as it is remembered. 421 says at which gateway, where that is not this one:
    prompts are in its memory alone.
    """
    jobs = gate_of(request).network.jobs

    def read() -> dict[str, Any]:
        view = jobs.view(job_id, who.user_id)
        prompt, answer = jobs.text(job_id)
        said = {"prompt_ids": jobs.prompt(job_id), "prompt": prompt, "answer": answer, "params": jobs.params(job_id)}
        return {"job": _shown(view, who), **said}

    return await run_in_threadpool(read)


def _shown(view: JobView, who: Principal) -> dict[str, Any]:
    """A job of `who`: whose login it is needs no question."""
    return {**view.to_dict(), "owner_login": who.login}


async def _peek(jobs: Jobs, since: int, owner: str, limit: int) -> tuple[int, list[JobView]]:
    return await run_in_threadpool(jobs.peek, since, owner, limit=limit)


async def _changed(jobs: Jobs, since: int, owner: str, limit: int, seconds: float) -> tuple[int, list[JobView]]:
    """Until something changed; no thread is kept for that."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        await asyncio.sleep(_LOOK_S)
        version, found = await _peek(jobs, since, owner, limit)
        if found or asyncio.get_running_loop().time() >= deadline:
            return version, found
