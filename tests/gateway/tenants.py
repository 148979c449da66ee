"""What belongs to one organisation, found out from the API itself, and asked for by others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from rios.gateway.reference import resolved
from tests.gateway.servers import Door

# What a field takes, where a value of its type alone would not do.
VALUES = {
    "amount": "1 ROS", "limit": "1 ROS", "role": "viewer", "reason": "because", "password": "correct horse battery",
    "minimum": "1 ROS", "email": "a@lab.example",
}  # fmt: skip
NOBODY = "none-0123456789abcdef"
"""An id that nothing has."""


def parameters(path: str) -> list[str]:
    """The names in a route's path."""
    return re.findall(r"{(\w+)(?::\w+)?}", path)


def operations(specification: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Method, path and description of all operations."""
    for path, found in specification["paths"].items():
        for method, said in found.items():
            yield method.upper(), path, said


def body(specification: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any] | None:
    """The smallest body that an operation takes."""
    content = said.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    schema = resolved(specification, content["application/json"]["schema"])
    return {
        name: _value(specification, name, schema["properties"][name]) for name in schema.get("required", ())
    }  # fmt: skip


def _value(specification: Mapping[str, Any], name: str, schema: Mapping[str, Any]) -> Any:
    schema = resolved(specification, schema)
    if name in VALUES:
        return VALUES[name]
    if "anyOf" in schema:
        return _value(specification, name, schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("minProperties"):
        return {"something": _value(specification, "something", schema["additionalProperties"])}
    kinds: dict[str, Any] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
    return kinds.get(schema.get("type", ""), "something")


def ids(http: httpx2.Client, specification: Mapping[str, Any]) -> set[str]:
    """Every text that any list of the caller's shows as an id, a name or a key of something."""
    found: set[str] = set()

    def take(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                take(inner, key)
        elif isinstance(value, list):
            for inner in value:
                take(inner, name)
        elif isinstance(value, str) and re.search(r"id$|^name$|^login$|^owner$|^user$|^actor$|^object$", name):
            found.add(value)

    for method, path, _ in operations(specification):
        if method == "GET" and not parameters(path):
            with http.stream("GET", path) as response:  # one of events would not end
                kind = response.headers.get("content-type", "")
                if kind.startswith("application/json") and response.is_success:
                    response.read()
                    take(response.json())
    return {one for one in found if one and one.isprintable()}


def answers(
    http: httpx2.Client, specification: Mapping[str, Any], method: str, path: str, said: Mapping[str, Any], value: str
) -> tuple[int, str]:
    """What an operation answers about `value`: the status, and the text without what is of this request alone."""
    address = shown = path
    for name in parameters(path):
        address = re.sub("{" + name + r"(?::\w+)?}", lambda _: quote(value, safe=""), address)
        shown = re.sub("{" + name + r"(?::\w+)?}", lambda _: value, shown)
    params = {
        one["name"]: 1
        for one in said.get("parameters", ())
        if one["in"] == "query" and one.get("required") and one["schema"].get("type") == "integer"
    }
    key = hashlib.sha256(f"{method} {path} {value}".encode()).hexdigest()
    asked = http.request(
        method, address, json=body(specification, said), params=params, headers={"Idempotency-Key": key}
    )
    assert "x-evil" not in asked.headers
    text = asked.text
    for own in (address, shown, json.dumps(value)[1:-1], asked.headers.get("x-request-id", "")):
        text = text.replace(own, "*") if own == address else masked(text, own)
    return asked.status_code, text


def masked(text: str, word: str) -> str:
    """The text without `word`, where it stands alone."""
    return re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", "*", text) if word else text


def specification_of(door: Door) -> dict[str, Any]:
    """The OpenAPI document."""
    with door.client("") as http:
        found: dict[str, Any] = http.get("/openapi.json").json()
    return found
