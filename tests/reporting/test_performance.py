"""The performance report runs, here with one pair of its shortest sections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rios.reporting.run import run
from tests.campaigns import ROOT
from tests.reporting.test_html import Requests


@pytest.mark.timeout(600)  # as for the other notebooks
def test_it_runs_and_keeps_its_figures(tmp_path: Path) -> None:
    sections = ["dispatch", "billing", "ledger", "deployments"]
    parameters = {"pairs": 1, "calm_s": 0.0, "sections": sections, "postings": 2_000, "deployments": 200}
    page = run("performance", root=ROOT, out=tmp_path, parameters={**parameters, "figures": str(tmp_path / "figures")})
    text = page.read_text()
    assert Requests(text).found == []
    assert "empty dispatch by socket" in text
    (kept,) = (tmp_path / "figures").iterdir()
    found = json.loads(kept.read_text())["sections"]
    assert list(found) == sections
    assert [row["what"] for row in found["dispatch"]["rows"]] == [
        "empty dispatch by shared memory, of a bare echo",
        "empty dispatch by shared memory, of a bare echo from another core",
        "empty dispatch by socket, of a bare echo",
        "empty dispatch by socket, of a bare echo from another core",
    ]
    assert [row["target"] for row in found["billing"]["rows"]] == [0.03, None] * 3
    assert [row["target"] for row in found["ledger"]["rows"]] == [0.8, 10.0, 10.0, 500.0] * 2
    assert [row["target"] for row in found["deployments"]["rows"]] == [50.0, 2.0, 200.0]
    assert all(row["state"] != "not measured" for section in found.values() for row in section["rows"])
