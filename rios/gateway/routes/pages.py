"""What everybody may see: the network's page, the API, and the files that these use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from rios.gateway.answers import models as models_answers
from rios.gateway.answers.words import says
from rios.gateway.pages import IMMUTABLE, POLICY, assets, render
from rios.gateway.reference import groups_of
from rios.services.published import KEPT_S, Published
from rios.words.errors import NotFound

router = APIRouter(tags=["public"])
_SHARED = f"public, max-age={KEPT_S:g}"
"""A cache in front may keep it for as long as the gateway does."""
_HOUR = "public, max-age=3600"


@router.get("/", summary="The network, for people", response_class=HTMLResponse)
async def get_page(request: Request) -> Response:
    """What the network publishes, as a page that asks nobody for anything."""
    state = request.app.state
    found = await state.published.now()
    known, text = getattr(state, "page", (None, ""))
    if known is not found:
        text = render("network", found=found)
        state.page = (found, text)
    return _page(text, _SHARED)


@router.get("/v1/network", summary="What the network publishes", responses=says(models_answers.PublishedNetwork))
async def get_network(request: Request, response: Response) -> dict[str, Any]:
    """Models, hosts, tokens served, ROS paid out, the last root and whether all books agree."""
    response.headers["Cache-Control"] = _SHARED
    found: Published = await request.app.state.published.now()
    return found.to_dict()


@router.get("/docs", summary="The API, for people", response_class=HTMLResponse)
def get_docs(request: Request) -> Response:
    """All routes with their parameters, made from the OpenAPI document."""
    state = request.app.state
    if not hasattr(state, "docs"):
        specification = request.app.openapi()
        state.docs = render("docs", specification=specification, groups=groups_of(specification))
    return _page(state.docs, _HOUR)


@router.get(
    "/static/{name}",
    summary="A file of the pages",
    response_class=Response,
    responses={200: {"content": {"text/css": {}, "image/svg+xml": {}}}},
)
async def get_static(name: str) -> Response:
    """Its name changes with its contents, so it may be kept forever."""
    found = assets().get(name)
    if found is None:
        raise NotFound(f"there is no file {name!r}")
    content, kind = found
    return Response(content, media_type=kind, headers={"Cache-Control": IMMUTABLE})


def _page(text: str, kept: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "Cache-Control": kept})
