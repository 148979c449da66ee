"""Examples in the OpenAPI document, put together of those that fields have: no example can say what no field says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rios.gateway.reference import resolved

_PLAIN = {"integer": 1, "number": 1.0, "boolean": True, "null": None}


def example_of(specification: Mapping[str, Any], schema: Mapping[str, Any], *, sent: bool = False, at: str = "") -> Any:
    """A value that fits `schema`. sent: of a request, which leaves out what need not be said.

    Where a schema has examples, the first of them. Raises LookupError, naming the place, for a text without one.
    """
    while True:
        if schema.get("examples"):
            return schema["examples"][0]
        if "$ref" not in schema:
            break
        at = at or schema["$ref"].rpartition("/")[2]
        schema = resolved(specification, {"$ref": schema["$ref"]})
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return example_of(specification, schema[word][0], sent=sent, at=at)
    kind = schema.get("type")
    if kind == "object":
        return _object(specification, schema, sent=sent, at=at)
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return [example_of(specification, one, sent=sent, at=f"{at}[]") for one in items]
    if kind in _PLAIN:
        return schema.get("minimum", _PLAIN[kind]) or _PLAIN[kind]
    raise LookupError(f"{at} has no example: give its field `examples=[...]`")


def _object(specification: Mapping[str, Any], schema: Mapping[str, Any], *, sent: bool, at: str) -> dict[str, Any]:
    wanted = schema.get("required", ())
    found = {
        name: example_of(specification, one, sent=sent, at=f"{at}.{name}")
        for name, one in schema.get("properties", {}).items()
        if name in wanted or not sent or one.get("examples")
    }
    more = schema.get("additionalProperties")
    if not schema.get("properties") and isinstance(more, dict) and more and not sent:
        return {"name": example_of(specification, more, at=f"{at}.*")}
    return found


def add_examples(specification: dict[str, Any]) -> None:
    """Give each request body and each answer of a document its example; tidy what answers are said to be."""
    for path, operations in specification["paths"].items():
        for method, operation in operations.items():
            place = f"{method.upper()} {path}"
            for media in operation.get("requestBody", {}).get("content", {}).values():
                if "example" not in media and "schema" in media:
                    media["example"] = example_of(specification, media["schema"], sent=True, at=f"{place} body")
            for status, answer in operation["responses"].items():
                for kind, media in answer.get("content", {}).items():
                    schema = media.get("schema")
                    if not schema or not kind.endswith("json"):
                        continue
                    if "$ref" in schema:  # what FastAPI finds out about a handler says less
                        media["schema"] = schema = {"$ref": schema["$ref"]}
                    media.setdefault("example", example_of(specification, schema, at=f"{place} {status}"))
