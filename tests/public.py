"""What users can reach: the classes that the public names of rios lead to, by what their members are said to be.

Read from the sources, so that names which are imported for their types alone are known, too.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import rios
from tests.campaigns import ROOT


class Found(NamedTuple):
    """A class of rios in its source."""

    module: str
    node: ast.ClassDef


class _Module:
    def __init__(self, name: str) -> None:
        place = ROOT.joinpath(*name.split("."))
        tree = ast.parse(next(p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()).read_text())
        self.classes = {node.name: Found(name, node) for node in tree.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.imports = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rios")
            for alias in node.names
        }


@functools.cache
def _module(name: str) -> _Module | None:
    place = ROOT.joinpath(*name.split("."))
    return _Module(name) if place.with_suffix(".py").exists() or (place / "__init__.py").exists() else None


def _class(module: str, name: str) -> Found | None:
    """The class that a name in a module stands for."""
    found = _module(module)
    if found is None or name in found.classes:
        return None if found is None else found.classes[name]
    return _class(*found.imports[name]) if name in found.imports else None


def _classes(module: str, annotation: ast.expr | None) -> Iterator[Found]:
    """The classes of rios that an annotation is made of."""
    for node in ast.walk(annotation) if annotation is not None else ():
        found = None
        if isinstance(node, ast.Name):
            found = _class(module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source = _module(module)
            there = source.imports.get(node.value.id) if source is not None else None
            found = None if there is None else _class(".".join(there), node.attr)
        if found is not None:
            yield found


def _said(one: Found) -> Iterator[ast.expr | None]:
    """What bases, fields, attributes, methods and properties of a class are said to be."""
    yield from one.node.bases
    for node in one.node.body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for inner in ast.walk(node):
                public = isinstance(inner, ast.AnnAssign | ast.Assign) and _is_public(inner)
                if public and isinstance(inner, ast.AnnAssign):
                    yield inner.annotation
                elif public and isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call):
                    yield inner.value.func
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.returns


def _is_public(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(ast.unparse(target).startswith("self.") and "._" not in ast.unparse(target) for target in targets)


@functools.cache
def reached() -> tuple[Found, ...]:
    """The classes that the names of `rios.__all__` lead to, the nearest first."""
    first = [_class(*_home(name)) for name in rios.__all__ if name != "errors"]
    returned = [returns for name in rios.__all__ if (returns := _returns(*_home(name))) is not None]
    waiting = [one for one in first if one is not None]
    for module, annotation in returned:
        waiting += _classes(module, annotation)
    known: dict[tuple[str, str], Found] = {}
    while waiting:
        one = waiting.pop(0)
        if (key := (one.module, one.node.name)) in known:
            continue
        known[key] = one
        for annotation in _said(one):
            waiting += _classes(one.module, annotation)
    return tuple(known.values())


def _home(name: str) -> tuple[str, str]:
    return rios._HOMES.get(name, "rios"), name


def _returns(module: str, name: str) -> tuple[str, ast.expr | None] | None:
    source = _module(module)
    node = None if source is None else source.functions.get(name)
    return None if node is None else (module, node.returns)


def types() -> dict[str, type]:
    """The same, imported: by module and name."""
    return {
        f"{one.module}.{one.node.name}": getattr(importlib.import_module(one.module), one.node.name)
        for one in reached()
    }


def names_of(kind: type) -> dict[str, Any]:
    """What the annotations of a class may name: its module, and what that imports for types alone."""
    module = importlib.import_module(kind.__module__)
    source = _module(kind.__module__)
    found = dict(vars(module))
    for name, (home, original) in ({} if source is None else source.imports).items():
        if name not in found:
            home_module = importlib.import_module(home)
            found[name] = getattr(home_module, original, None) or importlib.import_module(f"{home}.{original}")
    return found
