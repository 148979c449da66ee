"""Specifications from YAML files and from keyword arguments; a mistake is named with its place.

A file is data of whoever wrote it: at most 1 MiB, no aliases, no tags of Python's, no key twice, no secret by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rios.deploy.spec import App, AppFile
from rios.words.errors import InvalidRequest

FILE_MAX = 1 << 20
DEPTH_MAX = 32
_SHOWN_MAX = 8
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
Location = Sequence[str | int]


def read_app(fields: Mapping[str, Any]) -> App:
    """The specification of keyword arguments. Raises InvalidRequest that names each field at fault."""
    try:
        return App.model_validate(dict(fields))
    except ValidationError as error:
        name = fields.get("name")
        what = f"the application {name!r}" if isinstance(name, str) else "the application"
        raise InvalidRequest(f"{what}: {_listed(error, '')}") from error


def read_file(path: Path) -> AppFile:
    """The specifications of a YAML file. Raises InvalidRequest that names file, line and field of each mistake."""
    try:
        if path.stat().st_size > FILE_MAX:
            raise InvalidRequest(f"{path} has more than {FILE_MAX} bytes, which no specification needs")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    return read_text(text, name=str(path))


def read_text(text: str, *, name: str = "rios.yaml") -> AppFile:
    """As `read_file`; name: what errors call the text."""
    try:
        _check_tokens(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InvalidRequest(f"{name}{line}: this is no YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict) or root is None:
        raise InvalidRequest(f"{name}: a mapping is expected: `version: 1` and `apps`, a list")
    _check_keys(root, name)
    _check_secrets(data, root, name)
    try:
        return AppFile.model_validate(data)
    except ValidationError as error:
        raise InvalidRequest(_listed(error, name, root)) from error


def _check_tokens(text: str, name: str) -> None:
    """Before anything is built of it: aliases grow without end, and depth takes time that grows with its square."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > DEPTH_MAX:
            raise InvalidRequest(f"{name}:{token.start_mark.line + 1}: more than {DEPTH_MAX} levels inside each other")
        if isinstance(token, yaml.AliasToken):
            raise InvalidRequest(f"{name}:{token.start_mark.line + 1}: aliases are not read; write it out")


def _nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    yield node
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _nodes(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _nodes(value)


def _check_keys(root: yaml.Node, name: str) -> None:
    for node in _nodes(root):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise InvalidRequest(f"{name}:{key.start_mark.line + 1}: {key.value!r} is there twice")
                seen.add(key.value)


def _check_secrets(data: dict[str, Any], root: yaml.Node, name: str) -> None:
    """A file is copied and kept by many: secrets are referred to in it, and never in it."""
    apps = data.get("apps")
    for number, app in enumerate(apps if isinstance(apps, list) else []):
        secrets = app.get("secrets") if isinstance(app, dict) else None
        for key, value in (secrets or {}).items() if isinstance(secrets, dict) else ():
            if not isinstance(value, dict):
                place = _line(root, ("apps", number, "secrets", key))
                raise InvalidRequest(
                    f"{name}:{place}: the secret {key!r} is written into the file: put it into the store, and write "
                    f"{{store: {key}}}, or {{env: {key}}} to take it from the environment"
                )


def _line(root: yaml.Node, location: Location) -> int:
    """The line, from 1, of the innermost part of `location` that is in the text."""
    node, line = root, root.start_mark.line
    for part in location:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            break
        key, node = found
        line = key.start_mark.line
    return line + 1


def _listed(error: ValidationError, name: str, root: yaml.Node | None = None) -> str:
    """Each mistake as `FILE:LINE: FIELD: WHAT`, the first eight of them."""
    errors = error.errors(include_url=False, include_input=False)
    lines = []
    for one in errors[:_SHOWN_MAX]:
        location = [part for part in one["loc"] if part != "[key]"]
        field = ".".join(f"{part}" if isinstance(part, str) else f"[{part}]" for part in location).replace(".[", "[")
        place = f"{name}:{_line(root, location)}: " if root is not None else ""
        said = one["msg"].removeprefix("Value error, ")
        what = "there is no such field" if one["type"] == "extra_forbidden" else said[:1].lower() + said[1:]
        lines.append(f"{place}{field + ': ' if field else ''}{what}")
    if len(errors) > _SHOWN_MAX:
        lines.append(f"and {len(errors) - _SHOWN_MAX} more")
    return "\n".join(lines) if root is not None else "; ".join(lines)
