"""The OpenAPI document: what FastAPI finds out, with the answers and errors of every route, and an example of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase

from rios.accounts.roles import RECENT
from rios.gateway.errors import OPENAI_PATHS
from rios.gateway.examples import add_examples

STREAMS = frozenset(("/v1/events", "/v1/jobs/{job_id}/events"))
"""What answers by server-sent events,"""
MAY_STREAM = frozenset(("/v1/completions", "/v1/chat/completions"))
"""and what does where it is asked to."""
_PROBLEM = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:rios:error:[A-Za-z]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What is wrong, and what to do next."},
        "instance": {"type": "string", "description": "The path that was asked."},
        "request_id": {"type": "string", "description": "The log has it too."},
        "param": {"type": "string", "description": "The parameter or field that is meant."},
    },
    "examples": [
        {
            "type": "urn:rios:error:NotFound",
            "title": "Not Found",
            "status": 404,
            "detail": "there is no model 'none'; GET /v1/models lists those that there are",
            "instance": "/v1/deployments/none",
            "request_id": "req-7d1f0c2b9a4e5f6071829304",
        }
    ],
}
_OPENAI = {
    "title": "OpenAIError",
    "description": "An error in OpenAI's shape.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
    "examples": [
        {
            "error": {
                "message": "max_tokens: Input should be greater than or equal to 1",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "invalid_request",
            }
        }
    ],
}


_MAKING = threading.Lock()


def described(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The document of `app`, made once. `x-rios-scope` of an operation is what a token needs for it,
    `x-rios-recent` that it takes a recent sign-in too."""
    with _MAKING:
        return _described(app, routers)


def _described(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes,
        )  # fmt: skip
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas |= {"Problem": _PROBLEM, "OpenAIError": _OPENAI}
        scopes = dict(_scopes(routers))
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                if scope := scopes.get((method.upper(), path)):
                    operation["x-rios-scope"] = scope
                    if scope in RECENT and method != "get":
                        operation["x-rios-recent"] = True
                # What does not fit is 400 here, in the shape of all errors.
                operation["responses"].pop("422", None)
                if path in STREAMS:
                    operation["responses"]["200"]["content"] = {"text/event-stream": {}}
                elif path in MAY_STREAM:
                    operation["responses"]["200"]["content"]["text/event-stream"] = {}
                operation["responses"].setdefault("default", _error(path))
        add_examples(found)
        app.openapi_schema = found
    return app.openapi_schema


def _scopes(routers: Sequence[APIRouter]) -> Iterator[tuple[tuple[str, str], str | None]]:
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from (((method, route.path), scope_of(route)) for method in route.methods or ())


def scope_of(route: APIRoute) -> str | None:
    """The scope that a route needs; "" where any token will do, None where it asks for none."""
    for dependency in route.dependant.dependencies:
        found: str | None = getattr(dependency.call, "scope", None)
        if found is not None:
            return found
    return None


def secured(dependant: Dependant) -> bool:
    """Whether what a route depends on asks who it is that calls: what the document says as `security`."""
    schemes: list[object] = [one.call for one in dependant.dependencies]  # which FastAPI takes for functions
    return any(isinstance(one, SecurityBase) for one in schemes) or any(map(secured, dependant.dependencies))


def _error(path: str) -> dict[str, Any]:
    openai = path.startswith(OPENAI_PATHS)
    schema = {"$ref": f"#/components/schemas/{'OpenAIError' if openai else 'Problem'}"}
    kind = "application/json" if openai else "application/problem+json"
    return {"description": "An error.", "content": {kind: {"schema": schema}}}
