"""What every request passes first: its id, limits on size, time and number, and headers that browsers obey."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterable
from math import ceil

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rios.accounts.values import Principal
from rios.gateway.app_tickets import shown_path
from rios.gateway.auth import buckets_of, principal_of
from rios.gateway.errors import answer
from rios.gateway.limits import Limiter, Room
from rios.gateway.metrics import Metrics
from rios.gateway.settings import GatewaySettings
from rios.words.errors import InvalidRequest, RiosError, TooManyRequests

log = logging.getLogger(__name__)

UNLIMITED = ("/live", "/ready", "/metrics")
_APPS = "/apps/"
DEPLOY = "deployments:write"
_LONG = (
    ("POST", re.compile(r"/v1/apps(/plan|/apply)?")),
    ("PATCH", re.compile(r"/v1/apps/[^/]+")),
)
"""What takes specifications."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# An id is for finding a request in the log, and no secret: random bytes for each would cost as much as its routing.
_PROCESS, _COUNT = secrets.token_hex(7), itertools.count()
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
# As ASGI has them: MutableHeaders looks through all for each of them, a twentieth of a small answer's time.
_RAW = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
_ROOM = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
_OURS = {b"x-request-id", *_ROOM}
_HSTS = (b"strict-transport-security", b"max-age=31536000")


class Protect:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, settings: GatewaySettings, limits: Limiter, app_limits: Limiter, metrics: Metrics
    ) -> None:
        """app_limits: of requests to applications."""
        self._app = app
        self._settings = settings
        self._limits = limits
        self._app_limits = app_limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        started = time.perf_counter()
        wanted = Headers(scope=scope).get("x-request-id", "")
        request.state.request_id = request_id = (
            wanted if _REQUEST_ID.fullmatch(wanted) else f"req-{_PROCESS}{next(_COUNT):010x}"
        )
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *_with_ours(message.get("headers", ()), https=scope["scheme"] == "https"),
                    (b"x-request-id", request_id.encode()),
                    *_room_said(getattr(request.state, "room", None)),
                ]
            await send(message)

        try:
            if scope["path"] not in UNLIMITED:
                address = scope["client"][0] if scope.get("client") else "unknown"
                request.state.known = who = _known(request)
                names = [f"address:{address}", *([] if who is None else buckets_of(who))]
                limits = self._app_limits if scope["path"].startswith(_APPS) else self._limits
                request.state.room = await limits.room(names)
                request.state.limited = names
            # The parser's own limit is for headers that come in pieces alone.
            if sum(len(name) + len(value) for name, value in scope["headers"]) > self._settings.header_bytes_max:
                raise HTTPException(431, f"the headers are longer than {self._settings.header_bytes_max} bytes")
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                raise HTTPException(400, "there is a NUL in the address, which no name of anything has")
            try:
                bounds = await self._bounds(request)
            except RiosError as error:
                await answer(request, error)(scope, receive, sent)
                return
            body = _Body(receive, bounds)
            body.check(Headers(scope=scope))
            await self._app(scope, body, sent)
        except TooManyRequests as error:
            await answer(request, error)(scope, receive, sent)
        except HTTPException as error:
            await answer(request, InvalidRequest(error.detail), status=error.status_code)(scope, receive, sent)
        finally:
            took_s = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.request(scope["method"], route, status, took_s)
            if log.isEnabledFor(logging.INFO):
                log.info(
                    "request",
                    extra={
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": shown_path(scope["path"]),
                        "status": status,
                        "took_ms": round(took_s * 1000, 1),
                    },
                )

    async def _bounds(self, request: Request) -> tuple[int, float]:
        """Bytes and seconds of a request's body. Raises NotSignedIn, NotAllowed, TooManyRequests.

        What says what an application is may hold a function, and so be longer than others: where it says beforehand how
        long it is, of who may deploy, and each `body_bytes_max` of it is counted as a request. Until that is known
        nothing of it is read.
        """
        settings = self._settings
        if request.scope["path"].startswith(_APPS):
            return settings.app_body_bytes_max, settings.app_body_timeout_s
        usual = settings.body_bytes_max, settings.body_timeout_s
        length = request.headers.get("content-length", "0")
        if not (length.isdecimal() and usual[0] < int(length) <= settings.deploy_body_bytes_max):
            return usual
        if not any(request.method == method and path.fullmatch(request.scope["path"]) for method, path in _LONG):
            return usual
        request.state.known = who = await principal_of(request)
        who.require(DEPLOY)
        request.state.limited = names = [*{*request.state.limited, *buckets_of(who)}]
        for _ in range(min(ceil(int(length) / usual[0]), settings.burst - 1)):
            request.state.room = await self._limits.room(names)
        return settings.deploy_body_bytes_max, settings.deploy_body_timeout_s


class _Body:
    """Receives a body within its bounds of size and time; disconnects come through."""

    def __init__(self, receive: Receive, bounds: tuple[int, float]) -> None:
        self._receive = receive
        self._bytes_max, self._timeout_s = bounds
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._bytes = 0
        self._whole = False

    def check(self, headers: Headers) -> None:
        """Refuse by its own word a body that is too long."""
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._bytes_max:
            raise self._too_long()

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not arrive within {self._timeout_s:g} s") from error
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._bytes_max:
                raise self._too_long()
            self._whole = not message.get("more_body", False)
        return message

    def _too_long(self) -> HTTPException:
        return HTTPException(413, f"the body is longer than {self._bytes_max} bytes")


def _known(request: Request) -> Principal | None:
    """Who asks, where that is known without asking anybody: one question to Redis instead of two."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        return None
    found: Principal | None = request.app.state.gate.accounts.tokens.known(token.strip())
    return found


def _with_ours(headers: Iterable[tuple[bytes, bytes]], *, https: bool) -> list[tuple[bytes, bytes]]:
    """An answer's headers, and ours where it has none of that name. Ids of requests and room are ours alone."""
    found = [pair for pair in headers if pair[0] not in _OURS]
    names = {name for name, _ in found}
    found += [pair for pair in _RAW if pair[0] not in names]
    return [*found, _HSTS] if https and _HSTS[0] not in names else found


def _room_said(room: Room | None) -> list[tuple[bytes, bytes]]:
    if room is None:
        return []
    values = (room.limit, room.remaining, ceil(room.reset_s))
    return [(name, b"%d" % value) for name, value in zip(_ROOM, values, strict=True)]
