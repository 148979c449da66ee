"""Pages for users: signing in, saying yes to programs, links of mails. They need no script."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from rios.gateway.answers.oauth import form
from rios.gateway.auth import gate_of
from rios.gateway.errors import status_of
from rios.gateway.forms import (
    Form,
    base_url,
    check_csrf,
    cookie,
    csrf_of,
    fields,
    query_of,
    set_cookie,
    visitor,
)
from rios.gateway.pages import POLICY, render
from rios.gateway.routes.oauth import oauth_of
from rios.services.browser import Browsers
from rios.services.oauth import Browser, SentBack
from rios.services.openid import OpenId
from rios.services.people import People
from rios.words.errors import InvalidRequest, NotFound, NotSignedIn, RiosError

router = APIRouter(tags=["pages"])
_PAGE_OR_PROBLEM = {
    "text/html": {"schema": {"type": "string"}},
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    303: {"description": "Go on elsewhere."},
    "default": {"description": "What is wrong.", "content": _PAGE_OR_PROBLEM},
}
_HOME = "/account"
_PLACES = (_HOME, "/dashboard", "/oauth/authorize", "/oauth/device")


def _page(function: Callable[..., Response]) -> Callable[..., Response]:
    """Errors are pages, too."""

    @functools.wraps(function)
    def run(request: Request, *args: Any, **kwargs: Any) -> Response:
        try:
            return function(request, *args, **kwargs)
        except SentBack as back:
            return RedirectResponse(back.location, 303)
        except RiosError as error:
            status = status_of(error)
            if status == 500:
                raise
            return shown(request, "message", status, title="That did not work", said=str(error), wrong=True)

    return run


def shown(
    request: Request, name: str, status: int = 200, *, said: str = "", wrong: bool = False, to: str = "", **values: Any
) -> Response:
    """A page with a form. to: where the answer to it may lead, besides this gateway."""
    secret, new = visitor(request)
    text = render(f"form_{name}", csrf=csrf_of(secret), said=said, wrong=wrong, **values)
    policy = POLICY.replace("form-action 'self'", f"form-action 'self' {to}") if to else POLICY
    response = HTMLResponse(text, status, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})
    if new:
        set_cookie(request, response, "visitor", secret)
    return response


def _get(path: str, summary: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return router.get(path, summary=summary, response_class=HTMLResponse, responses=_ANSWERS)


def _post(path: str, summary: str, *fields: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """fields: those of the form besides `csrf`."""
    taken = form("csrf", *fields)
    return router.post(path, summary=summary, response_class=HTMLResponse, responses=_ANSWERS, openapi_extra=taken)


def safe_next(wanted: str) -> str:
    """Where to go after a sign-in: a page of this gateway that asked for it, whatever a link says."""
    known = urlsplit(wanted).path in _PLACES and wanted.startswith(_PLACES)
    return wanted if known and wanted.isascii() and wanted.isprintable() and "\\" not in wanted else _HOME


def _browsers(request: Request) -> Browsers:
    return Browsers(gate_of(request).accounts)


def _browser(request: Request) -> Browser | None:
    return _browsers(request).browser(cookie(request, "session"))


def _must(request: Request) -> Browser:
    found = _browser(request)
    if found is None:
        raise SentBack(_login(request))
    return found


def _login(request: Request) -> str:
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/login?{urlencode({'next': here})}"


def _outside(request: Request) -> OpenId | None:
    found: OpenId | None = request.app.state.openid
    return found


def _outside_name(request: Request) -> str:
    found = _outside(request)
    return "" if found is None else found.provider.name


def _entered(request: Request, secret: str, next_: str) -> Response:
    """Signed in: with new cookies, so that none that somebody else put there is worth anything."""
    response = RedirectResponse(safe_next(next_), 303)
    old = _browser(request)
    if old is not None:
        _browsers(request).sign_out(old)
    set_cookie(request, response, "session", secret)
    set_cookie(request, response, "visitor", secrets.token_urlsafe(32))
    return response


# --- signing in


@_get("/login", "The page to sign in")
@_page
def get_login(request: Request) -> Response:
    """A form for login and password."""
    next_ = safe_next(query_of(request).get("next", ""))
    return shown(request, "login", next=next_, outside=_outside_name(request))


@_post("/login", "Sign in in a browser", "login", "password", "next")
@_page
def post_login(request: Request, form: Form) -> Response:
    """Sets a cookie, and goes on."""
    check_csrf(request, form)
    next_ = form.get("next", "")
    client = request.headers.get("user-agent", "")
    try:
        secret = _browsers(request).sign_in(form.get("login", ""), form.get("password", ""), client=client)
    except NotSignedIn as error:
        return shown(
            request, "login", 401, next=safe_next(next_), outside=_outside_name(request), said=str(error), wrong=True
        )
    return _entered(request, secret, next_)


@_post("/logout", "Sign out")
@_page
def post_logout(request: Request, form: Form) -> Response:
    """Ends the session of this browser."""
    check_csrf(request, form)
    browser = _browser(request)
    if browser is not None:
        _browsers(request).sign_out(browser)
    response = RedirectResponse("/login", 303)
    set_cookie(request, response, "session", "")
    return response


@_post("/login/outside", "Sign in through another provider", "next")
@_page
def post_outside(request: Request, form: Form) -> Response:
    """Goes there; who is signed in already links the account there."""
    check_csrf(request, form)
    openid = _outside(request)
    if openid is None:
        raise NotFound("there is no other provider to sign in through")
    place = openid.begin(
        back=f"{base_url(request)}/login/outside",
        visitor=cookie(request, "visitor"),
        next_=safe_next(form.get("next", "")),
        browser=_browser(request),
    )
    return RedirectResponse(place, 303)


@_get("/login/outside", "Where another provider sends the browser back")
@_page
def get_outside(request: Request) -> Response:
    """Sets a cookie, and goes on."""
    openid = _outside(request)
    if openid is None:
        raise NotFound("there is no other provider to sign in through")
    browser = _browser(request)
    user_id, next_ = openid.end(query_of(request), visitor=cookie(request, "visitor"), browser=browser)
    if browser is not None and browser.who.user_id == user_id:
        return RedirectResponse(safe_next(next_), 303)
    return _entered(request, _browsers(request).open(user_id, client=request.headers.get("user-agent", "")), next_)


# --- programs


@_get("/oauth/authorize", "A program asks a user for access")
@_page
def get_authorize(request: Request) -> Response:
    """RFC 6749, section 3.1; with PKCE, by S256 alone. Asks the user, who signs in first."""
    parameters, issuer = query_of(request), base_url(request)
    browser = _browser(request)
    question = oauth_of(request).question(parameters, browser, issuer)
    if browser is None:
        return RedirectResponse(_login(request), 303)
    return _asked(request, question, browser, action="/oauth/authorize", asked=urlencode(parameters))


@_post("/oauth/authorize", "The user's word", "decision", "request")
@_page
def post_authorize(request: Request, form: Form) -> Response:
    """Goes back to the program, with a code or a refusal."""
    check_csrf(request, form)
    browser = _must(request)
    parameters = _asked_for(form)
    allowed = form.get("decision") == "allow"
    return RedirectResponse(oauth_of(request).decide(parameters, browser, base_url(request), allowed=allowed), 303)


@_get("/oauth/device", "Where a user types the code of a program")
@_page
def get_device(request: Request) -> Response:
    """RFC 8628: the page that `rios login` names."""
    browser, code = _must(request), query_of(request).get("user_code", "")
    if not code:
        return shown(request, "device")
    row = oauth_of(request).store.waiting(code)
    if row is None:
        said = "no program waits with this code: it is mistyped, was used, or is too old"
        return shown(request, "device", 404, said=said, wrong=True)
    question = oauth_of(request).device_question(row, browser)
    return _asked(request, question, browser, action="/oauth/device", asked=row["user_code"], code=row["user_code"])


@_post("/oauth/device", "The user's word about a program that waits", "decision", "request")
@_page
def post_device(request: Request, form: Form) -> Response:
    """The program gets its tokens, or is refused."""
    check_csrf(request, form)
    browser, allowed = _must(request), form.get("decision") == "allow"
    oauth = oauth_of(request)
    row = oauth.store.waiting(form.get("request", ""))
    if row is None:
        raise NotFound("no program waits with this code: it was used, or is too old")
    oauth.device_question(row, browser)  # whether this user may
    if not oauth.store.decide_device(browser.who, row, approved=allowed):
        raise NotFound("somebody has answered this program already")
    said = "The program is connected; you may close this page." if allowed else "The program was refused."
    return shown(request, "message", title="Connected" if allowed else "Refused", said=said)


def _asked(request: Request, question: Any, browser: Browser, *, action: str, asked: str, code: str = "") -> Response:
    parts = urlsplit(question.redirect_uri)
    to = f"{parts.scheme}://{parts.netloc}" if parts.scheme else ""
    return shown(
        request, "consent", question=question, login=browser.who.login, action=action, asked=asked, user_code=code,
        to=to,
    )  # fmt: skip


def _asked_for(form: dict[str, str]) -> dict[str, str]:
    return fields(form.get("request", "").encode("ascii", "replace"))


# --- accounts


@_get("/account", "The own account")
@_page
def get_account(request: Request) -> Response:
    """Who is signed in, and where else."""
    browser, accounts = _must(request), gate_of(request).accounts
    return shown(
        request, "account", user=accounts.user(browser.who, browser.who.user_id), here=browser.session_id,
        sessions=accounts.tokens.sessions(browser.who), outside=_outside_name(request),
    )  # fmt: skip


@_post("/account/sessions", "End a session", "session_id")
@_page
def post_account_session(request: Request, form: Form) -> Response:
    """All its tokens end within 5 seconds."""
    check_csrf(request, form)
    browser = _must(request)
    gate_of(request).accounts.tokens.revoke_session(browser.who, form.get("session_id", ""))
    return RedirectResponse(_HOME, 303)


@_get("/account/forgot", "The page for who has forgotten the password")
@_page
def get_forgot(request: Request) -> Response:
    """A form for the login."""
    return shown(request, "forgot")


@_post("/account/forgot", "Ask for a link by mail", "login")
@_page
def post_forgot(request: Request, form: Form) -> Response:
    """The answer is the same whether there is such a user or not."""
    check_csrf(request, form)
    People(gate_of(request).accounts).forgot(form.get("login", ""), url=base_url(request))
    said = "If there is such an account with a confirmed address, a link is on its way there."
    return shown(request, "message", title="Look into your mail", said=said)


@_get("/account/reset", "The page to choose a password")
@_page
def get_reset(request: Request) -> Response:
    """A form for the new password."""
    return shown(request, "reset", ticket=_ticket(query_of(request)))


@_post("/account/reset", "Choose a password", "ticket", "password")
@_page
def post_reset(request: Request, form: Form) -> Response:
    """All sessions end; the link is used up."""
    check_csrf(request, form)
    try:
        People(gate_of(request).accounts).reset(_ticket(form), form.get("password", ""))
    except InvalidRequest as error:
        return shown(request, "reset", 400, ticket=_ticket(form), said=str(error), wrong=True)
    return shown(request, "message", title="Done", said="The new password is kept; sign in with it.")


@_get("/account/confirm", "The page to confirm an address")
@_page
def get_confirm(request: Request) -> Response:
    """A button: programs that look into mails press none."""
    return shown(request, "confirm", ticket=_ticket(query_of(request)))


@_post("/account/confirm", "Confirm an address", "ticket")
@_page
def post_confirm(request: Request, form: Form) -> Response:
    """The link is used up."""
    check_csrf(request, form)
    People(gate_of(request).accounts).confirm(_ticket(form))
    return shown(request, "message", title="Done", said="The address is confirmed.")


def _ticket(given: dict[str, str]) -> str:
    found = given.get("ticket", "")
    if not found:
        raise InvalidRequest("the link is not whole; copy all of it from the mail")
    return found


PAGES = frozenset(
    (method, route.path) for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()
)
"""All of them: who is signed in, they find out by a cookie."""
