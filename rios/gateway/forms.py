"""Forms of browsers and programs: read within bounds, and believed only where this gateway's own page was filled in.

A form that changes something carries a value that is derived from a cookie which no other site can read
(`csrf_of`); what a browser says about where the form came from must not contradict it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response

from rios.gateway.settings import GatewaySettings
from rios.words.errors import InvalidRequest, NotAllowed

_FORM = "application/x-www-form-urlencoded"
_FIELDS_MAX = 50
_VISIT_S = 12 * 3600


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; none where the body is no form. Raises InvalidRequest for a field that comes twice."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return {}
    return fields(await request.body())


def query_of(request: Request) -> dict[str, str]:
    """The parameters of the address. Raises InvalidRequest for one that comes twice."""
    return fields(request.scope["query_string"])


def fields(data: bytes) -> dict[str, str]:
    """The fields of a form as it is sent. Raises InvalidRequest for one that comes twice, or is not text."""
    try:
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError as error:
        raise InvalidRequest(f"the form cannot be read; it has at most {_FIELDS_MAX} fields of UTF-8") from error
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("a field of the form comes twice")
    if any("\0" in value for value in found.values()):
        raise InvalidRequest("a field of the form has a NUL")
    return found


Form = Annotated[dict[str, str], Depends(form_of)]


def base_url(request: Request) -> str:
    """Where this gateway is: `RIOS_GATEWAY_URL`, else the address at which the request arrived.

    Never the Host header, which the client chooses: links in mails are made of it.
    """
    settings: GatewaySettings = request.app.state.settings
    if settings.url:
        return settings.url.rstrip("/")
    host, port = request.scope["server"]
    name = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[request.scope["scheme"]]
    return f"{request.scope['scheme']}://{name}" + ("" if port == usual else f":{port}")


def cookie_name(request: Request, what: str) -> str:
    """The name of a cookie. With TLS it is for this host alone; without, ports of one machine do not share it."""
    if request.scope["scheme"] == "https":
        return f"__Host-rios-{what}"
    return f"rios-{what}-{request.scope['server'][1]}"


def cookie(request: Request, what: str) -> str:
    """What a browser showed."""
    return request.cookies.get(cookie_name(request, what), "")


def set_cookie(request: Request, response: Response, what: str, value: str) -> None:
    """Have a browser keep something that no script and no other site reads; "" takes it away."""
    response.set_cookie(
        cookie_name(request, what), value, max_age=_VISIT_S if value else 0, path="/", httponly=True, samesite="lax",
        secure=request.scope["scheme"] == "https",
    )  # fmt: skip


def visitor(request: Request) -> tuple[str, bool]:
    """The secret of a browser, and whether it is a new one that has to be set."""
    known = cookie(request, "visitor")
    return (known, False) if known else (secrets.token_urlsafe(32), True)


def csrf_of(secret: str) -> str:
    """What a form of a page carries, for the browser with this secret."""
    return hmac.new(secret.encode(), b"rios form", hashlib.sha256).hexdigest()


def check_csrf(request: Request, form: dict[str, Any]) -> None:
    """Raise NotAllowed unless this gateway's own page was filled in, in the same browser."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    known = cookie(request, "visitor")
    if site not in ("same-origin", "none") or not known:
        raise NotAllowed("this form did not come from a page of this gateway; open the page again")
    if not hmac.compare_digest(str(form.get("csrf", "")).encode(), csrf_of(known).encode()):
        raise NotAllowed("this form is of another browser, or too old; open the page again")
