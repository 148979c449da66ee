"""The rules of the house that a machine can hold."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.campaigns import ROOT

LINES_MAX = 500
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYPROJECT = TOOLS["project"]
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".txt",
    ".ipynb",
    ".service",
    ".cfg",
    ".json",
    ".sh",
    ".html",
    ".jinja",
}
PLACES = ("rios", "tests", "notebooks", "reports", "cluster", "docs", ".ci")


def _files() -> Iterator[Path]:
    """The project's own text files."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and (path.suffix in TEXT or path.name == "Makefile"))
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            made = "__pycache__" in path.parts or path.is_relative_to(ROOT / "reports" / "out")
            if path.is_file() and not made and (path.suffix in TEXT or place == ".ci"):
                yield path


SOURCES = sorted((ROOT / "rios").rglob("*.py"))
NOTEBOOKS = sorted((*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "reports").glob("*.ipynb")))
DOCUMENTS = [path for path in _files() if path.suffix == ".md"]


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _matches(pattern: str, files: list[Path]) -> list[str]:
    """`file:line: text` of every line that matches."""
    found = re.compile(pattern)
    return [
        f"{_shown(path)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if found.search(line)
    ]


def test_files_are_short() -> None:
    long = {_shown(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > LINES_MAX}
    assert not long


def test_nothing_is_left_undone() -> None:
    here = Path(__file__)
    code = [path for path in _files() if path.suffix == ".py" and path != here]
    assert not _matches(r"\b(TODO|FIXME|XXX|HACK)\b", code)
    assert not _matches(r"\bNotImplementedError\b", SOURCES)
    assert not _matches(r"pytest\.(mark\.)?(skip|xfail|importorskip)|unittest\.skip", code)


def _swallows(handler: ast.ExceptHandler) -> bool:
    broad = handler.type is None or ast.unparse(handler.type) in {"Exception", "BaseException"}
    idle = all(isinstance(node, ast.Pass) or ast.unparse(node) == "..." for node in handler.body)
    return handler.type is None or (broad and idle)


def test_errors_are_not_swallowed() -> None:
    assert not [
        f"{_shown(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]


def test_no_machine_is_named() -> None:
    """A path of somebody's machine works nowhere else."""
    here = Path(__file__)
    files = [path for path in _files() if path != here]
    assert not _matches(r"(?<![\w.~}])/(home|root|Users|work|mnt|media)/\w", files)
    assert not _matches(
        r"--(extra-)?index-url|--find-links|files\.pythonhosted|://(test\.)?pypi\.|://registry\.npm", files
    )


def test_notebooks_are_clean() -> None:
    """No outputs, and one cell tagged `parameters`."""
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), _shown(path)
        parameters = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
        assert len(parameters) == 1, _shown(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_shown)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", path.read_text())
    assert not [target for target in targets if not (path.parent / target).exists()]


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)  # type: ignore[union-attr]
    assert len(pins) == len(lines), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pins.items()}


def _direct() -> list[Requirement]:
    extras = PYPROJECT["optional-dependencies"].values()
    return [Requirement(line) for group in (PYPROJECT["dependencies"], *extras) for line in group]


def _drawn_in() -> set[str]:
    """Names of all packages that installing rios with its extras draws in here."""
    names: set[str] = set()
    waiting = _direct()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in names:
            continue
        names.add(name)
        for line in importlib.metadata.distribution(name).requires or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    return names


def _of_cuda(name: str) -> bool:
    """Whether a build of torch for CUDA draws it in, as PyPI's for Linux does, and says itself which version."""
    reads_counters_alone = name == "nvidia-ml-py"
    return not reads_counters_alone and re.match(r"nvidia-|cuda-|triton", name) is not None


def test_versions_are_exact() -> None:
    pins = _pins()
    # A local part such as "+cpu" names a build of the pinned version.
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in _drawn_in() if not _of_cuda(name)}
    assert found == {name: pins.get(name) for name in found}


def test_pins_meet_the_floors() -> None:
    pins = _pins()
    for requirement in _direct():
        assert requirement.specifier, f"{requirement.name} has no floor"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_no_accelerator_is_forced_on_anybody() -> None:
    assert not [name for name in _pins() if _of_cuda(name)]


def test_conda_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PYPROJECT["name"]
    assert conda[0] == f"python{PYPROJECT['requires-python']}"
    assert [re.split(r"[<>=]", name)[0] for name in conda] == ["python", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_the_source_distribution_has_all_that_is_tracked() -> None:
    """What it has is named one by one: without the package in it, the wheel that is built from it would be empty."""
    command = ["git", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    named = set(TOOLS["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    left = {path.split("/")[0] for path in tracked.split("\0") if path and not named & {path, path.split("/")[0]}}
    assert left == {".ci", ".gitignore", "client", "pyproject.toml"}
    assert {path for path in named if not (ROOT / path).exists()} == set()
    assert "rios" in named
