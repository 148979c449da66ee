"""The contracts' tests, run by forge: specifications, attacks, gas, invariants, and every branch taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts import toolchain

TESTS = toolchain.CONTRACTS / "test"
TREES = sorted(TESTS.rglob("*.tree"))
needs_npm = [pytest.mark.needs("npm"), pytest.mark.needs("node")]


class TestForge:
    pytestmark = needs_npm

    def test_all_pass_and_the_gas_is_as_committed(self) -> None:
        said = toolchain.forge("test", FORGE_SNAPSHOT_CHECK="true")
        assert re.search(r"[1-9]\d* tests passed, 0 failed, 0 skipped", said), said

    def test_sources_are_formatted(self) -> None:
        toolchain.forge("fmt", "--check")

    def test_every_branch_is_taken(self, tmp_path: Path) -> None:
        report = tmp_path / "lcov.info"
        # Without the optimizer, which this needs, gas is another.
        toolchain.forge("coverage", "--no-match-contract", "GasTest", "--report", "lcov", "--report-file", str(report))
        found = {name: counts for name, counts in _coverage(report) if name.startswith("src/")}
        assert set(found) >= {"src/RiosEscrow.sol", "src/RiosSettlement.sol", "src/RiosStaking.sol", "src/RosToken.sol"}
        for name, counts in found.items():
            assert counts["BRH"] == counts["BRF"], f"{name}: {counts}"
            assert counts["LH"] == counts["LF"], f"{name}: {counts}"

    @pytest.mark.long
    def test_long_campaign(self) -> None:
        toolchain.forge("test", "--no-match-contract", "GasTest", timeout_s=3000, FOUNDRY_PROFILE="long")


def _coverage(report: Path) -> Iterator[tuple[str, Counter[str]]]:
    for record in report.read_text().split("end_of_record\n"):
        lines = dict(line.split(":", 1) for line in record.splitlines() if line.startswith(("SF:", "BR", "L")))
        if "SF" in lines:
            yield lines["SF"], Counter({key: int(lines.get(key, 0)) for key in ("BRF", "BRH", "LF", "LH")})


@pytest.mark.parametrize("tree", TREES, ids=lambda path: path.stem)
def test_specification_and_tests_name_each_other(tree: Path) -> None:
    text = tree.read_text()
    leaves = [line for line in text.splitlines() if re.search(r"── it should ", line)]
    specified = re.findall(r"\[(test\w+)\]$", text, re.MULTILINE)
    assert len(specified) == len(leaves) == len(set(specified))
    tests = re.findall(r"function (test(?:Fuzz)?_\w+)\(", tree.with_suffix(".t.sol").read_text())
    assert sorted(specified) == sorted(tests)


def test_each_contract_has_a_specification() -> None:
    contracts = {path.stem for path in (toolchain.CONTRACTS / "src").glob("*.sol")} - {"RiosPausable"}
    assert {path.stem for path in TREES} == contracts | {"Attacks"}


def test_no_assembly_of_ours() -> None:
    for source in (toolchain.CONTRACTS / "src").rglob("*.sol"):
        assert "assembly" not in source.read_text(), source.name
