"""Chains: in memory, in a home, and behind a node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.chain.embedded import EmbeddedChain
from tests.billing.chain.anvil import Anvil
from tests.billing.chain.nets import ALICE, BOB, CAROL, COINS, Net, on_anvil

needs_npm = [pytest.mark.needs("npm"), pytest.mark.needs("node")]
FUND = {signer.address: COINS for signer in (ALICE, BOB, CAROL)}


@pytest.fixture
def anvil(tmp_path: Path) -> Iterator[Anvil]:
    """A node of its own for a test; a block is final under two others."""
    node = Anvil(tmp_path / "anvil.json", slots=1)
    yield node
    node.kill()


@pytest.fixture(params=["memory", "home", pytest.param("anvil", marks=needs_npm)])
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    """A new chain of each kind, on which Alice, Bob and Carol have coins."""
    if request.param == "anvil":
        found = on_anvil(request.getfixturevalue("anvil"))
    else:
        found = Net(chain=EmbeddedChain(None if request.param == "memory" else tmp_path / "home", fund=FUND))
    yield found
    found.chain.close()


@pytest.fixture
def live(anvil: Anvil) -> Iterator[Net]:
    """A node on which Alice, Bob and Carol have coins."""
    found = on_anvil(anvil)
    yield found
    found.chain.close()
