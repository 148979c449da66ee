"""Which owners are paid now, and in which transactions: what a root promises, less what was paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rios.words.display import Shown
from rios.words.ids import Address, derived_id
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.billing.merkle import MerkleTree, MultiProof

CLAIMS_PER_CALL = 250
"""Claims of neighbours in the tree that fit under EIP-7825 whatever the accounts' state (contracts/README.md)."""


@dataclass(frozen=True, slots=True)
class PaidOut(Shown):
    """What owners were paid, by `Settlement.pay_out`."""

    epoch: int
    """Whose root promised it; 0 before any."""
    paid: Mapping[Address, Wei] = field(default_factory=dict)
    """In wei."""
    txs: tuple[str, ...] = ()

    @property
    def total_wei(self) -> Wei:
        """The sum."""
        return Wei(sum(self.paid.values()))

    def __repr__(self) -> str:
        return f"<PaidOut {format_ros(self.total_wei)} to {len(self.paid)} owners in {len(self.txs)} transactions>"


def due_of(ledger: Ledger, tree: MerkleTree, platform: Address) -> dict[Address, Wei]:
    """What each account of a final root is due and was not paid, as far as the chain was followed.

    An account's floor is what all roots promise it and it has not claimed, so what it has claimed is the rest of its
    latest leaf: nobody goes through all claims that ever were.
    """
    from rios.billing.ledger.accounts import REVENUE, earned

    promised, last = ledger.claimable(), ledger.epochs()[-1]
    leaves = ledger.leaves(last.number)
    found: dict[Address, Wei] = {}
    for account, amount in tree.amounts.items():
        unclaimed = promised.get(earned(account), 0) + (promised.get(REVENUE, 0) if account == platform else 0)
        claimed = leaves[account] - unclaimed
        if amount > claimed and int(account, 16):  # the token refuses a transfer to nobody, and so all of its chunk
            found[account] = Wei(amount - claimed)
    return found


def chunks_of(tree: MerkleTree, due: Mapping[Address, int], *, size: int = CLAIMS_PER_CALL) -> Iterator[MultiProof]:
    """The accounts in `due` as the arguments of `claimMany`, neighbours together: their proofs are short."""
    accounts = sorted(due, key=lambda account: tree.places[account])
    for first in range(0, len(accounts), size):
        yield tree.multiproof(accounts[first : first + size])


def key_of(epoch: int, claim: MultiProof) -> str:
    """The name of the intent to pay a chunk: the same accounts and sums by the same root are the same one."""
    amounts = (str(amount) for amount in claim.amounts_wei)
    return f"payout:{epoch}:{derived_id('claims', *claim.accounts, *amounts)}"
