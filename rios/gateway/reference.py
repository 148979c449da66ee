"""The OpenAPI document as people read it: operations by tag, with their parameters, fields, answers and scopes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """A parameter of a request, or a field of its body."""

    name: str
    kind: str
    description: str
    required: bool
    place: str = "body"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    method: str
    path: str
    summary: str
    description: str
    scope: str
    open: bool
    parameters: tuple[Item, ...]
    fields: tuple[Item, ...]
    asked: str
    """An example of the body, as JSON or as a form has it; empty without one."""
    status: str
    """Of a good answer, and what is in it where that is JSON."""
    answer: tuple[Item, ...]
    answered: str


def groups_of(specification: Mapping[str, Any]) -> list[tuple[str, list[Operation]]]:
    """Operations by tag, in the order of the routes."""
    found: dict[str, list[Operation]] = {}
    for path, operations in specification["paths"].items():
        for method, said in operations.items():
            tag = (said.get("tags") or ["other"])[0]
            found.setdefault(tag, []).append(_operation(specification, method.upper(), path, said))
    return list(found.items())


def _operation(specification: Mapping[str, Any], method: str, path: str, said: Mapping[str, Any]) -> Operation:
    parameters = tuple(
        Item(p["name"], kind_of(specification, p["schema"]), _words(p, p["schema"]), p.get("required", False), p["in"])
        for p in said.get("parameters", ())
    )
    body = said.get("requestBody", {}).get("content", {})
    content: Mapping[str, Any] = next(iter(body.values()), {})
    answers: Mapping[str, Any] = said.get("responses", {})
    status = next((one for one in answers if one.startswith("2")), "")
    told: Mapping[str, Any] = answers.get(status, {}).get("content", {}).get("application/json", {})
    return Operation(
        method, path, said.get("summary", ""), said.get("description", ""), said.get("x-rios-scope", ""),
        "security" not in said, parameters, _fields(specification, content), _example(content), status,
        _fields(specification, told), _example(told),
    )  # fmt: skip


def _fields(specification: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[Item, ...]:
    schema = resolved(specification, content.get("schema", {}))
    wanted = schema.get("required", ())
    return tuple(
        Item(name, kind_of(specification, one), _words(one), name in wanted)
        for name, one in schema.get("properties", {}).items()
    )


def _example(content: Mapping[str, Any]) -> str:
    return json.dumps(content["example"], indent=2, ensure_ascii=False) if "example" in content else ""


def _words(*places: Mapping[str, Any]) -> str:
    return next((place["description"] for place in places if place.get("description")), "")


def resolved(specification: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema itself where it is named elsewhere."""
    while "$ref" in schema:
        found: Any = specification
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def kind_of(specification: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a value is, in a few words."""
    schema = resolved(specification, schema)
    if "anyOf" in schema:
        kinds = [kind_of(specification, one) for one in schema["anyOf"]]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {kind_of(specification, schema.get('items', {}))}"
    return str(schema.get("type", "any"))
