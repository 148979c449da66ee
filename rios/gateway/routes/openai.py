"""OpenAI's routes: models, completions, chat. A client that goes away cancels, and pays what it received."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway.answers import openai as openai_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.choices import ChatShape, Choices, CompletionShape, Shape
from rios.gateway.events import EventStream, unless_gone
from rios.gateway.once import request_id
from rios.gateway.openai_schemas import ChatRequest, CompletionRequest, Sampling
from rios.gateway.routes.models import models_of
from rios.services.generation import Model
from rios.services.tenancy import SERVING, Deployed

router = APIRouter(prefix="/v1", tags=["openai"])
# Who may use models may see which there are.
Reader = Annotated[Principal, Depends(needs("models:read", or_else="generate"))]
User = Annotated[Principal, Depends(needs("generate"))]
_COMPLETION_TOKENS = 16  # OpenAI's own default on this route


@router.get("/models", summary="The models that serve", responses=says(openai_answers.ModelList))
async def get_models(request: Request, who: Reader) -> dict[str, Any]:
    """Of the user's organisation."""
    found = [one for one in await models_of(request, who) if one.state == SERVING]
    return {"object": "list", "data": [_model(one) for one in found]}


@router.get("/models/{name}", summary="A model", responses=says(openai_answers.ModelRow))
def get_model(request: Request, who: Reader, name: str) -> dict[str, Any]:
    """One model."""
    return _model(gate_of(request).tenancy.deployed(who, name))


def _model(one: Deployed) -> dict[str, Any]:
    return {"id": one.name, "object": "model", "created": one.created_at // 10**6, "owned_by": one.organisation_id}


@router.post("/completions", summary="Go on from a prompt", responses=says(openai_answers.CompletionAnswer))
async def post_completion(request: Request, who: User, body: CompletionRequest) -> Response:
    """Text, or token ids, is continued; several prompts and n choices of each run at the same time."""

    def prompts(model: Model) -> list[str | list[int]]:
        return body.prompts

    extra = {} if body.logprobs is None else {"logprobs": body.logprobs}
    max_tokens = body.max_tokens or _COMPLETION_TOKENS
    return await _answer(request, who, body, prompts, lambda model, ids: max_tokens, extra, CompletionShape)


@router.post("/chat/completions", summary="Answer a conversation", responses=says(openai_answers.ChatAnswer))
async def post_chat(request: Request, who: User, body: ChatRequest) -> Response:
    """By the model's chat template; a model without one gets `role: content` lines."""

    def prompts(model: Model) -> list[str | list[int]]:
        return [model.chat_ids([message.plain() for message in body.messages], plain=True)]

    def room(model: Model, ids: str | list[int]) -> int:
        default = min(request.app.state.settings.tokens_default, model.context_length - len(ids))
        return body.max_completion_tokens or body.max_tokens or max(1, default)

    extra = {"logprobs": body.top_logprobs or 0} if body.logprobs else {}
    return await _answer(request, who, body, prompts, room, extra, ChatShape)


async def _answer(
    request: Request,
    who: Principal,
    body: Sampling,
    prompts: Callable[[Model], list[str | list[int]]],
    max_tokens: Callable[[Model, str | list[int]], int],
    extra: dict[str, Any],
    shape: Callable[..., Shape],
) -> Response:
    """Submit all choices, then stream them or wait for them."""
    gate = gate_of(request)

    def submits() -> tuple[Model, list[Any]]:
        model = gate.tenancy.model(who, body.model)
        found: list[Any] = []
        for ids in prompts(model):
            for place in range(body.n or 1):
                wanted = {**body.sampling(place, max_new_tokens=max_tokens(model, ids)), **extra}
                found.append(partial(model.submit, ids, request_id=request_id(request, len(found)), **wanted))
        return model, found

    async def start() -> Choices:
        model, found = await run_in_threadpool(submits)
        choices = Choices(shape(model=body.model, created=int(time.time()), decode=model.decode))
        try:
            for submit in found:
                choices.add(await request.app.state.runs.start(who.user_id, submit))
        except BaseException:
            choices.cancel()
            raise
        return choices

    if body.stream:
        choices = await unless_gone(request, start())
        usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStream(_cancelling(choices, usage=usage))

    async def whole() -> dict[str, Any]:
        choices = await start()
        try:
            return await choices.whole()
        finally:
            choices.cancel()

    return JSONResponse(await unless_gone(request, whole()))


async def _cancelling(choices: Choices, *, usage: bool) -> AsyncGenerator[bytes]:
    try:
        async for one in choices.events(usage=usage):
            yield one
    finally:
        choices.cancel()
