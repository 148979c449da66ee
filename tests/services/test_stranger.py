"""Which contract an export is checked against: the network's, and not whichever the file names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rios.billing.verify import Link
from rios.services.stranger import check_file
from rios.words.config import settings
from rios.words.errors import InvalidRequest
from tests.services.earning import earn, owner, purse_of

ANN = owner(0xA1)
Check = Callable[..., Link]


def exported(home: Path) -> None:
    """Make a network in a home, with the export of a use."""
    with purse_of(home=home) as purse:
        earn(purse, "work", {ANN: 10**15})
        purse.billing.settle()
        purse.billing.export(purse.billing.usage().usage_id[0], home / "proof.json")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network's home, and a forger's, who has made a network of his own on the same chain."""
    honest, forger = tmp_path_factory.mktemp("honest"), tmp_path_factory.mktemp("forger")
    exported(honest)
    shutil.copy(honest / "chain.sqlite", forger / "chain.sqlite")
    shutil.copytree(honest / "keys", forger / "keys")  # whose owner has what gas costs
    exported(forger)
    return honest, forger


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch, homes: tuple[Path, Path]) -> Check:
    """The link "contract" of a check on the chain that has both networks."""
    del homes

    def check(home: Path, file: Path, settlement: str | None = None) -> Link:
        monkeypatch.setenv("RIOS_HOME", str(home))
        settings.cache_clear()
        try:
            return next(link for link in check_file(file, None, settlement) if link.name == "contract")
        finally:
            monkeypatch.undo()
            settings.cache_clear()

    return check


def settlement_of(home: Path) -> str:
    return str(json.loads((home / "contracts.json").read_text())["settlement"])


def test_a_forgers_contract_is_not_the_networks(homes: tuple[Path, Path], contract: Check) -> None:
    honest, forger = homes
    ours, theirs = settlement_of(honest), settlement_of(forger)
    assert ours != theirs
    found = contract(forger, forger / "proof.json", ours)
    assert found.state == "failed"
    assert ours in found.reason
    assert theirs in found.reason
    assert contract(forger, forger / "proof.json", theirs.lower()).state == "ok"


def test_without_an_address_it_says_which_contract_was_asked(
    homes: tuple[Path, Path], contract: Check, tmp_path: Path
) -> None:
    honest, forger = homes
    shutil.copy(forger / "chain.sqlite", tmp_path / "chain.sqlite")  # a stranger's own node
    found = contract(tmp_path, forger / "proof.json")
    assert found.state == "pending"
    assert settlement_of(forger) in found.reason
    assert json.loads((forger / "contracts.json").read_text())["token"] in found.reason
    assert "compare" in found.reason
    # A home knows its own network's.
    assert contract(honest, honest / "proof.json").state == "ok"
    assert contract(forger, forger / "proof.json").state == "ok"


def test_other_code_is_no_settlement(homes: tuple[Path, Path], contract: Check, tmp_path: Path) -> None:
    honest, _ = homes
    escrow = json.loads((honest / "contracts.json").read_text())["escrow"]
    document = json.loads((honest / "proof.json").read_text())
    file = tmp_path / "proof.json"
    file.write_text(json.dumps({**document, "settlement": escrow}))
    found = contract(honest, file, escrow)
    assert found.state == "failed"
    assert "other code" in found.reason


def test_an_address_that_is_none(homes: tuple[Path, Path], contract: Check) -> None:
    with pytest.raises(InvalidRequest, match="--settlement"):
        contract(homes[0], homes[0] / "proof.json", "0x12")
