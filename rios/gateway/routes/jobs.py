"""Jobs: generations with all parameters of rios. They go on without their client, and are followed from any piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway.answers import jobs as jobs_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.errors import answer, status_of
from rios.gateway.events import EventStream, event, unless_gone
from rios.gateway.kept_jobs import Jobs, Kept, completion_said, piece_said
from rios.gateway.once import goes_on, request_id
from rios.gateway.openai_schemas import Message
from rios.gateway.runs import Run
from rios.gateway.schemas import Strict
from rios.gateway.streams import counted
from rios.services.generation import Model
from rios.services.job_records import SECOND, JobRecord, JobRecords
from rios.words.canonical import digest
from rios.words.errors import InvalidRequest, NotFound, RiosError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
User = Annotated[Principal, Depends(needs("generate"))]
_WAIT_MAX_S = 60.0
# How long a job waits for its user's turn. Clients wait 75 s for an answer, and are to hear why there is none.
_PLACE_S = 60.0
STREAMS_PER_USER = 256
# A reader hears this often that a job which waits, for its turn or for money, is there still.
_ALIVE_S = 15.0
# How often a job of another gateway is looked at in its record.
_LOOK_S = 0.25


class NewJob(
    Strict, json_schema_extra={"examples": [{"model": "demo", "prompt": "Once upon a time", "max_new_tokens": 64}]}
):
    """A generation to be started: greedy unless told otherwise."""

    model: str = Field(min_length=1, max_length=200)
    prompt: Annotated[str, Field(max_length=1_000_000)] | Annotated[list[int], Field(min_length=1)] | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=1000)
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = Field(default_factory=list, max_length=64)
    stop_token_ids: list[int] = Field(default_factory=list, max_length=256)
    logprobs: int | None = None
    ignore_eos: bool = False
    logit_bias: list[Annotated[list[int | float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, max_length=1024, description="Pairs of a token id and what is added to its logit."
    )

    max_price: str | None = Field(
        None, min_length=1, max_length=100, description='The most that it pays, such as "0.01 ROS"; refused above that.'
    )

    def params(self) -> dict[str, Any]:
        """As `Model.submit` takes them."""
        return self.model_dump(exclude={"model", "prompt", "messages"})

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a job has either a prompt or messages")
        return self

    def ids(self, model: Model) -> str | list[int]:
        """The prompt."""
        if self.messages is not None:
            return model.chat_ids([message.plain() for message in self.messages])
        assert self.prompt is not None
        return self.prompt


@router.post("", status_code=201, summary="Start a generation", responses=says(jobs_answers.JobState, 201))
async def post_job(
    request: Request,
    who: User,
    body: NewJob,
    key: Annotated[str, Header(alias="Idempotency-Key", max_length=200)] = "",
) -> dict[str, Any]:
    """The same Idempotency-Key begins it once, for as long as it is remembered."""
    jobs: Jobs = request.app.state.jobs
    wanted = digest(body.model_dump_json())
    known = jobs.known(who.user_id, key, wanted)
    if known is not None:
        found = known if isinstance(known, Kept) else await asyncio.shield(known)
        jobs.known(who.user_id, key, wanted)
        return _said(found)
    place = jobs.reserve(who.user_id, key)
    try:
        # It asks the database where the model does not serve.
        model = await run_in_threadpool(gate_of(request).tenancy.model, who, body.model)
        named = request_id(request, 0)
        start = request.app.state.runs.start(
            who.user_id, lambda: model.submit(body.ids(model), request_id=named, **body.params()), wait_s=_PLACE_S
        )
        # Who leaves before the answer does not know the job's name: it would be paid, and nobody's.
        run = await unless_gone(request, start)
        job = Kept(run.job.request_id, who.user_id, body.model, key, wanted, run)
        await jobs.keep(job)
        goes_on(request, lambda: jobs.written(job))
    except BaseException as error:
        jobs.release(who.user_id, key)
        place.set_exception(error if isinstance(error, RiosError) else RiosError("it could not be submitted"))
        place.exception()  # nobody may be waiting for it
        raise
    place.set_result(job)
    return _said(job)


@router.get(
    "/{job_id}", summary="How far a job is, and its result", response_model=None, responses=says(jobs_answers.JobState)
)
async def get_job(
    request: Request, who: User, job_id: str, wait_s: Annotated[float, Query(ge=0, le=_WAIT_MAX_S)] = 0
) -> dict[str, Any] | Response:
    """Waits up to `wait_s` seconds for its end. A job that failed, or was lost, answers as the error that ended it.

    At any gateway: one that does not run it says what the one that does wrote last (`here`, `as_of`).
    """
    job = await _found(request, who, job_id)
    if isinstance(job, Kept):
        if wait_s and not job.run.ended:
            await unless_gone(request, _wait(job.run, wait_s))
        error = job.run.error if job.run.ended else None
    else:
        if not job.ended:
            job = await unless_gone(request, _wait_elsewhere(_records(request), job, wait_s))
        error = job.error
    return _said(job) if error is None else answer(request, error)


async def _wait(run: Run, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await run.result()
    except (TimeoutError, RiosError):
        return


async def _wait_elsewhere(records: JobRecords, job: JobRecord, seconds: float) -> JobRecord:
    """The record of a job when it has ended, or as it is after so many seconds."""
    deadline = time.monotonic() + seconds
    await run_in_threadpool(records.follow, job.id)
    while not job.ended and (left_s := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(_LOOK_S, left_s))
        job = await run_in_threadpool(records.get, job.user_id, job.id)
    return job


@router.get("/{job_id}/status", summary="How far a job is", responses=says(jobs_answers.JobState))
async def get_status(request: Request, who: User, job_id: str) -> dict[str, Any]:
    """Of a job that failed or was lost, too."""
    job = await _found(request, who, job_id)
    if isinstance(job, JobRecord) and not job.ended:
        await run_in_threadpool(_records(request).follow, job.id)  # who asks again hears more
    return {**_said(job), "result": None}


@router.get("/{job_id}/events", summary="The pieces of a job as they come")
async def get_events(
    request: Request,
    who: User,
    job_id: str,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> Response:
    """Server-sent events `piece`, then `done` or `error`. With Last-Event-ID, those after it, also at another gateway.

    One that does not run the job has them about a second later.
    """
    job = await _found(request, who, job_id)
    if last is not None and not (last.isascii() and last.isdecimal()):
        raise InvalidRequest(f"Last-Event-ID is {last!r}; it must be the id of an event of this stream")
    start = int(last or 0)
    events = _events(job, start) if isinstance(job, Kept) else _events_elsewhere(_records(request), job, start)
    return EventStream(counted(request, who.user_id, "jobs", STREAMS_PER_USER, events), alive_s=_ALIVE_S)


@router.delete("/{job_id}", status_code=204, summary="Cancel a job")
async def delete_job(request: Request, who: User, job_id: str) -> Response:
    """What was received so far is paid. Any generation of the list; another gateway's ends within a second or two."""
    jobs: Jobs = request.app.state.jobs
    here = jobs.here(who.user_id, job_id)
    if here is not None:
        here.run.cancel()
    else:
        await run_in_threadpool(_cancel, request, who.user_id, job_id)
    return Response(status_code=204)


def _cancel(request: Request, user_id: str, job_id: str) -> None:
    """One that was not begun here by these routes. Raises NotFound."""
    try:
        job = _records(request).get(user_id, job_id)
    except NotFound:
        listed = gate_of(request).network.jobs
        listed.cancel(listed.view(job_id, user_id).id)
    else:
        _records(request).cancel(job.id)


async def _found(request: Request, who: Principal, job_id: str) -> Kept | JobRecord:
    """A job of the user: from this gateway's memory, or from the record that another one writes. Raises NotFound."""
    jobs: Jobs = request.app.state.jobs
    here = jobs.here(who.user_id, job_id)
    return await run_in_threadpool(jobs.records.get, who.user_id, job_id) if here is None else here


def _records(request: Request) -> JobRecords:
    jobs: Jobs = request.app.state.jobs
    return jobs.records


async def _events(job: Kept, start: int) -> AsyncGenerator[bytes]:
    try:
        async for number, piece in job.run.pieces(start):
            yield event(piece_said(piece), id=str(number), name="piece")
    except RiosError as error:
        yield _failure(error)
        return
    yield event(_said(job), name="done")


async def _events_elsewhere(records: JobRecords, job: JobRecord, start: int) -> AsyncGenerator[bytes]:
    try:
        while True:
            for number, piece in enumerate(job.pieces[start:], start + 1):
                yield event(piece, id=str(number), name="piece")
                start = number
            if job.ended:
                break
            await run_in_threadpool(records.follow, job.id)
            await asyncio.sleep(_LOOK_S)
            job = await run_in_threadpool(records.get, job.user_id, job.id)
    except RiosError as error:
        yield _failure(error)
        return
    yield event(_said(job), name="done") if job.error is None else _failure(job.error)


def _failure(error: RiosError) -> bytes:
    said = {"type": f"urn:rios:error:{type(error).__name__}", "detail": str(error), "status": status_of(error)}
    return event(said, name="error")


def _said(job: Kept | JobRecord) -> dict[str, Any]:
    if isinstance(job, JobRecord):
        seen = {"here": False, "as_of": job.seen_at / SECOND, "result": job.result}
        lost = {"money": dict(job.money)} if job.money else {}
        return {"id": job.id, "model": job.model, "status": job.state, "tokens": job.tokens, **seen, **lost}
    done = job.run.completion
    return {
        "id": job.id,
        "model": job.model,
        "status": job.run.job.status,
        "tokens": len(job.run.job.token_ids),
        "here": True,
        "as_of": time.time(),
        "result": None if done is None else completion_said(done),
    }
