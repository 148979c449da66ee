"""What happens in an organisation: as server-sent events, and told to webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway.answers import models as models_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.events import EventStream, event
from rios.gateway.schemas import Strict
from rios.gateway.streams import counted
from rios.services.events import event_of
from rios.services.webhooks import Webhook, Webhooks
from rios.words.errors import InvalidRequest, LedgerUnavailable

router = APIRouter(prefix="/v1", tags=["events"])
Auditor = Annotated[Principal, Depends(needs("audit:read"))]
Hooker = Annotated[Principal, Depends(needs("webhooks:write"))]
_LOOK_S, _ALIVE_S = 0.5, 15.0
_PAGE = 100
STREAMS_PER_USER = 8


class NewWebhook(Strict, json_schema_extra={"examples": [{"url": "https://hooks.example/rios", "events": ["budget"]}]}):
    """A URL to be told."""

    url: str = Field(min_length=1, max_length=2000)
    events: list[Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z][a-z.]*$")]] = Field(
        default_factory=list, max_length=50, description="Beginnings of the names of events; none for all."
    )


@router.get("/events", summary="What happens in the organisation, as it happens")
async def get_events(
    request: Request, who: Auditor, last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None
) -> Response:
    """Server-sent events from now on; with Last-Event-ID, all after it. Each is an entry of the audit log."""
    if last is not None and not (last.isascii() and last.isdecimal() and len(last) < 17):
        raise InvalidRequest(f"Last-Event-ID is {last!r}; it must be the id of an event of this stream")
    store = gate_of(request).accounts.store
    start = int(last) if last is not None else await run_in_threadpool(store.audit_head)
    return EventStream(counted(request, who.user_id, "events", STREAMS_PER_USER, _follow(request, who, start)))


async def _follow(request: Request, who: Principal, start: int) -> AsyncGenerator[bytes]:
    store, tokens = gate_of(request).accounts.store, gate_of(request).accounts.tokens
    loop = asyncio.get_running_loop()
    said_at, seq, token = loop.time(), start, request.headers["authorization"].partition(" ")[2].strip()
    yield b": rios\n\n"
    while True:
        # Whose right was taken away hears no more.
        if tokens.known(token) is None:
            who = await run_in_threadpool(tokens.authenticate, token)
            who.require("audit:read")
        try:
            found = await run_in_threadpool(store.audit, who.organisation_id, after=seq, limit=_PAGE)
        except LedgerUnavailable:
            found = []  # it comes back, and nothing is missed until then
        for one in found:
            seq = one.seq
            yield event(event_of(one), id=str(seq), name=one.action)
        if found:
            said_at = loop.time()
        elif loop.time() - said_at > _ALIVE_S:
            said_at = loop.time()
            yield b": alive\n\n"
        if len(found) < _PAGE:
            await asyncio.sleep(_LOOK_S)


def _webhooks(request: Request) -> Webhooks:
    found: Webhooks = request.app.state.webhooks
    return found


def _said(one: Webhook) -> dict[str, Any]:
    return {"id": one.id, "url": one.url, "events": list(one.topics), "created_at": one.created_at}


@router.get("/webhooks", summary="The organisation's webhooks", responses=says(models_answers.Webhooks))
def get_webhooks(request: Request, who: Hooker) -> dict[str, Any]:
    """All of them: an organisation has 20 at most."""
    return {"data": [_said(one) for one in _webhooks(request).all(who)]}


@router.post(
    "/webhooks",
    status_code=201,
    summary="Have a URL told what happens",
    responses=says(models_answers.WebhookMade, 201),
)
def post_webhook(request: Request, who: Hooker, body: NewWebhook) -> dict[str, Any]:
    """The answer alone has the secret that signs what it is told."""
    made, secret = _webhooks(request).create(who, body.url, body.events)
    return {**_said(made), "secret": secret}


@router.delete("/webhooks/{webhook_id}", status_code=204, summary="Tell a URL nothing any more")
def delete_webhook(request: Request, who: Hooker, webhook_id: str) -> Response:
    """What is under way may still come."""
    _webhooks(request).delete(who, webhook_id)
    return Response(status_code=204)
