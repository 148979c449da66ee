"""Where a network's chain is, for tests that hold on each kind: in the process, or in a node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rios.services.keys import open_key
from rios.services.purse import Purse
from tests.billing.chain.anvil import Anvil
from tests.billing.chain.nets import COINS
from tests.services.earning import purse_of

PLACES = ["embedded", pytest.param("anvil", marks=[pytest.mark.needs("npm"), pytest.mark.needs("node")])]
"""Parameters of a fixture that gives `place_of` each."""


@dataclass(frozen=True, slots=True)
class Place:
    """A chain of one kind, and what is done to it from outside."""

    node: Anvil | None = None
    confirmations: int | None = 0
    """A block of the node is final at once, for nobody mines another on top; None: once the node says so."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings of a network there."""
        return {} if self.node is None else {"chain": self.node.url, "chain_confirmations": self.confirmations}

    def fund(self, purse: Purse, home: Path) -> None:
        """Give operator and wallet the node's own coin, which pays for gas."""
        if self.node is not None:
            for address in (purse.wallet.address, open_key(home, "operator").address):
                self.node.ask("anvil_setBalance", address, hex(COINS))

    @contextlib.contextmanager
    def purse(self, home: Path, **options: Any) -> Iterator[Purse]:
        """A purse there, with contracts of its own where `home` is new."""
        with purse_of(home=home, **self.options, **options) as purse:
            self.fund(purse, home)
            yield purse

    def mine(self, blocks: int) -> None:
        """Blocks of others; an embedded chain mines those that it needs."""
        if self.node is not None:
            self.node.ask("anvil_mine", hex(blocks))

    def advance(self, purse: Purse, seconds: int) -> None:
        """Let time pass on the chain."""
        if not purse.settlement.chain.advance(seconds):
            assert self.node is not None
            self.node.ask("evm_increaseTime", seconds)
            self.mine(1)


@contextlib.contextmanager
def place_of(kind: str, folder: Path, *, slots: int = 32) -> Iterator[Place]:
    """A new chain of a kind in PLACES. slots: a node calls blocks final that have twice as many on top."""
    if kind == "embedded":
        yield Place()
        return
    node = Anvil(folder / "anvil.json", slots=slots)
    try:
        yield Place(node)
    finally:
        node.kill()
