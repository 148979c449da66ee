"""The OpenAPI document says of each operation what it takes and what it answers, with examples that are true."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from rios.gateway.app import ROUTERS
from rios.gateway.examples import add_examples, example_of
from rios.gateway.reference import resolved
from rios.words.errors import RiosError
from tests.gateway.servers import Door, problem
from tests.gateway.tenants import operations, specification_of
from tests.gateway.truth import Sayings

JSON = "application/json"
# Lists without pages, each with what bounds it.
WHOLE = {
    "/v1/roles": "a table of the source",
    "/v1/models": "OpenAI's shape has no pages",
    "/v1/jobs": "what changed since a version, `limit` at once",
    "/v1/webhooks": "20 of an organisation",
    "/v1/budgets": "one for each period",
    "/v1/governance/parameters": "a table of the source",
    "/v1/earnings/lines": "sums by worker, model and resource",
    "/v1/reports": "the templates of the package",
    "/v1/apps/{name}/logs": "the last 5000 lines",
    "/v1/apps/{name}/metrics": "replicas that run, of which a deployment has a bound",
}


@pytest.fixture(scope="module")
def specification(door: Door) -> dict[str, Any]:
    return specification_of(door)


def _media(specification: Mapping[str, Any], *, sent: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, kind and media type of all bodies that are taken, or of all answers in JSON."""
    for method, path, said in operations(specification):
        if sent:
            for kind, media in said.get("requestBody", {}).get("content", {}).items():
                yield f"{method} {path}", kind, media
            continue
        for status, answer in said["responses"].items():
            for kind, media in answer.get("content", {}).items():
                if kind.endswith("json"):
                    yield f"{method} {path} {status}", kind, media


def test_every_answer_in_json_is_described(specification: dict[str, Any]) -> None:
    found = list(_media(specification, sent=False))
    assert len(found) > 200
    for place, kind, media in found:
        schema = resolved(specification, media.get("schema", {}))
        assert schema.get("type") == "object", (place, kind, schema)
        # Of none is it said only that it is an object: but of giving a token back, which answers nothing, and of files.
        assert schema.get("properties") or "/oauth/revoke" in place or "/file" in place, (place, kind)
        assert schema.get("description"), (place, kind)
    for method, path, said in operations(specification):
        good = [status for status in said["responses"] if status.startswith(("2", "3"))]
        assert good, (method, path)
        errors = said["responses"]["default"]["content"]
        assert errors.keys() & {JSON, "application/problem+json", "text/html"}, (method, path)


@pytest.mark.parametrize("sent", [True, False])
def test_examples_are_what_their_schemas_say(specification: dict[str, Any], *, sent: bool) -> None:
    for place, kind, media in _media(specification, sent=sent):
        assert "example" in media, (place, kind)
        schema = {**media["schema"], "components": specification["components"]}
        errors = [
            f"{one.json_path}: {one.message}" for one in Draft202012Validator(schema).iter_errors(media["example"])
        ]
        assert not errors, (place, kind, errors)


def test_examples_of_requests_are_accepted(specification: dict[str, Any]) -> None:
    """By what reads them too, which knows more than their schemas say."""
    count = 0
    for router in ROUTERS:
        for route in router.routes:
            if not isinstance(route, APIRoute) or not route.dependant.body_params:
                continue
            (parameter,) = route.dependant.body_params
            for method in route.methods or ():
                body = specification["paths"][route.path][method.lower()]["requestBody"]["content"][JSON]
                TypeAdapter(parameter.field_info.annotation).validate_json(json.dumps(body["example"]))
                count += 1
    assert count > 40


def test_what_has_no_example_is_named() -> None:
    silent = {"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}}
    answers = {"200": {"content": {JSON: {"schema": silent}}}}
    with pytest.raises(LookupError, match=r"GET /v1/x 200\.word has no example"):
        add_examples({"paths": {"/v1/x": {"get": {"responses": answers}}}})
    told = {
        "type": "object",
        "properties": {"word": {"type": "string", "examples": ["so"]}, "more": {"type": "string"}},
    }
    assert example_of({}, told, sent=True) == {"word": "so"}


def test_every_list_has_pages_or_a_bound(specification: dict[str, Any]) -> None:
    lists = set()
    for method, path, said in operations(specification):
        schema = resolved(
            specification, said["responses"].get("200", {}).get("content", {}).get(JSON, {}).get("schema", {})
        )
        if method != "GET" or schema.get("properties", {}).get("data", {}).get("type") != "array":
            continue
        lists.add(path)
        names = {one["name"] for one in said.get("parameters", ())}
        paged = {"after", "limit"} <= names and "next" in schema["required"]
        assert paged != (path in WHOLE), path
    assert lists >= WHOLE.keys()
    assert len(lists - WHOLE.keys()) >= 15


def test_an_answer_that_is_off_the_document_is_found(door: Door, specification: dict[str, Any]) -> None:
    """What stands around the gateways of these tests sees it: a field too few, too many, of another kind; a status."""
    said = Sayings(specification)
    with door.client() as http:
        row = http.get("/v1/users/me").json()
        bad = http.get("/v1/users/none")
    assert problem(bad, 404)["type"].endswith("NotFound")

    def wrong(body: Mapping[str, Any], status: int = 200, kind: str = JSON) -> str | None:
        return said.wrong("GET", "/v1/users/me", status, kind, json.dumps(body).encode())

    assert wrong(row) is None
    assert "secret" in str(wrong({**row, "secret": "x"}))
    assert "login" in str(wrong({name: value for name, value in row.items() if name != "login"}))
    assert "created_at" in str(wrong({**row, "created_at": "today"}))
    assert "says nothing" in str(wrong(row, status=201))
    assert wrong(bad.json(), status=404, kind="application/problem+json") is None
    assert "off its schema" in str(wrong({**bad.json(), "status": "404"}, status=404, kind="application/problem+json"))


def test_errors_have_the_shape_that_is_said(specification: dict[str, Any]) -> None:
    """The problem's example is one that this gateway could answer with."""
    kinds = {one.__name__ for one in _all(RiosError)}
    found = specification["components"]["schemas"]["Problem"]["examples"][0]
    assert found["type"].removeprefix("urn:rios:error:") in kinds


def _all(kind: type[RiosError]) -> Iterator[type[RiosError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _all(one)
