"""What is shipped in rios/billing/artifacts is what the sources compile to, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import ROOT
from tests.contracts import toolchain

SHIPPED = ROOT / "rios" / "billing" / "artifacts"
NAMES = sorted(path.stem for path in SHIPPED.glob("*.json"))
CODE_BYTES_MAX = 24_576  # EIP-170

needs_npm = [pytest.mark.needs("npm"), pytest.mark.needs("node")]


def _artifact(name: str) -> dict[str, Any]:
    return json.loads((SHIPPED / f"{name}.json").read_text())


def test_all_contracts_are_shipped() -> None:
    contracts = {path.stem for path in (toolchain.CONTRACTS / "src").glob("*.sol")}
    assert set(NAMES) == contracts - {"RiosPausable"} | {"TimelockController"}


@pytest.mark.parametrize("name", NAMES)
def test_artifact_can_be_deployed(name: str) -> None:
    artifact = _artifact(name)
    assert artifact.keys() == {"abi", "bytecode", "deployedBytecode", "immutableReferences"}
    code = bytes.fromhex(artifact["deployedBytecode"].removeprefix("0x"))
    assert 0 < len(code) <= CODE_BYTES_MAX
    assert bytes.fromhex(artifact["bytecode"].removeprefix("0x"))
    for start, length in artifact["immutableReferences"]:
        assert not any(code[start : start + length]), "zeros stand where the constructor puts immutables"


class TestRebuilt:
    pytestmark = needs_npm

    def test_artifacts_byte_for_byte(self, tmp_path: Path) -> None:
        toolchain.node("build.js", str(tmp_path))
        rebuilt = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        shipped = {path.name: path.read_bytes() for path in SHIPPED.iterdir()}
        changed = sorted(name for name in rebuilt.keys() | shipped.keys() if rebuilt.get(name) != shipped.get(name))
        assert not changed, f"run `npm run build` in contracts/ and commit {changed}"

    def test_forge_tests_the_code_that_is_shipped(self) -> None:
        """foundry.toml and tool/settings.js say the same: forge compiles to the same bytes."""
        toolchain.forge("build")
        for name in NAMES:
            built = json.loads((toolchain.CONTRACTS / "out" / f"{name}.sol" / f"{name}.json").read_text())
            assert built["bytecode"]["object"] == _artifact(name)["bytecode"], name

    def test_trees_of_the_oracle(self, tmp_path: Path) -> None:
        """The fixture is what @openzeppelin/merkle-tree makes."""
        toolchain.node("trees.js", str(tmp_path / "trees.json"))
        fixture = toolchain.CONTRACTS / "test" / "fixtures" / "trees.json"
        assert (tmp_path / "trees.json").read_bytes() == fixture.read_bytes()


def test_packages_are_pinned() -> None:
    package = json.loads((toolchain.CONTRACTS / "package.json").read_text())
    lock = json.loads((toolchain.CONTRACTS / "package-lock.json").read_text())["packages"]
    for name, version in {**package["dependencies"], **package["devDependencies"]}.items():
        assert lock[f"node_modules/{name}"]["version"] == version
    for name, entry in lock.items():
        assert name == "" or "integrity" in entry, f"{name} has no digest"
        assert "resolved" not in entry, f"{name}: where a package comes from is the business of who installs it"
