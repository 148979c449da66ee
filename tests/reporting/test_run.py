"""Notebooks executed by this interpreter, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rios.reporting import run as reporting
from rios.words.errors import InvalidRequest, RiosError
from tests.campaigns import ROOT


def write(root: Path, name: str, *sources: str, parameters: str = "a = 1") -> None:
    folder = root / name.rpartition("/")[0]
    folder.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    (root / f"{name}.ipynb").write_text(nbformat.writes(new_notebook(cells=cells)))


def outputs(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [output["text"] for cell in cells for output in cell.get("outputs", ()) if output["output_type"] == "stream"]


def test_it_runs_in_this_interpreter_with_parameters(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/07_sum", "import sys, rios; print(a + 1, sys.executable)")
    before = dict(os.environ)
    page = reporting.run("sum", root=tmp_path, out=tmp_path / "out", parameters={"a": 41})
    assert page == tmp_path / "out" / "sum.html"
    assert outputs(tmp_path / "out" / "sum.ipynb") == [f"42 {sys.executable}\n"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sum.html", "sum.ipynb"]
    assert dict(os.environ) == before


def test_it_does_not_say_where_it_ran(tmp_path: Path) -> None:
    write(tmp_path, "reports/small", "a")
    page = reporting.run("small", root=tmp_path, out=tmp_path / "out")
    assert str(tmp_path) not in page.read_text()
    assert str(tmp_path) not in page.with_suffix(".ipynb").read_text()


def test_a_failure_names_the_cell_and_leaves_the_last_good_page(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/01_some", "print(a)\nassert a < 5, 'too many'")
    out = tmp_path / "out"
    page = reporting.run("some", root=tmp_path, out=out)
    good = page.read_bytes()
    with pytest.raises(RiosError, match=r"01_some\.ipynb, cell \[\d\]: AssertionError: too many"):
        reporting.run("some", root=tmp_path, out=out, parameters={"a": 6})
    assert page.read_bytes() == good
    assert "6\n" in outputs(out / "some.failed.ipynb")
    reporting.run("some", root=tmp_path, out=out)
    assert not (out / "some.failed.ipynb").exists()


def test_a_cell_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "CELL_TIMEOUT_S", 2)
    write(tmp_path, "notebooks/01_slow", "import time; time.sleep(60)")
    with pytest.raises(RiosError, match="took more than 2 s"):
        reporting.run("slow", root=tmp_path, out=tmp_path / "out")


def test_a_dead_kernel_is_an_error_of_ours(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/01_dead", "import os; os._exit(3)")
    with pytest.raises(RiosError, match="process ended"):
        reporting.run("dead", root=tmp_path, out=tmp_path / "out")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/01_some")
    with pytest.raises(InvalidRequest, match="no notebook 'other'; there are some"):
        reporting.run("other", root=tmp_path, out=tmp_path / "out")
    with pytest.raises(InvalidRequest, match="no parameter 'b'; it has a"):
        reporting.run("some", root=tmp_path, out=tmp_path / "out", parameters={"b": 1})
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_path_and_needs_no_home(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/01_some", "print(a)")
    command = [sys.executable, "-m", "rios.reporting.run"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "IPYTHON"))}
    environment |= {"HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    done = call("some", "-p", "a", "[1, 2]")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/reports/out/some.html\n"), done.stderr
    assert "[1, 2]\n" in outputs(tmp_path / "reports" / "out" / "some.ipynb")
    missing = call("nothing")
    assert missing.returncode == 1
    assert missing.stderr == "error: no notebook 'nothing'; there are some\n"
