"""Errors of rios as answers: RFC 9457 problems, and OpenAI's shape on its routes."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from rios.gateway.app_tickets import shown_path
from rios.gateway.limits import Room
from rios.words import errors as e

log = logging.getLogger(__name__)

# The first class that fits holds.
STATUSES: tuple[tuple[type[e.RiosError], int], ...] = (
    (e.NotSignedIn, 401),
    (e.NotAllowed, 403),
    (e.NotFound, 404),
    (e.AlreadyExists, 409),
    (e.Elsewhere, 421),
    (e.TooManyRequests, 429),
    (e.InsufficientBalance, 402),
    (e.BudgetExceeded, 402),
    (e.LedgerConflict, 409),
    (e.InvalidAmount, 400),
    (e.InvalidRequest, 400),
    (e.PriceBookError, 400),
    (e.UnsupportedCheckpoint, 400),
    (e.UnsupportedRuntime, 400),
    (e.DeploymentFailed, 409),
    (e.SandboxError, 503),
    (e.NotProvable, 409),
    (e.TransactionFailed, 409),
    (e.Cancelled, 409),
    (e.DeadlineExceeded, 504),
    (e.QueueFull, 503),
    (e.NoWorkers, 503),
    (e.ExpertsUnavailable, 503),
    (e.InsufficientMemory, 503),
    (e.HostLost, 503),
    (e.GatewayLost, 503),
    (e.NetworkClosed, 503),
    (e.LedgerUnavailable, 503),
    (e.ChainUnavailable, 503),
)
OPENAI_PATHS = ("/v1/models", "/v1/completions", "/v1/chat/")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_RETRY_S = 1


def status_of(error: e.RiosError) -> int:
    """The HTTP status of an error; 500 for what is not the caller's to know."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def openai_error(error: e.RiosError, *, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return _openai(status_of(error), _message(error), code=_code(type(error).__name__), param=param)


def answer(
    request: HTTPConnection, error: e.RiosError, *, status: int | None = None, param: str | None = None
) -> JSONResponse:
    """The answer that an error is."""
    status = status or status_of(error)
    if status == 500:
        log.error("a request failed", exc_info=error, extra={"path": shown_path(request.url.path)})
    headers: dict[str, str] = {}
    if isinstance(error, e.TooManyRequests) and error.limit is not None:
        # Of the bucket that is empty, and not of one that was asked before.
        request.state.room = Room(error.limit, 0, error.reset_s)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="rios"'
    if status in (429, 503):
        headers["Retry-After"] = str(max(_RETRY_S, ceil(getattr(error, "retry_after_s", _RETRY_S))))
    return _shaped(request, status, _message(error), type(error).__name__, headers, param=param)


def install(app: FastAPI) -> None:
    """Have all errors of `app` answered in these shapes."""
    app.add_exception_handler(e.RiosError, _rios)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _rios(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, e.RiosError)
    return answer(request, error)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        said = f"{param} is not known here; nothing is ignored: leave it out"
    elif first["type"] == "json_invalid":
        said, param = "the body is not JSON", None
    else:
        said = f"{param or 'the body'}: {first['msg'].removeprefix('Value error, ')}"
    return _shaped(request, 400, said, "InvalidRequest", {}, param=param)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    names = {404: "NotFound", 413: "InvalidRequest", 400: "InvalidRequest"}
    headers = dict(error.headers or {})
    said = f"there is nothing at {shown_path(request.url.path)}" if error.status_code == 404 else str(error.detail)
    return _shaped(request, error.status_code, said, names.get(error.status_code, "RiosError"), headers)


def _unexpected(request: Request, _: Exception) -> JSONResponse:
    said = "an error of rios; its log has it under this request's id"
    return _shaped(request, 500, said, "RiosError", {})


def _shaped(
    request: HTTPConnection, status: int, said: str, name: str, headers: dict[str, str], *, param: str | None = None
) -> JSONResponse:
    if request.url.path.startswith(OPENAI_PATHS):
        body = {"error": _openai(status, said, code=_code(name), param=param)}
        return JSONResponse(body, status, headers)
    problem: dict[str, Any] = {
        "type": f"urn:rios:error:{name}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": said,
        "instance": shown_path(request.url.path),
        "request_id": getattr(request.state, "request_id", ""),
    }
    if param is not None:
        problem["param"] = param
    return JSONResponse(problem, status, headers, media_type="application/problem+json")


def _openai(status: int, said: str, *, code: str, param: str | None) -> dict[str, Any]:
    return {"message": said, "type": _KINDS.get(status, "server_error"), "param": param, "code": code}


def _message(error: e.RiosError) -> str:
    return str(error) if status_of(error) != 500 else "an error of rios; its log has it under this request's id"


def _code(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
