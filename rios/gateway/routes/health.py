"""Whether the gateway lives and can serve, what it counts, and the public keys of its tokens."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from rios.gateway.answers import models as models_answers
from rios.gateway.answers import oauth as oauth_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of
from rios.services.gate import Gate
from rios.words.errors import RiosError

router = APIRouter(tags=["health"])


@router.get("/live", summary="Whether the process answers", responses=says(models_answers.Live))
async def live() -> dict[str, str]:
    """Always "live"."""
    return {"status": "live"}


@router.get(
    "/ready",
    summary="Whether requests can be served, and what is missing",
    responses={**says(models_answers.Ready), 503: {"description": "Not ready.", "model": models_answers.Ready}},
)
async def ready(request: Request) -> JSONResponse:
    """Whether the database answers, once a second at most, and whether there are workers; no model is needed."""
    checks: dict[str, str] = dict(await request.app.state.checked.now())
    good = all(said == "ok" for said in checks.values())
    # What the gateway does without, and how.
    for part, without in request.app.state.parts:
        checks[part.name] = "ok" if part.why is None else f"{part.why}; {without}"
    return JSONResponse({"status": "ready" if good else "not ready", "checks": checks}, 200 if good else 503)


def checks_of(gate: Gate) -> dict[str, str]:
    """Of what a gateway cannot do without: "ok", or what is missing."""
    checks: dict[str, str] = {}
    try:
        gate.accounts.store.organisation("")
        checks["database"] = "ok"
    except RiosError as error:
        checks["database"] = str(error)
    try:
        gate.network.wait_for_workers(1, timeout=0)
        checks["workers"] = "ok"
    except RiosError as error:
        checks["workers"] = str(error)
    return checks


@router.get("/metrics", summary="Counters in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts of requests, generations and tokens."""
    return PlainTextResponse(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get(
    "/.well-known/jwks.json",
    summary="The public keys that check access tokens",
    responses=says(oauth_answers.PublicKeys),
)
def jwks(request: Request) -> dict[str, Any]:
    """A JSON Web Key Set (RFC 7517)."""
    return gate_of(request).accounts.signer.jwks()
