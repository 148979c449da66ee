"""Money on the chain: deposits and withdrawals, epochs and their roots, claims.

Whatever is sent is an intent with a key first, and whatever happened is read from events, so a crash at any point
neither repeats nor forgets anything: the next call goes on.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rios.services.books import LOCAL_USER, Books
from rios.services.moments import moment_of
from rios.words.errors import InvalidRequest, NotProvable, TransactionFailed
from rios.words.ids import Address
from rios.words.money import Wei, format_ros, parse_ros

if TYPE_CHECKING:
    from rios.billing.ledger.values import Balance, Epoch
    from rios.billing.merkle import MerkleTree
    from rios.services.network_chain import NetworkChain

# Under EIP-7825's 16.78 M gas whatever the accounts' state (contracts/README.md).
_CHARGES_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Settled:
    """A closed epoch whose root stands in the contract."""

    epoch: int
    root: str
    total_wei: Wei
    """All that was ever earned, platform's share included."""
    tx: str
    """The transaction that posted the root."""
    closed_at: datetime

    @property
    def total(self) -> str:
        """In ROS."""
        return format_ros(self.total_wei)

    def __repr__(self) -> str:
        return (
            f"<Settled epoch {self.epoch}: {self.total} earned in all, root {self.root[:10]}..., tx {self.tx[:10]}...>"
        )


class Settlement:
    """Moves money between ledger and chain, for the operator and the wallet of one network."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._lock = threading.RLock()

    @property
    def chain(self) -> NetworkChain:
        """The chain with its contracts; started and deployed when it is first asked for."""
        return self._books.chain

    # --- events ----------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Take what happened on the chain into the ledger; how many events were new."""
        with self._lock:
            return self.chain.follow(self._books.ledger)

    # --- the wallet ------------------------------------------------------------------------------------------

    def deposit(self, amount: str | int) -> Balance:
        """Move ROS of the wallet into the escrow and return the balance once they are credited."""
        wei = self._positive(amount, "the deposit")
        chain = self.chain
        have = chain.tokens_of(self._books.address)
        if wei > have:
            raise InvalidRequest(
                f"the wallet {self._books.address} has {format_ros(have)} on the chain, and {format_ros(wei)} were to "
                f"be deposited; deposit at most {format_ros(have)}, or send it ROS first"
            )
        key = f"deposit:{secrets.token_hex(8)}"
        with self._lock:
            chain.as_wallet(f"{key}:approve", "RosToken", "approve", chain.addresses.escrow, wei)
            chain.as_wallet(key, "RiosEscrow", "deposit", wei)
            chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def withdraw(self, amount: str | int) -> Balance:
        """Take deposited ROS back to the wallet, after what was used has been settled and the delay has passed.

        Where the escrow delays withdrawals, this only asks for it: call `finish_withdrawal` when it is due.
        """
        wei = self._positive(amount, "the withdrawal")
        with self._lock:
            self.settle()
            balance = self._books.ledger.balance(LOCAL_USER)
            if wei > balance.deposited_wei:
                raise InvalidRequest(
                    f"{format_ros(balance.deposited_wei)} can be withdrawn, not {format_ros(wei)}: what is held or was "
                    "given as trial credit stays"
                )
            key = f"withdraw:{secrets.token_hex(8)}"
            self.chain.as_wallet(f"{key}:request", "RiosEscrow", "requestWithdrawal", wei)
            if self.chain.withdrawal_delay_s == 0:
                self.chain.as_wallet(key, "RiosEscrow", "withdraw")
            self.chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def finish_withdrawal(self) -> Balance:
        """Take what was asked for earlier and is due now. Raises TransactionFailed before that."""
        with self._lock:
            self.chain.as_wallet(f"withdraw:{secrets.token_hex(8)}", "RiosEscrow", "withdraw")
            self.chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    # --- epochs ----------------------------------------------------------------------------------------------

    def settle(self) -> Settled | None:
        """Close an epoch over all that was used and post its root; the same again where nothing was; None before any.

        Each step is repeatable: charges carry an id that the escrow remembers, the root its number.
        """
        from rios.billing.ledger.values import EpochState

        ledger = self._books.ledger
        with self._lock:
            self.sync()
            for epoch in ledger.epochs():
                if epoch.state in (EpochState.CLOSED, EpochState.POSTING, EpochState.CHALLENGED):
                    self._post(epoch)
            epoch_or_none = ledger.close_epoch(self.chain.platform, keccak=self.chain.keccak)
            if epoch_or_none is None:
                return None
            if epoch_or_none.state in (EpochState.CLOSED, EpochState.POSTING):
                self._post(epoch_or_none)
            last = ledger.epoch(epoch_or_none.number)
        assert last is not None
        return Settled(last.number, last.root, last.total_wei, last.tx or "", moment_of(last.closed_at))

    def _post(self, epoch: Epoch) -> None:
        """Fund an epoch from the escrow and the treasury, then post its root."""
        from rios.billing.ledger.values import EpochState

        ledger, chain = self._books.ledger, self.chain
        ledger.mark_epoch(epoch.number, EpochState.POSTING)
        charges = ledger.charges(epoch.number)
        due = [(charge.user_id, charge.amount_wei) for charge in charges]
        self._charge(epoch.number, [(self._address(user), wei) for user, wei in due if wei > 0])
        self._credit(epoch.number, [(self._address(user), -wei) for user, wei in due if wei < 0])
        missing = epoch.total_wei - chain.total_claimed() - chain.tokens_of(chain.addresses.settlement)
        if missing > 0:
            # Trial credit is the treasury's gift: it pays for what was used of it.
            chain.as_operator(f"fund:{epoch.number}", "RosToken", "transfer", chain.addresses.settlement, missing)
        receipt = chain.as_operator(
            f"root:{epoch.number}:{epoch.root}",
            "RiosSettlement",
            "post",
            epoch.number,
            bytes.fromhex(epoch.root[2:]),
            epoch.total_wei,
            epoch.head_hash,
        )
        chain.confirm()
        self.sync()
        final = EpochState.FINAL if chain.challenge_window_s() == 0 else EpochState.POSTED
        ledger.mark_epoch(epoch.number, final, tx=receipt.tx_hash)

    def _charge(self, number: int, due: Sequence[tuple[Address, int]]) -> None:
        for part, (users, amounts) in enumerate(_chunks(due)):
            name = f"charge:{number}:{part}"
            self.chain.as_operator(
                name, "RiosEscrow", "charge", self.chain.keccak(name.encode()), number, users, amounts
            )

    def _credit(self, number: int, due: Sequence[tuple[Address, int]]) -> None:
        chain = self.chain
        for part, (users, amounts) in enumerate(_chunks(due)):
            name = f"credit:{number}:{part}"
            chain.as_operator(f"{name}:approve", "RosToken", "approve", chain.addresses.escrow, sum(amounts))
            chain.as_operator(name, "RiosEscrow", "credit", chain.keccak(name.encode()), users, amounts)

    def _address(self, user: str) -> Address:
        address = self._books.ledger.address_of(user)
        if address is None:
            raise NotProvable(f"the account {user} has no address on the chain: link one before its use is settled")
        return address

    # --- claims ----------------------------------------------------------------------------------------------

    def tree(self) -> tuple[int, MerkleTree] | None:
        """The epoch whose root can be claimed against and its tree; None before any."""
        from rios.billing.merkle import MerkleTree

        number = self.chain.latest_epoch()
        if number == 0:
            return None
        return number, MerkleTree.of(self._books.ledger.leaves(number), keccak=self.chain.keccak)

    def claim(self, account: Address) -> Wei:
        """Pay an owner what the last root promises and was not paid yet; how much that was. Anybody may ask for it."""
        with self._lock:
            found = self.tree()
            if found is None or account not in found[1].amounts:
                return Wei(0)
            number, tree = found
            due = tree.amounts[account] - self.chain.claimed(account)
            if due <= 0:
                return Wei(0)
            key = f"claim:{account}:{tree.amounts[account]}"
            receipt = self.chain.as_operator(
                key, "RiosSettlement", "claim", account, tree.amounts[account], list(tree.proof(account))
            )
            if not receipt.succeeded:
                raise TransactionFailed(f"the claim of {account} in epoch {number} was reverted ({receipt.tx_hash})")
            self.chain.confirm()
            self.sync()
        return Wei(due)

    @staticmethod
    def _positive(amount: str | int, name: str) -> Wei:
        wei = parse_ros(amount, name=name)
        if wei == 0:
            raise InvalidRequest(f"{name} is 0 ROS; it must be more")
        return wei


def _chunks(due: Sequence[tuple[Address, int]]) -> Iterator[tuple[list[Address], list[int]]]:
    for start in range(0, len(due), _CHARGES_PER_CALL):
        part = due[start : start + _CHARGES_PER_CALL]
        yield [address for address, _ in part], [amount for _, amount in part]
