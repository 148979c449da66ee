"""What slither finds in the contracts: nothing of weight, and each trifle answered in contracts/SLITHER.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contracts import toolchain

# A minute with the installation of slither, so `make lint` and `make test-long` run it and `make test` does not.
pytestmark = [pytest.mark.long, pytest.mark.needs("npm"), pytest.mark.needs("node")]


def _place(finding: dict[str, Any]) -> str:
    element = finding["elements"][0]
    return f"{element['type_specific_fields']['parent']['name']}.{element['name']}"


def test_every_finding_is_answered(tmp_path: Path) -> None:
    report = tmp_path / "slither.json"
    toolchain.slither(report, tmp_path)
    findings = json.loads(report.read_text())["results"].get("detectors", [])
    heavy = [finding["description"] for finding in findings if finding["impact"] in {"High", "Medium"}]
    assert not heavy, "\n".join(heavy)
    found = {(finding["check"], _place(finding)) for finding in findings}
    rows = re.findall(r"^\| ([\w-]+) \| ([\w.]+) \| \S", (toolchain.CONTRACTS / "SLITHER.md").read_text(), re.MULTILINE)
    assert found == set(rows) - {("detector", "where")}
