"""What a settlement contract says, for whoever has its address alone (`rios.billing.verify.ChainView`)."""

from __future__ import annotations

from typing import Any

from rios.billing.chain.abi import decode, encode, topic_of
from rios.billing.chain.protocol import Chain
from rios.billing.verify import PostedRoot
from rios.words.errors import ChainMismatch, ChainUnavailable
from rios.words.ids import Address
from rios.words.money import Wei


class SettlementView:
    """Roots and claims of one settlement contract."""

    def __init__(self, chain: Chain, settlement: Address, *, from_block: int = 0, block: int | None = None) -> None:
        """from_block: no event of the contract is earlier. block: as it was after that one; as it is now without.

        Raises ChainMismatch where there is no contract.
        """
        if not chain.code(settlement):
            raise ChainMismatch(f"there is no contract at {settlement} on chain {chain.chain_id}: ask another node")
        self._chain = chain
        self._settlement = settlement
        self._from_block = from_block
        self._block = block

    @property
    def chain_id(self) -> int:
        """By EIP-155."""
        return self._chain.chain_id

    @property
    def settlement(self) -> str:
        """The contract's address."""
        return self._settlement

    def total_claimed(self) -> Wei:
        """Wei that it has paid out."""
        return Wei(self._read("totalClaimed"))

    def claimed(self, account: Address) -> Wei:
        """Wei that it has paid to an owner."""
        return Wei(self._read("claimed", account))

    def latest_epoch(self) -> int:
        """The last epoch whose root stands in it; 0 before any."""
        return int(self._read("latestEpoch"))

    def challenge_window_s(self) -> int:
        """For how many seconds a root can be challenged."""
        return int(self._read("challengeWindow"))

    def root_of(self, epoch: int) -> PostedRoot | None:
        """The root that was posted for an epoch and stands, read from the contract's events; None where there is none.

        The contract itself remembers the last two alone.
        """
        from eth_abi.abi import decode as decoded

        head = self._chain.head() if self._block is None else self._chain.block(self._block)
        if head is None:
            raise ChainUnavailable(f"chain {self.chain_id} has no block {self._block} any more; try again")
        which = f"0x{epoch:064x}"
        posted, challenged = (
            self._chain.logs(
                from_block=self._from_block,
                to_block=head.number,
                addresses=[self._settlement],
                topics=[topic_of("RiosSettlement", name), which],
            )
            for name in ("RootPosted", "RootChallenged")
        )
        if not posted:
            return None
        last = posted[-1]
        if any((log.block, log.index) > (last.block, last.index) for log in challenged):
            return None
        root, total, ledger_hash, active_at = decoded(["bytes32", "uint256", "bytes32", "uint256"], last.data)
        return PostedRoot(root, total, ledger_hash, active_at <= head.timestamp)

    def _read(self, function: str, *arguments: Any) -> Any:
        answer = self._chain.call(self._settlement, encode("RiosSettlement", function, *arguments), block=self._block)
        return decode("RiosSettlement", function, answer)
