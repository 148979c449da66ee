"""The manual runs: each notebook from its first cell to its last, into a page that opens offline."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rios.reporting.run import parameters_of, run
from tests.campaigns import ROOT, Campaign
from tests.gateway.servers import up
from tests.reporting.test_html import Requests

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Dask says when a machine is too busy to give it its turns, which is no fault of a notebook.
BUSY = re.compile(r"[-\d]+ [:,\d]+ - distributed\.[.\w]+ - (INFO|WARNING) - .*unresponsive")
# The notebook about money uses up its budget.
ALERT = re.compile(r"\d+ % of the budget of [.\d]+ ROS a month are spent: [.\d]+ ROS$")


# What a notebook may take on a laptop, from the start of its kernel to its page.
SECONDS_MAX = 120.0
WORKERS = {"02_faults": 3, "08_deployments": 1, "09_provider": 1}
"""Those that a notebook counts on; two without."""


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
    _check(run(path.stem[3:], root=ROOT, out=tmp_path))


def _check(page: Path) -> None:
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert not [line for line in said.splitlines() if not (BUSY.match(line) or ALERT.match(line))], said
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    text = page.read_text()
    assert Requests(text).found == []
    assert text.count("Plotly.newPlot('rios-plot-") >= 1
    assert "Traceback (most recent call last)" not in text


@contextmanager
def _network(path: Path, home: Path) -> Iterator[dict[str, Any]]:
    """The parameters with which a notebook uses a `rios up` of its own; the one about the gateway starts it itself."""
    known = parameters_of(path)
    if "url" not in known:
        yield {}
        return
    apps = Path(tempfile.mkdtemp(prefix="rios-manual-"))
    apps.chmod(0o711)  # sandboxes' own users pass through
    try:
        workers = str(WORKERS.get(path.stem, 2))
        with up(home, "--workers", workers, RIOS_APPS=str(apps)) as door:
            there = {"url": door.url, "scheduler": door.scheduler, "home": str(home)}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RIOS_TOKEN", door.token)
                yield {name: value for name, value in there.items() if name in known}
    finally:
        shutil.rmtree(apps)


def _timed(path: Path, out: Path, *, behind_a_gateway: bool) -> float:
    """Seconds that a notebook took."""
    if not behind_a_gateway:
        began = time.monotonic()
        _check(run(path.stem[3:], root=ROOT, out=out))
        return round(time.monotonic() - began, 1)
    with _network(path, out.with_name(f"home-{path.stem}")) as parameters:
        began = time.monotonic()
        _check(run(path.stem[3:], root=ROOT, out=out, parameters=parameters))
        return round(time.monotonic() - began, 1)


@pytest.mark.long
def test_each_runs_alone_and_against_rios_up(campaign_record: Campaign, tmp_path: Path) -> None:
    """All nine, on a network of their own and on that of a `rios up` by its URL, each in less than two minutes."""
    took: dict[str, dict[str, float]] = {"alone": {}, "rios up": {}}
    for where, found in took.items():
        for path in NOTEBOOKS:
            what = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            once = partial(_timed, path, tmp_path / where, behind_a_gateway=where == "rios up")
            found[path.stem] = campaign_record.once(f"{path.stem} {what} {where}", once)
    campaign_record.conclude(
        notebooks=len(NOTEBOOKS),
        **{f"{where} s": ", ".join(f"{stem[:2]} {seconds:.0f}" for stem, seconds in found.items())
           for where, found in took.items()},
    )  # fmt: skip
    assert not {(where, stem): s for where, found in took.items() for stem, s in found.items() if s > SECONDS_MAX}
