"""The performance report runs, here with one pair of its shortest section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rios.reporting.run import run
from tests.campaigns import ROOT
from tests.reporting.test_html import Requests


@pytest.mark.timeout(600)  # as for the other notebooks
def test_it_runs_and_keeps_its_figures(tmp_path: Path) -> None:
    parameters = {"pairs": 1, "calm_s": 0.0, "sections": ["dispatch"], "figures": str(tmp_path / "figures")}
    page = run("performance", root=ROOT, out=tmp_path, parameters=parameters)
    text = page.read_text()
    assert Requests(text).found == []
    assert "empty dispatch by socket" in text
    (kept,) = (tmp_path / "figures").iterdir()
    assert [entry["what"] for entry in json.loads(kept.read_text())["rows"]] == [
        "empty dispatch by shared memory, of a bare echo",
        "empty dispatch by socket, of a bare echo",
    ]
