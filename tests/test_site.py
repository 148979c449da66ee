"""The documentation: its site asks nobody for anything and can be searched from a disk; what it shows, works."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet

from rios.gateway.settings import GatewaySettings
from rios.reporting.pdf import browser
from rios.reporting.sandbox import apart, environment
from rios.words.config import Settings
from tests import site
from tests.campaigns import ROOT
from tests.reporting.test_html import Requests

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
ABSTRACT = {"Protocol", "ABC"}
# What processes of rios tell their own children.
OWN = {
    "RIOS_DEVICE_INDEX", "RIOS_HOST_CLASS", "RIOS_RAM_BYTES", "RIOS_TEMPLATE", "RIOS_SLOW_FLAGS",
    "RIOS_UNMETERED_FLAGS",
}  # fmt: skip
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=20000")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. A link that leads nowhere, or a page that is in no menu, is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.long
def test_every_page_is_there_and_asks_nobody(built: Path) -> None:
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        outside = [one for one in Requests(page.read_text()).found if "://" in one]
        assert not outside, (page.name, outside)


@pytest.mark.long
@pytest.mark.needs("chromium")
def test_it_is_searched_from_a_disk_without_a_network(built: Path) -> None:
    found = browser()
    assert found is not None
    asked = f"{(built / 'index.html').as_uri()}?q=reconcile"
    command = [found, *FLAGS, f"--user-data-dir={built}/.browser", "--dump-dom", asked]
    done = subprocess.run(
        apart(command, built), env=environment(built), capture_output=True, text=True, timeout=120, check=True
    )
    assert re.search(r"\d+ matching documents", done.stdout)
    assert "tutorial/05_settlement.html" in done.stdout


def test_all_notebooks_and_documents_are_in_the_menu() -> None:
    wanted = {f"tutorial/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    wanted |= {path.name for path in (ROOT / "docs").glob("*.md")} | set(site.PAGES.values())
    text = (ROOT / "mkdocs.yml").read_text()
    assert not [one for one in sorted(wanted) if one not in text]
    assert yaml.safe_load(text)["strict"]


def test_every_name_that_users_reach_is_in_the_reference() -> None:
    page = site.python_page()
    for module, names in site.public().items():
        place = "rios.services.network" if module == "rios" else module
        for name in names:
            assert f"::: {place}.{name}\n" in page
            found = getattr(importlib.import_module(module), name)
            assert found.__doc__, f"{module}.{name} has nothing but its name"
            assert not found.__doc__.startswith(f"{name}("), f"{module}.{name} has no words of its own"
    assert len(re.findall("^::: ", page, re.MULTILINE)) > 80


def _undocumented(path: Path, promised: frozenset[str]) -> Iterator[str]:
    """Public names of a module without a docstring."""
    tree = ast.parse(path.read_text())
    where = path.relative_to(ROOT).as_posix()
    if not ast.get_docstring(tree):
        yield where
    for node in tree.body:
        if not isinstance(node, FUNCTIONS | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{where}: {node.name}"
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(member, FUNCTIONS) and not member.name.startswith("_"):
                marks = {ast.unparse(one).rpartition(".")[2] for one in member.decorator_list}
                if not (ast.get_docstring(member) or member.name in promised or marks & {"setter", "overload"}):
                    yield f"{where}: {node.name}.{member.name}"


def _promised(tree: ast.Module) -> Iterator[str]:
    """The methods that a protocol or an abstract class says the words for, whoever implements them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and {ast.unparse(one).partition("[")[0] for one in node.bases} & ABSTRACT:
            yield from (one.name for one in node.body if isinstance(one, FUNCTIONS) and ast.get_docstring(one))


def test_every_public_name_is_documented() -> None:
    paths = sorted((ROOT / "rios").rglob("*.py"))
    promised = frozenset(name for path in paths for name in _promised(ast.parse(path.read_text())))
    assert not [missing for path in paths for missing in _undocumented(path, promised)]


def test_every_setting_and_variable_is_documented() -> None:
    for kind in (Settings, GatewaySettings):
        assert not [name for name, field in kind.model_fields.items() if not field.description]
    documented = site.settings_page() + "".join(path.read_text() for path in (*DOCUMENTS, ROOT / "SECURITY.md"))
    read = {
        name
        for path in (ROOT / "rios").rglob("*.py")
        for name in re.findall(r"\"(RIOS_[A-Z_]*[A-Z])\"", path.read_text())
    }
    assert {"RIOS_URL", "RIOS_TOKEN"} <= read
    assert not sorted(name for name in read - OWN if not re.search(rf"\b{name}\b", documented))


def test_every_command_and_option_is_documented() -> None:
    from rios.cli import app

    waiting, missing, seen = [("rios", typer.main.get_command(app))], [], 0
    while waiting:
        name, command = waiting.pop()
        seen += 1
        missing += [] if command.help else [name]
        options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
        missing += [f"{name} {one.opts[0]}" for one in options if not getattr(one, "help", None)]
        waiting += [(f"{name} {child}", found) for child, found in getattr(command, "commands", {}).items()]
    assert seen > 60
    assert not missing


def test_every_route_is_documented() -> None:
    document = site.openapi()
    operations = [
        (f"{method.upper()} {path}", one) for path, all_ in document["paths"].items() for method, one in all_.items()
    ]
    assert len(operations) > 90
    assert not [name for name, one in operations if not one.get("description")]
    page = site.http_page()
    assert not [name for name, _ in operations if f"`{name}`" not in page]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for found in re.finditer(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            yield path.name, found[1]


def test_python_in_documents_is_python() -> None:
    seen = 0
    for name, text in blocks("python"):
        ast.parse(text, name)
        seen += 1
        if name == "reports.md":
            exec(compile(text, name, "exec"), {})
    assert seen >= 4


def test_commands_in_documents_are_commands() -> None:
    """Each `rios ...` of a document has the commands and options that it is shown with."""
    from rios.cli import app

    top, seen = typer.main.get_command(app), 0
    for name, text in blocks("bash"):
        for part in re.split(r"\n|;(?= rios)", text):
            line = part.partition("  #")[0].partition(" # ")[0].strip()
            words = _words(line)
            if not words:
                continue
            seen += 1
            _check(top, words, f"{name}: {line}")
    assert seen > 40


def test_what_documents_install_is_there() -> None:
    """Both distributions are shown, and no document names an extra that there is none of."""
    made = {
        one: tomllib.loads((ROOT / one).read_text())["project"] for one in ("pyproject.toml", "client/pyproject.toml")
    }
    extras = {one["name"]: set(one["optional-dependencies"]) for one in made.values()}
    shown = set()
    for path in (*DOCUMENTS, ROOT / "client" / "README.md"):
        for found in re.finditer(r"pip install '?(rios[\w-]*)(?:\[(\w+)\])?", path.read_text()):
            assert found[1] in extras, path.name
            assert {found[2]} - {None} <= extras[found[1]], path.name
            shown.add((path.name, found[1]))
    assert {("README.md", "rios"), ("README.md", "rios-client")} <= shown
    # A build of torch that was installed before is kept: the pin has no local part, which would shut out the others.
    (pin,) = re.findall(r"^torch(==.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert all(f"{pin[2:]}{build}" in SpecifierSet(pin) for build in ("", "+cpu", "+cu130"))


def _words(line: str) -> list[str]:
    found = re.search(r"(?:^|[(&;] ?)rios (.*)", line)
    if found is None or "|" in found[1]:
        return []
    try:
        return shlex.split(found[1].split("; rios")[0].split(")")[0])
    except ValueError:
        return []


def _check(command: Any, words: list[str], where: str) -> None:
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{where}: there is no {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {text for one in command.params for text in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    assert not unknown, f"{where}: {unknown}"
