"""The signed-in dashboard: the panels of JupyterLab for those who do not work in it, by the browser's own session."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from rios.accounts.values import Principal
from rios.gateway.auth import gate_of, require_recent
from rios.gateway.events import EventStream
from rios.gateway.forms import base_url, check_csrf, cookie, csrf_of, set_cookie, visitor
from rios.gateway.pages import POLICY, render
from rios.services.browser import Browsers
from rios.services.desk import Desk
from rios.services.feed import Event
from rios.services.oauth import Browser
from rios.services.tenant_network import TenantNetwork
from rios.words.errors import InvalidRequest, NotSignedIn, RiosError

router = APIRouter(prefix="/dashboard", include_in_schema=False)
DESKS_MAX = 200
# Who was signed out, or may less than before, hears no more after both together: 5 s, however much comes meanwhile.
_CHECK_S, _CHECK_MAX_S = 3.0, 2.0
_BODY_MAX = 1 << 16
_WAITING_MAX = 4_000
SCRIPTS = POLICY.replace("style-src", "script-src 'self'; connect-src 'self'; style-src")
_NO_STORE = {"Cache-Control": "no-store"}


class Desks:
    """The panels of those who look, by session; where there are too many, the longest unused that nobody follows is
    closed.

    A panel has the rights that its user had when it was made, and is closed when these are others.
    """

    def __init__(self) -> None:
        self._desks: OrderedDict[str, tuple[Principal, Desk]] = OrderedDict()

    def of(self, request: Request, browser: Browser) -> Desk:
        """The panel of a session."""
        found = self.now(browser)
        if found is None:
            if browser.session_id in self._desks:
                self._desks.pop(browser.session_id)[1].close()
            gate, who = gate_of(request), browser.who
            recent = partial(require_recent, gate, request.app.state.settings, who)
            network = TenantNetwork(gate, who, address=base_url(request), recent=recent)
            found = Desk(lambda: network, kind="local", allowed=browser.who.require)
            self._desks[browser.session_id] = (browser.who, found)
        self._desks.move_to_end(browser.session_id)
        while len(self._desks) > DESKS_MAX:
            before = list(self._desks)[:-1]
            idle = (session for session in before if not self._desks[session][1].feed.followed)
            self._desks.pop(next(idle, before[0]))[1].close()
        return found

    def now(self, browser: Browser) -> Desk | None:
        """The panel that a session has, where its user may still what it may; None else."""
        who, desk = self._desks.get(browser.session_id, (None, None))
        return desk if who == browser.who else None


async def _browser(request: Request) -> Browser | None:
    return await run_in_threadpool(Browsers(gate_of(request).accounts).browser, cookie(request, "session"))


async def _desk(request: Request) -> Desk:
    """The panel of who is signed in. Raises NotSignedIn."""
    found = await _browser(request)
    if found is None or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise NotSignedIn("nobody is signed in in this browser; reload the page to sign in")
    return _desks(request).of(request, found)


def _desks(request: Request) -> Desks:
    if not hasattr(request.app.state, "desks"):
        request.app.state.desks = Desks()
    desks: Desks = request.app.state.desks
    return desks


@router.get("", response_class=HTMLResponse)
async def get_dashboard(request: Request) -> Response:
    """The page, or the way to sign in."""
    if await _browser(request) is None:
        return RedirectResponse(f"/login?{urlencode({'next': '/dashboard'})}", 303)
    secret, new = visitor(request)
    response = HTMLResponse(
        render("dashboard", csrf=csrf_of(secret)), headers={"Content-Security-Policy": SCRIPTS, **_NO_STORE}
    )
    if new:
        set_cookie(request, response, "visitor", secret)
    return response


@router.get("/panel/events")
async def get_events(request: Request, last: str = "") -> Response:
    """Server-sent events of the panel, from the event `last` on."""
    desk = await _desk(request)
    return EventStream(_follow(request, desk, last or None))


@router.get("/panel/file")
async def get_file(request: Request) -> Response:
    """A file of a report."""
    desk = await _desk(request)
    status, content, headers = await run_in_threadpool(desk.file, dict(request.query_params))
    return Response(content, status, headers)


@router.get("/panel/{what:path}")
async def get_panel(request: Request, what: str) -> Response:
    """What the panel shows."""
    desk = await _desk(request)
    status, found = await run_in_threadpool(desk.ask, "GET", what, dict(request.query_params))
    return JSONResponse(found, status, _NO_STORE)


@router.post("/panel/{what:path}")
async def post_panel(request: Request, what: str) -> Response:
    """What the panel does, where this gateway's own page asked for it."""
    desk = await _desk(request)
    check_csrf(request, {"csrf": request.headers.get("x-rios-csrf", "")})
    body = await request.body()
    try:
        given = json.loads(body or b"{}") if len(body) <= _BODY_MAX else None
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("the body must be a JSON object")
    status, found = await run_in_threadpool(desk.ask, "POST", what, given)
    return JSONResponse(found, status, _NO_STORE)


async def _follow(request: Request, desk: Desk, last: str | None) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Event] = asyncio.Queue()

    def hear(event: Event) -> None:
        loop.call_soon_threadsafe(waiting.put_nowait, event)

    end = desk.feed.follow(hear, last)
    try:
        yield b": rios\n\n"
        check_at = loop.time() + _CHECK_S
        while waiting.qsize() < _WAITING_MAX:
            left_s = check_at - loop.time()
            if left_s <= 0:
                if not await _still(request, desk):
                    return
                check_at = loop.time() + _CHECK_S
                yield b": alive\n\n"
                continue
            try:
                event = await asyncio.wait_for(waiting.get(), left_s)
            except TimeoutError:
                continue
            yield f"id: {event.id}\nevent: {event.name}\ndata: {event.data}\n\n".encode()
    finally:
        end()


async def _still(request: Request, desk: Desk) -> bool:
    """Whether a panel is still that of who is signed in. Where nobody can tell, it is not: the page asks again."""
    asked = asyncio.ensure_future(_browser(request))
    # Cancelling does not end a thread that waits for a database, so it is left alone instead.
    done, _ = await asyncio.wait({asked}, timeout=_CHECK_MAX_S)
    if not done:
        asked.add_done_callback(lambda late: late.cancelled() or late.exception())
        return False
    try:
        found = asked.result()
    except RiosError:
        return False
    return found is not None and _desks(request).now(found) is desk
