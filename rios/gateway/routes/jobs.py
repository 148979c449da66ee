"""Jobs: generations with all parameters of rios. They go on without their client, and are followed from any piece."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, model_validator

from rios.accounts.values import Principal
from rios.dmoe.completion import Completion, Logprob
from rios.gateway.auth import gate_of, needs
from rios.gateway.errors import answer, status_of
from rios.gateway.events import EventStream, event, unless_gone
from rios.gateway.once import goes_on, request_id
from rios.gateway.openai_schemas import Message
from rios.gateway.runs import Run
from rios.gateway.schemas import Strict
from rios.services.generation import Model
from rios.services.tenancy import chat_ids
from rios.words.canonical import digest
from rios.words.errors import AlreadyExists, InvalidRequest, NotFound, QueueFull, RiosError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
User = Annotated[Principal, Depends(needs("generate"))]
_WAIT_MAX_S = 60.0


class NewJob(Strict):
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
            return chat_ids(model, [message.plain() for message in self.messages], plain=False)
        assert self.prompt is not None
        return self.prompt


@dataclass(slots=True)
class Kept:
    """A job, and whose it is."""

    id: str
    user_id: str
    model: str
    key: str
    digest: str
    run: Run
    ended_at: float | None = None


class Jobs:
    """The jobs of a gateway that can be asked for. Used by the event loop alone."""

    def __init__(self, limit: int, kept_s: float) -> None:
        self._limit = limit
        self._kept_s = kept_s
        self._jobs: OrderedDict[str, Kept] = OrderedDict()
        self._keys: dict[tuple[str, str], Kept | asyncio.Future[Kept]] = {}

    def get(self, user_id: str, job_id: str) -> Kept:
        """A job of the user. Raises NotFound."""
        self._forget()
        found = self._jobs.get(job_id)
        if found is None or found.user_id != user_id:
            raise NotFound(f"there is no job {job_id!r}, or it ended more than {self._kept_s:g} s ago")
        return found

    def known(self, user_id: str, key: str, wanted: str) -> Kept | asyncio.Future[Kept] | None:
        """The job that the key began. Raises AlreadyExists where that was another request."""
        found = self._keys.get((user_id, key)) if key else None
        if isinstance(found, Kept) and found.digest != wanted:
            raise AlreadyExists(f"the Idempotency-Key {key!r} came before with another request; choose another key")
        return found

    def reserve(self, user_id: str, key: str) -> asyncio.Future[Kept]:
        """A place for a job that is being submitted; who comes with the same key waits for it."""
        self._forget()
        if len(self._jobs) >= self._limit:
            raise QueueFull(f"{self._limit} jobs are remembered at this gateway, which is its limit; try again")
        place: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        if key:
            self._keys[user_id, key] = place
        return place

    def keep(self, job: Kept) -> None:
        """Remember a job."""
        self._jobs[job.id] = job
        if job.key:
            self._keys[job.user_id, job.key] = job

    def release(self, user_id: str, key: str) -> None:
        """The job of a key could not be submitted: the key is free again."""
        self._keys.pop((user_id, key), None)

    def _forget(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.run.ended and job.ended_at is None:
                job.ended_at = now
            if job.ended_at is not None and now - job.ended_at > self._kept_s:
                del self._jobs[job.id]
                self._keys.pop((job.user_id, job.key), None)


@router.post("", status_code=201, summary="Start a generation")
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
        model = gate_of(request).tenancy.model(who, body.model)
        named = request_id(request, 0)
        run = await request.app.state.runs.start(
            who.user_id, lambda: model.submit(body.ids(model), request_id=named, **body.params())
        )
        goes_on(request, run.result)
    except BaseException as error:
        jobs.release(who.user_id, key)
        place.set_exception(error if isinstance(error, RiosError) else RiosError("it could not be submitted"))
        place.exception()  # nobody may be waiting for it
        raise
    job = Kept(run.job.request_id, who.user_id, body.model, key, wanted, run)
    jobs.keep(job)
    place.set_result(job)
    return _said(job)


@router.get("/{job_id}", summary="How far a job is, and its result", response_model=None)
async def get_job(
    request: Request, who: User, job_id: str, wait_s: Annotated[float, Query(ge=0, le=_WAIT_MAX_S)] = 0
) -> dict[str, Any] | Response:
    """Waits up to `wait_s` seconds for its end. A job that failed answers as the error that ended it."""
    job = request.app.state.jobs.get(who.user_id, job_id)
    if wait_s and not job.run.ended:
        await unless_gone(request, _wait(job.run, wait_s))
    if job.run.ended and job.run.error is not None:
        return answer(request, job.run.error)
    return _said(job)


async def _wait(run: Run, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await run.result()
    except (TimeoutError, RiosError):
        return


@router.get("/{job_id}/status", summary="How far a job is")
async def get_status(request: Request, who: User, job_id: str) -> dict[str, Any]:
    """Of a job that failed too."""
    return {**_said(request.app.state.jobs.get(who.user_id, job_id)), "result": None}


@router.get("/{job_id}/events", summary="The pieces of a job as they come")
async def get_events(
    request: Request,
    who: User,
    job_id: str,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> Response:
    """Server-sent events `piece`, then `done` or `error`. With Last-Event-ID, those after it."""
    job = request.app.state.jobs.get(who.user_id, job_id)
    if last is not None and not (last.isascii() and last.isdecimal()):
        raise InvalidRequest(f"Last-Event-ID is {last!r}; it must be the id of an event of this stream")
    return EventStream(_events(job, int(last or 0)))


@router.delete("/{job_id}", status_code=204, summary="Cancel a job")
async def delete_job(request: Request, who: User, job_id: str) -> Response:
    """What was received so far is paid."""
    request.app.state.jobs.get(who.user_id, job_id).run.cancel()
    return Response(status_code=204)


async def _events(job: Kept, start: int) -> AsyncGenerator[bytes]:
    try:
        async for number, piece in job.run.pieces(start):
            said: dict[str, Any] = {
                "text": piece.text,
                "token_ids": list(piece.token_ids),
                "logprobs": [_logprob(one) for one in piece.logprobs],
            }
            yield event(said, id=str(number), name="piece")
    except RiosError as error:
        said = {"type": f"urn:rios:error:{type(error).__name__}", "detail": str(error), "status": status_of(error)}
        yield event(said, name="error")
        return
    yield event(_said(job), name="done")


def _said(job: Kept) -> dict[str, Any]:
    done = job.run.completion
    return {
        "id": job.id,
        "model": job.model,
        "status": job.run.job.status,
        "tokens": len(job.run.job.token_ids),
        "result": None if done is None else _completion(done),
    }


def _completion(done: Completion) -> dict[str, Any]:
    return {
        "text": done.text,
        "token_ids": list(done.token_ids),
        "finish_reason": done.finish_reason,
        "usage": asdict(done.usage),
        "timing": asdict(done.timing),
        "logprobs": None if done.logprobs is None else [_logprob(one) for one in done.logprobs],
    }


def _logprob(one: Logprob) -> dict[str, Any]:
    return {"token_id": one.token_id, "logprob": one.logprob, "top": [list(pair) for pair in one.top]}
