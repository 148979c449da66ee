"""`/apps/NAME/...`: requests to applications, with the platform's authentication or for everybody.

What answers is a stranger's program under the gateway's address. So it gets no token and no cookie of the gateway and
sets none, and its pages run in an origin of their own (Content-Security-Policy: sandbox), which browsers call "null".
What such a page loads and asks for comes from there, so answers say that this origin may have them: it has no cookies,
and whoever may not ask is refused before.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect, WebSocketState

from rios.accounts.values import Principal
from rios.gateway.app_tickets import MARK, shown_path
from rios.gateway.auth import buckets_of, gate_of
from rios.gateway.errors import answer
from rios.services.deployments.proxy import Proxy
from rios.services.deployments.routing import Route, Routes
from rios.services.deployments.sockets import Refused
from rios.words.errors import NotFound, NotSignedIn, RiosError

log = logging.getLogger(__name__)
router = APIRouter()
_METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
_SANDBOX = b"sandbox allow-scripts allow-forms allow-popups allow-downloads"
_NOT_ASKED = frozenset((b"authorization", b"cookie", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"))
_NOT_SAID = frozenset(
    (
        b"set-cookie", b"content-security-policy", b"strict-transport-security", b"clear-site-data",
        b"cross-origin-resource-policy", b"referrer-policy",
    )
)  # fmt: skip
_SAID = (
    (b"content-security-policy", _SANDBOX), (b"cross-origin-resource-policy", b"cross-origin"),
    (b"referrer-policy", b"no-referrer"),
)  # fmt: skip
_NO_ORIGIN = b"null"
_OPENED = (
    (b"access-control-allow-origin", _NO_ORIGIN), (b"access-control-expose-headers", b"*"), (b"vary", b"Origin"),
)  # fmt: skip
_REMEMBERED_S = b"600"


class _Forwarded(Response):
    """The answer of an application, streamed."""

    def __init__(self, proxy: Proxy, route: Route, path: str) -> None:
        super().__init__()
        self._proxy, self._route, self._path = proxy, route, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request of `scope`."""
        asked = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name not in _NOT_ASKED]}
        own = (b"origin", _NO_ORIGIN) in scope["headers"]
        # Of an application's own pages the gateway speaks; to pages elsewhere it says what it likes by itself.
        left_out = _NOT_SAID | {name for name, _ in _OPENED[:2] if own}
        added = (*_SAID, *(_OPENED if own else ()))

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name not in left_out]
                message = {**message, "headers": [*headers, *added]}
            await send(message)

        await self._proxy.forward(self._route, asked, receive, said, path=self._path)


@router.api_route("/apps/{name}", methods=_METHODS, include_in_schema=False)
async def at_root(request: Request, name: str) -> Response:
    """Relative links of an application need the slash."""
    asked = request.url.query
    return RedirectResponse(f"/apps/{name}/{'?' if asked else ''}{asked}", status_code=308)


@router.api_route("/apps/{name}/{path:path}", methods=_METHODS, include_in_schema=False)
async def forwarded(request: Request, name: str, path: str) -> Response:
    """Whatever an application answers."""
    if request.method == "OPTIONS" and _asks_first(request):
        return _allowed(request)
    return _Forwarded(*await _found(request, name))


def _asks_first(request: Request) -> bool:
    """Whether a browser asks if a page of an application may ask; no application expects that of its own pages."""
    headers = request.headers
    return headers.get("origin") == _NO_ORIGIN.decode() and "access-control-request-method" in headers


def _allowed(request: Request) -> Response:
    """Nothing is told by it: the request itself is refused to who may not make it."""
    asked = {name: value for name, value in request.scope["headers"] if name.startswith(b"access-control-request-")}
    headers = [*_OPENED, (b"access-control-max-age", _REMEMBERED_S)]
    headers.append((b"access-control-allow-methods", ", ".join(_METHODS).encode()))
    if wanted := asked.get(b"access-control-request-headers"):
        headers.append((b"access-control-allow-headers", wanted))
    found = Response(status_code=204)
    found.raw_headers = headers
    return found


async def _found(asked: HTTPConnection, name: str) -> tuple[Proxy, Route, str]:
    """What forwards, where to, and the path there. Raises NotSignedIn, NotAllowed, NotFound, TooManyRequests."""
    platform = await run_in_threadpool(gate_of(asked).network._apps)
    if name.startswith(MARK):
        who, app_id = await run_in_threadpool(asked.app.state.tickets.taken, name)
        await _room(asked, who)
        who.require("generate")
        route = platform.routes.of(app_id)
        if route is not None and route.app.organisation_id != who.organisation_id:
            route = None
        name = app_id if route is None else route.app.name
    else:
        who = await _who(asked)
        route = _route(platform.routes, who, name)
    if route is None and who is None:
        raise NotSignedIn("there is no token, and no public application of that name: send `Authorization: Bearer ...`")
    if route is None:
        raise NotFound(f"there is no application {name!r}; GET /v1/apps lists those that there are")
    proxy: Proxy | None = getattr(asked.app.state, "proxy", None)
    if proxy is None:
        proxy = asked.app.state.proxy = Proxy(platform.routes)
    raw = asked.scope["raw_path"].decode("ascii").partition("?")[0]
    return proxy, route, "/" + raw.split("/", 3)[3]


@router.websocket("/apps/{name}/{path:path}")
async def socket(websocket: WebSocket, name: str, path: str) -> None:
    """A WebSocket to an application, for those who may ask it by HTTP."""
    scope = websocket.scope
    refused: Response | None = None
    try:
        websocket.state.limited = [f"address:{scope['client'][0] if scope.get('client') else 'unknown'}"]
        await websocket.app.state.app_limits.room(websocket.state.limited)
        proxy, route, path = await _found(websocket, name)
        scope["headers"] = [(key, value) for key, value in scope["headers"] if key not in _NOT_ASKED]
        await proxy.forward_socket(route, scope, websocket.receive, _sender(websocket), path=path)
    except Refused as error:
        said = {"type": "urn:rios:error:NotReady", "title": "no replica answers", "status": error.status}
        refused = JSONResponse({**said, "detail": str(error)}, error.status, media_type="application/problem+json")
    except RiosError as error:
        refused = answer(websocket, error)
    if refused is not None:
        if websocket.client_state is WebSocketState.CONNECTING:
            await websocket.receive()
        await websocket.send_denial_response(refused)
    log.info(
        "socket", extra={"path": shown_path(scope["path"]), "status": 101 if refused is None else refused.status_code}
    )


def _sender(websocket: WebSocket) -> Send:
    async def send(message: Message) -> None:
        try:
            await websocket.send(message)
        except WebSocketDisconnect as error:
            raise ConnectionResetError("whoever opened the socket has gone") from error

    return send


async def close(app: FastAPI) -> None:
    """Close the connections to applications."""
    proxy: Proxy | None = getattr(app.state, "proxy", None)
    if proxy is not None:
        await proxy.close()


def _route(routes: Routes, who: Principal | None, name: str) -> Route | None:
    """The application of the own organisation, else a public one."""
    own = None if who is None else routes.find(who.organisation_id, name)
    return own or routes.public(name)


async def _who(request: HTTPConnection) -> Principal | None:
    """Who asks, where somebody says so. Raises NotSignedIn for a token that is none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        return None
    tokens = gate_of(request).accounts.tokens
    found = tokens.known(token.strip())
    if found is None:
        found = await run_in_threadpool(tokens.authenticate, token.strip())
    await _room(request, found)
    found.require("generate")
    return found


async def _room(request: HTTPConnection, who: Principal) -> None:
    wanted = [name for name in buckets_of(who) if name not in request.state.limited]
    if wanted:
        request.state.room = await request.app.state.app_limits.room(wanted)
