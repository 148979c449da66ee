"""Imports at the start of processes: who does without the collector meanwhile, and has it afterwards."""

from __future__ import annotations

import builtins
import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from rios.cli import app
from rios.dmoe import supervisor, template
from rios.words.importing import uncollected
from tests.gateway.test_join import COMMAND


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """As it is before a test, it is after it."""
    assert gc.isenabled()
    yield
    assert gc.isenabled(), "it was not turned on again"


def test_it_is_as_before_whatever_happens() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled(), "who turned it off first turns it on"
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        raise ImportError("none")
    assert gc.isenabled()


class Recording(ModuleType):
    """Stands for a module: how the collector was when something was taken out of it, and then when that was called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.collected: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.collected.append(gc.isenabled())
        return lambda **_: self.collected.append(gc.isenabled())


@pytest.mark.parametrize(
    ("module", "command"), [("rios.gateway.serve", ("up", "--port", "0")), ("rios.gateway.join", COMMAND)]
)
def test_gateways_are_imported_without_it(
    module: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stands = Recording(module)
    monkeypatch.setitem(sys.modules, module, stands)
    done = CliRunner().invoke(app, [*command, "--home", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert stands.collected == [False, True], "off for the import, on while it serves"


def test_what_templates_have_is_imported_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, bool] = {}
    imports = builtins.__import__

    def recorded(name: str, *more: Any, **named: Any) -> Any:
        asked[name] = gc.isenabled()
        return imports(name, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", lambda name: asked.update({name: gc.isenabled()}))
        template._import_all("dask")
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", recorded)
        supervisor.heavy_imports()
    found = [asked[name] for name in ("distributed.cli.utils", "transformers.generation.utils", "rios.dmoe")]
    assert found == [False, False, False]
