"""The manual runs: each notebook from its first cell to its last, into a page that opens offline."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from rios.reporting.run import parameters_of, run
from tests.campaigns import ROOT
from tests.reporting.test_html import Requests

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Dask says when a machine is too busy to give it its turns, which is no fault of a notebook.
BUSY = re.compile(r"[-\d]+ [:,\d]+ - distributed\.[.\w]+ - (INFO|WARNING) - .*unresponsive")
# The notebook about money uses up its budget.
ALERT = re.compile(r"\d+ % of the budget of [.\d]+ ROS a month are spent: [.\d]+ ROS$")


def test_the_manual_is_complete() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_faults",
        "03_placement",
        "04_billing",
        "05_settlement",
        "06_cost_report",
        "07_gateway",
        "08_deployments",
        "09_provider",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stripped_and_has_parameters(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code) == 1
    assert parameters_of(path)


@pytest.mark.timeout(600)  # five processes import torch, on cores that other tests may hold
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_page_is_offline(path: Path, tmp_path: Path) -> None:
    page = run(path.stem[3:], root=ROOT, out=tmp_path)
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    said = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not [line for line in "".join(said).splitlines() if not (BUSY.match(line) or ALERT.match(line))]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    text = page.read_text()
    assert Requests(text).found == []
    assert text.count("Plotly.newPlot('rios-plot-") >= 1
    assert "Traceback (most recent call last)" not in text
