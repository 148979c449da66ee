"""`Idempotency-Key` on every request that spends, makes or changes something: done once, answered alike ever after."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rios.gateway.errors import answer as error_answer
from rios.gateway.events import unless_gone
from rios.services.once import ANSWER_MAX, Answer, Begun, Once
from rios.words.errors import Cancelled, InvalidRequest, NotSignedIn, QueueFull, RiosError

log = logging.getLogger(__name__)

HEADER = "idempotency-key"
KEY_MAX = 200
_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Signing in has secrets of its own that are good once.
_NOT_HERE = ("/v1/sessions",)
_WAIT_S, _LOOK_S = 30.0, 0.1
_KEPT_HEADERS = frozenset({"content-type", "location", "etag"})


def request_id(request: Request, place: int) -> str | None:
    """The id that the generation number `place` of a request has to have; None where any will do."""
    begun: Begun | None = request.scope.get("rios.once")
    return None if begun is None else begun.request_id(place)


def goes_on(request: Request, ended: Callable[[], Awaitable[object]]) -> None:
    """The request's work goes on until `ended` returns: where this gateway dies before, it is done anew by another."""
    begun: Begun | None = request.scope.get("rios.once")
    if begun is None:
        return
    request.scope["rios.goes_on"] = True
    once: Once = request.app.state.gate.once

    async def wait() -> None:
        try:
            await ended()
        except RiosError:
            log.debug("what went on has failed")
        await run_in_threadpool(once.finish, begun)

    task = asyncio.ensure_future(wait())
    _waiting.add(task)
    task.add_done_callback(_waiting.discard)


_waiting: set[asyncio.Future[None]] = set()
"""So that they are not collected before they have ended."""


class Idempotent:
    """ASGI middleware, within `Protect`, which has bounded the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        token = _token(scope) if key else ""
        path = scope.get("path", "")
        wanted = key and token and scope["method"] in _METHODS
        if not wanted or not path.startswith("/v1/") or path.startswith(_NOT_HERE):
            await self._app(scope, receive, send)
            return
        assert key is not None
        request = Request(scope)
        state = scope["app"].state
        try:
            if not (len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
                raise InvalidRequest(f"an Idempotency-Key has 1 to {KEY_MAX} printable ASCII characters")
            tokens = state.gate.accounts.tokens
            who = tokens.known(token) or await run_in_threadpool(tokens.authenticate, token)
        except NotSignedIn:
            await self._app(scope, receive, send)  # which says so
            return
        except RiosError as error:
            await error_answer(request, error)(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return
        once: Once = state.gate.once
        digest = _digest(scope, body)
        try:
            found = await unless_gone(receive, _begin(once, who.user_id, key, digest, token))
        except Cancelled:
            return
        except RiosError as error:
            await error_answer(request, error)(scope, receive, send)
            return
        if isinstance(found, Answer):
            headers = {**dict(found.headers), "Idempotent-Replayed": "true"}
            await Response(found.body, found.status, headers)(scope, receive, send)
            return
        scope["rios.once"] = found
        await self._do(once, found, token, scope, _Again(body, receive), send)

    async def _do(self, once: Once, begun: Begun, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it done, and record the answer before its end is sent: who has it can have it again."""
        start: Message | None = None
        status, kept, whole = 0, bytearray(), False
        headers: tuple[tuple[str, str], ...] = ()
        unrecorded: RiosError | None = None

        async def sent(message: Message) -> None:
            nonlocal start, status, headers, whole, unrecorded
            if unrecorded is not None:
                return
            if message["type"] == "http.response.start":
                start, status = message, message["status"]
                raw = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
                headers = tuple(pair for pair in raw if pair[0] in _KEPT_HEADERS)
                return
            if len(kept) <= ANSWER_MAX:
                kept.extend(message.get("body", b""))
            if not message.get("more_body", False) and 200 <= status < 300:
                found = Answer(status=status, headers=headers, body=bytes(kept))
                try:
                    await run_in_threadpool(once.done, begun, found, token=token, goes_on="rios.goes_on" in scope)
                except RiosError as error:  # the routes believe that they have answered, and are not told otherwise
                    unrecorded = error
                    return
                whole = True
            if start is not None:
                head, start = start, None
                await send(head)
            await send(message)

        try:
            await self._app(scope, receive, sent)
            if unrecorded is not None:
                raise unrecorded
        except RiosError as error:
            if start is None:
                raise
            await error_answer(Request(scope), error)(scope, receive, send)  # nothing was sent yet
        finally:
            if not whole:
                await asyncio.shield(_released(once, begun))


async def _begin(once: Once, user_id: str, key: str, digest: str, token: str) -> Begun | Answer:
    """Begin it, or wait for who does it now."""
    deadline = asyncio.get_running_loop().time() + _WAIT_S
    while True:
        found = await run_in_threadpool(once.begin, user_id, key, digest, token=token)
        if found is not None:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise QueueFull(f"the request of the Idempotency-Key {key!r} still runs; ask again with the same key")
        await asyncio.sleep(_LOOK_S)


async def _released(once: Once, begun: Begun) -> None:
    try:
        await run_in_threadpool(once.release, begun)
    except RiosError as error:
        log.warning("a key is free when its lease is over", extra={"reason": str(error)})


async def _whole(receive: Receive) -> bytes | None:
    """The body; None where the client went away."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class _Again:
    """Gives a body that was read already, and then what comes after it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _token(scope: Scope) -> str:
    kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _digest(scope: Scope, body: bytes) -> str:
    parts: tuple[Any, ...] = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()
