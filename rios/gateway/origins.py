"""Web pages of other origins that may ask the gateway: none, unless the operator names them.

They ask with a token as every program does. What a browser keeps for this gateway, its own pages' cookies, is of no use
to them: it is not sent along.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from rios.words.errors import InvalidRequest

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ASKED = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Request-Id")
_ANSWERED = (
    "ETag", "Idempotent-Replayed", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
    "X-Request-Id",
)  # fmt: skip
_REMEMBERED_S = 600


def origins_of(text: str) -> tuple[str, ...]:
    """Origins by commas, such as "https://lab.example, http://localhost:3000". Raises InvalidRequest.

    None is "*": who opens a gateway to pages says to which.
    """
    found = tuple(one.strip().lower() for one in text.split(",") if one.strip())
    for one in found:
        if not _is_origin(one):
            raise InvalidRequest(
                f"RIOS_GATEWAY_ORIGINS has {one!r}, which is no origin: write such as https://lab.example, with the "
                "port where it is another than usual, and no path"
            )
    return found


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    whole = text == f"{parts.scheme}://{parts.netloc}" and parts.scheme in ("http", "https")
    return whole and bool(host) and port != 0 and not set(text) & set("*@\\ ")


class Origins(CORSMiddleware):
    """Answers what browsers ask before they let a page of another origin ask, and lets it read the answer."""

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=_METHODS, allow_headers=_ASKED, expose_headers=_ANSWERED,
            allow_credentials=False, max_age=_REMEMBERED_S,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what an application tells browsers is left to it."""
        if scope["type"] == "http" and scope["path"].startswith("/apps/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
