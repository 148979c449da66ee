"""Answers of gateways in this process, held to what the OpenAPI document says of them: nothing less, nothing more."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCHEMAS = "#/components/schemas/"


def strict(schema: Any) -> Any:
    """The same schema, with no field beside those that it names."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: value if name in ("examples", "example") else strict(value) for name, value in schema.items()}
    if found.get("type") == "object" and "additionalProperties" not in found:
        found["additionalProperties"] = False
    return found


class Sayings:
    """What a document says of answers."""

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._components = strict(specification["components"])
        self._operations = specification["paths"]
        # The plainest first: /v1/users/me is not /v1/users/{user_id}.
        self._paths = [
            (re.compile(re.sub(r"\\\{[^/]*?\\\}", "[^/]+", re.escape(path))), path)
            for path in sorted(specification["paths"], key=lambda path: (path.count("{"), path))
        ]
        self._validator = cache(self._made)

    def wrong(self, method: str, path: str, status: int, kind: str, body: bytes) -> str | None:
        """What is wrong with an answer; None where it is as the document says, or the document says nothing of it."""
        place = next((place for pattern, place in self._paths if pattern.fullmatch(path)), None)
        if place is None or method.lower() not in self._operations[place]:
            return None
        validator = self._validator(place, method.lower(), str(status), kind)
        if validator is None:
            return f"{method} {place} answers {status} as {kind}, of which the document says nothing"
        error = next(iter(validator.iter_errors(json.loads(body))), None)
        return error and f"{method} {place} answers {status} off its schema at {error.json_path}: {error.message[:300]}"

    def _made(self, place: str, method: str, status: str, kind: str) -> Draft202012Validator | None:
        answers = self._operations[place][method]["responses"]
        media = answers.get(status, answers["default"]).get("content", {}).get(kind)
        if media is None and int(status) >= 400:
            media = answers["default"].get("content", {}).get(kind)
        if media is None:
            return None
        return Draft202012Validator({**strict(media.get("schema", {})), "components": self._components})


@cache
def _sayings(version: str, text: str) -> Sayings:
    return Sayings(json.loads(text))


class Held:
    """ASGI middleware around a gateway: `wrong` has each answer in JSON that is off the document."""

    def __init__(self, app: ASGIApp, specification: Mapping[str, Any]) -> None:
        self._app = app
        self._sayings = _sayings(specification["openapi"], json.dumps(specification))
        self.wrong: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind, status, body = "", 0, bytearray()

        async def sent(message: Message) -> None:
            nonlocal kind, status
            if message["type"] == "http.response.start":
                status, headers = message["status"], dict(message["headers"])
                kind = headers.get(b"content-type", b"").decode().partition(";")[0]
            elif kind.endswith("json") and status != 304:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False) and (body or scope["method"] != "HEAD"):
                    said = self._sayings.wrong(scope["method"], scope["path"], status, kind, bytes(body))
                    if said:
                        self.wrong.append(said)
            await send(message)

        await self._app(scope, receive, sent)
