"""ETags: who asks again for what has not changed gets 304 and no body (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BYTES_MAX = 1 << 20


class Tagged:
    """ASGI middleware: answers to GET under /v1 that are whole and not long get a tag made of their bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] == 200:
                start = message
                return
            if start is not None:
                head, start = start, None
                body = message.get("body", b"")
                headers = MutableHeaders(scope=head)
                if not message.get("more_body", False) and len(body) <= _BYTES_MAX and "etag" not in headers:
                    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
                    headers["ETag"] = tag
                    if _matches(Headers(scope=scope).get("if-none-match", ""), tag):
                        del headers["content-length"]
                        head["status"], message = 304, {"type": "http.response.body", "body": b""}
                await send(head)
            await send(message)

        await self._app(scope, receive, sent)


def _matches(wanted: str, tag: str) -> bool:
    """Whether a list of tags names this one; weak ones too, which here say the same."""
    given = [one.strip().removeprefix("W/") for one in wanted.split(",")]
    return "*" in given or tag in given
