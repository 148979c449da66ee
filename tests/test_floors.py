"""The floors of ARCHITECTURE.md: who may import whom, read from the sources without running them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns import ROOT

DOMAIN = """
    assignment balance company completion demand explain faults grouping host_cost manifest metering packing pairs
    params placement planning refine replication split stopping
"""
ADAPTERS = """
    accountant adaptive architecture authority batching calls certified certifying checkpoint cluster combine comms
    control conversion data deployment device dispatch door examined experts fetch forward generation_config generator
    greeting host hosted job kv layer_run link links loading member membership norms offer peer pieces probe
    pulse quantized ram rotary safetensors sampling scheduler sealed seam serving session shard_cache shard_server
    shelves shm source supervisor template tensors tls tokenizer trunk trust wanted warm wire
"""
BILLING_DOMAIN = "books budgets estimate merkle parameters pricing rating recursion split usage verify"
REPORTING_ADAPTERS = "execute html page pdf run runner sandbox shelf telling templates"
DEPLOY_DOMAIN = "__init__ autoscale chunking confined deciding lifecycle quantity scheduling spec"
# A module's floor, or that of a whole package: the longest name that fits holds.
FLOORS = {
    "rios.words": 0,
    "rios.dmoe.__init__": 1,
    **{f"rios.dmoe.{name}": 1 for name in DOMAIN.split()},
    **{f"rios.dmoe.{name}": 2 for name in ADAPTERS.split()},
    "rios.billing": 2,
    "rios.billing.__init__": 1,
    **{f"rios.billing.{name}": 1 for name in BILLING_DOMAIN.split()},
    "rios.accounts": 2,
    **{f"rios.accounts.{name}": 1 for name in ("__init__", "audit", "roles", "tokens", "values")},
    "rios.storage": 2,
    "rios.deploy": 2,
    **{f"rios.deploy.{name}": 1 for name in DEPLOY_DOMAIN.split()},
    "rios.demo": 2,  # the tools that trained the demo model
    "rios.demo.__init__": 1,  # where it lies
    "rios.services": 3,
    "rios.reporting": 3,
    **{f"rios.reporting.{name}": 2 for name in REPORTING_ADAPTERS.split()},
    "rios.reporting.bench_deployments": 4,  # a program over the services, which nobody imports but a notebook
    "rios.gateway": 4,
    "rios.client": 4,
    "rios.lab": 4,
    "rios.widgets": 4,
    "rios.worker": 4,
    "rios.cli": 4,
    "rios.money_cli": 4,
    "rios.report_cli": 4,
}
# What the two lowest floors may take from outside the standard library.
OUTSIDE = {0: {"pydantic", "pydantic_settings"}, 1: {"numpy", "pydantic"}}
# The package itself holds the lazy public names: on top of the services, below the edges.
FACADE = "rios.__init__"
# The one adapter that other adapters stand on: tables and engines of the database.
SHARED = "storage"
SERVICES = 3
# What puts the edges together.
COMMAND_LINE = {"rios.cli", "rios.money_cli", "rios.report_cli"}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {_name(path): path for path in sorted((ROOT / "rios").rglob("*.py"))}


def _resolve(name: str) -> str | None:
    """The module of rios that a dotted name stands for, or None."""
    return next((module for module in (f"{name}.__init__", name) if module in MODULES), None)


def floor(module: str) -> int:
    """The floor of a module of rios; KeyError where nobody gave it one."""
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        if (prefix := ".".join(parts[:length])) in FLOORS:
            return FLOORS[prefix]
    raise KeyError(module)


def _from(node: ast.ImportFrom, package: list[str]) -> Iterator[str]:
    base = package[: len(package) - node.level + 1] if node.level else []
    source = ".".join([*base, node.module] if node.module else base)
    for alias in node.names:
        # `from rios.words import errors` takes a module, `from rios.words.errors import X` takes a name out of one.
        yield f"{source}.{alias.name}" if _resolve(f"{source}.{alias.name}") else source


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module imports, inside functions too."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for name in _from(node, package))


def _package(module: str) -> str:
    return module.split(".")[1]


def _inside(module: str, target: str) -> str | None:
    """What is wrong with `module` importing `target`, both of rios."""
    if target == FACADE:
        return None if floor(module) > SERVICES else "only edges take the public names"
    own, other = floor(module), floor(target)
    if other > own:
        return f"a file on F{own} imports from F{other}"
    strangers = _package(module) != _package(target) and module not in COMMAND_LINE
    if other == own and strangers and _package(target) != SHARED:
        return f"two packages on F{own}"
    return None


def _outside(own: int, target: str) -> str | None:
    top = target.partition(".")[0]
    if own not in OUTSIDE or top in sys.stdlib_module_names or top in OUTSIDE[own]:
        return None
    return f"F{own} takes nothing from outside but {', '.join(sorted(OUTSIDE[own]))}"


def violations(source: str, module: str) -> list[str]:
    """The imports in `source` that a module of that name must not have."""
    found = []
    for line, name in imports(ast.parse(source), module):
        if name.split(".")[0] != "rios":
            complaint = _outside(floor(module), name)
        elif (target := _resolve(name)) is None:
            complaint = "no such module"
        else:
            complaint = _inside(module, target)
        if complaint:
            found.append(f"{module.replace('.', '/')}.py:{line}: {name}: {complaint}")
    return found


def test_every_file_has_a_floor() -> None:
    homeless = []
    for module in MODULES.keys() - {FACADE}:
        try:
            floor(module)
        except KeyError:
            homeless.append(module)
    assert not homeless, f"give these files a floor in {__name__} and a line in ARCHITECTURE.md: {sorted(homeless)}"


def test_imports_go_down() -> None:
    found = [
        complaint
        for module, path in MODULES.items()
        if module != FACADE
        for complaint in violations(path.read_text(), module)
    ]
    assert not found, "\n".join(found)


def test_public_names_are_lazy() -> None:
    """What `rios/__init__.py` imports while it loads is F0; the rest is inside functions or for type checkers."""
    loading: list[ast.stmt] = []
    for node in ast.parse(MODULES[FACADE].read_text()).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            loading += node.orelse
        elif not isinstance(node, ast.FunctionDef):
            loading.append(node)
    for line, name in imports(ast.Module(loading, []), FACADE):
        target = _resolve(name)
        inside = target is not None and floor(target) == 0
        assert inside or name.split(".")[0] in sys.stdlib_module_names, f"rios/__init__.py:{line} imports {name}"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("rios.words.errors", "import numpy"),
        ("rios.words.errors", "from rios.dmoe import manifest"),
        ("rios.words.errors", "from ..dmoe.manifest import Manifest"),
        ("rios.dmoe.manifest", "def f():\n    import torch"),
        ("rios.dmoe.manifest", "from rios.dmoe.trunk import Trunk"),
        ("rios.dmoe.trunk", "import rios"),
        ("rios.dmoe.trunk", "from rios.demo import train"),
        ("rios.dmoe.trunk", "import rios.dmoe.no_such_module"),
        ("rios.worker", "import rios.cli"),
        ("rios.storage.engine", "from rios.billing.ledger import ledger"),
    ],
)
def test_violations_are_found(module: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rios.worker", "rios.cli"):
        monkeypatch.setitem(MODULES, name, ROOT / "rios" / f"{name.split('.')[1]}.py")
    assert violations(line, module)


def test_allowed_imports_are_allowed() -> None:
    assert not violations("import json, numpy.typing\nfrom rios.words.errors import RiosError", "rios.dmoe.manifest")
    assert not violations("import torch\nfrom . import kv, manifest\nfrom ..words import errors", "rios.dmoe.trunk")
    assert not violations("import rios", "rios.cli")
    assert not violations("from rios.storage import engine", "rios.billing.ledger.ledger")


def test_architecture_names_the_rooms() -> None:
    """The table of ARCHITECTURE.md names each file of the engine once, and no other."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    engine = text[text.index("## Rooms of the engine") :].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", engine, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    files = [path.stem for path in (ROOT / "rios" / "dmoe").glob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(files)
