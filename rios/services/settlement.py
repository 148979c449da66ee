"""Money on the chain: deposits and withdrawals, epochs and their roots, claims.

Whatever is sent is an intent with a key first, and whatever happened is read from events, so a crash at any point
neither repeats nor forgets anything: the next call goes on.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from rios.services.books import LOCAL_USER, Books
from rios.services.moments import moment_of
from rios.services.payouts import PaidOut, chunks_of, due_of, key_of
from rios.words.errors import ChainUnavailable, InvalidRequest, NotProvable, TransactionFailed
from rios.words.ids import Address, derived_id
from rios.words.money import Wei, format_ros, parse_ros

if TYPE_CHECKING:
    from rios.billing.ledger.values import Balance, Epoch
    from rios.billing.merkle import MerkleTree
    from rios.services.network_chain import NetworkChain

log = logging.getLogger(__name__)

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
    """The transaction that posted the root; "" where it is not posted yet."""
    closed_at: datetime
    final: bool = field(default=True, compare=False)
    """Whether the root can be challenged no more: claims are paid by it from then on."""

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

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One thread at a time; who waits for another longer than that may take gets ChainUnavailable."""
        timeout_s = self._books.final_timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise ChainUnavailable(f"another thread settles since {timeout_s:g} s; try again when it is done")
        try:
            yield
        finally:
            self._lock.release()

    @property
    def chain(self) -> NetworkChain:
        """The chain with its contracts; started and deployed when it is first asked for."""
        return self._books.chain

    # --- events ----------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Take what happened on the chain into the ledger; how many events were new."""
        with self._turn():
            count = self.chain.follow(self._books.ledger)
            self._mature()
        return count

    def _mature(self) -> None:
        """Mark the root that waited for the end of its challenge window as final, or as challenged."""
        from rios.billing.ledger.values import EpochState

        ledger, chain = self._books.ledger, self.chain
        waiting = [epoch.number for epoch in ledger.epochs() if epoch.state is EpochState.POSTED]
        if not waiting:
            return
        final, stands = chain.final_epoch(), chain.latest_epoch()
        for number in waiting:
            if number <= final:
                ledger.mark_epoch(number, EpochState.FINAL)
            elif number > stands:
                log.error("the root of an epoch was challenged", extra={"epoch": number})
                ledger.mark_epoch(number, EpochState.CHALLENGED)

    # --- the wallet ------------------------------------------------------------------------------------------

    def deposit(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Move ROS of the wallet into the escrow and return the balance once they are credited.

        key: with it, once for each; LedgerConflict where it came before with another amount.
        """
        wei = self._positive(amount, "the deposit")
        chain = self.chain
        key = f"deposit:{key or secrets.token_hex(8)}"
        have = chain.tokens_of(self._books.address)
        if wei > have and not chain.begun(key):
            raise InvalidRequest(
                f"the wallet {self._books.address} has {format_ros(have)} on the chain, and {format_ros(wei)} were to "
                f"be deposited; deposit at most {format_ros(have)}, or send it ROS first"
            )
        with self._turn():
            chain.as_wallet(f"{key}:approve", "RosToken", "approve", chain.addresses.escrow, wei)
            chain.as_wallet(key, "RiosEscrow", "deposit", wei)
            chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def withdraw(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Take deposited ROS back to the wallet, after what was used has been settled and the delay has passed.

        Where the escrow delays withdrawals, this only asks for it: call `finish_withdrawal` when it is due.
        key: as of `deposit`.
        """
        wei = self._positive(amount, "the withdrawal")
        key = f"withdraw:{key or secrets.token_hex(8)}"
        with self._turn():
            # A withdrawal whose process was killed goes first, and leaves less.
            self.chain.finish_wallet()
            self.settle()
            balance = self._books.ledger.balance(LOCAL_USER)
            if wei > balance.deposited_wei and not self.chain.begun(f"{key}:request"):
                raise InvalidRequest(
                    f"{format_ros(balance.deposited_wei)} can be withdrawn, not {format_ros(wei)}: what is held or was "
                    "given as trial credit stays"
                )
            self.chain.as_wallet(f"{key}:request", "RiosEscrow", "requestWithdrawal", wei)
            if self.chain.withdrawal_delay_s == 0:
                self.chain.as_wallet(key, "RiosEscrow", "withdraw")
            self.chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def finish_withdrawal(self, *, key: str | None = None) -> Balance:
        """Take what was asked for earlier and is due now, or raise TransactionFailed. key: as of `deposit`."""
        with self._turn():
            self.chain.as_wallet(f"finish:{key or secrets.token_hex(8)}", "RiosEscrow", "withdraw")
            self.chain.confirm()
            self.sync()
        return self._books.ledger.balance(LOCAL_USER)

    # --- epochs ----------------------------------------------------------------------------------------------

    def settle(self) -> Settled | None:
        """Close an epoch over all that was used and post its root; the same again where nothing was; None before any.

        While the last root can be challenged there is no next one: then that one again, and what was used since waits.
        A root that was challenged is posted once more: whoever settles has looked at it. Each step is repeatable:
        charges carry an id that the escrow remembers, the root its number.
        """
        from rios.billing.ledger.values import EpochState

        ledger = self._books.ledger
        with self._turn():
            self.sync()
            epochs = ledger.epochs()
            for epoch in epochs:
                if epoch.state in (EpochState.CLOSED, EpochState.POSTING, EpochState.CHALLENGED):
                    self._post(epoch)
            last = ledger.epoch(epochs[-1].number) if epochs else None
            if last is None or last.state is EpochState.FINAL:
                last = ledger.close_epoch(self.chain.platform, keccak=self.chain.keccak)
                if last is None:
                    return None
                if last.state is not EpochState.FINAL:
                    self._post(last)
                    last = ledger.epoch(last.number)
        assert last is not None
        final = last.state is EpochState.FINAL
        return Settled(last.number, last.root, last.total_wei, last.tx or "", moment_of(last.closed_at), final)

    @property
    def challenged(self) -> bool:
        """Whether the latest root was challenged, as far as the chain was followed: somebody has to look at it."""
        return self._last_is("challenged")

    @property
    def pending(self) -> bool:
        """Whether the latest root can still be challenged, as far as the chain was followed."""
        return self._last_is("posted")

    def _last_is(self, state: str) -> bool:
        epochs = self._books.ledger.epochs()
        return bool(epochs) and epochs[-1].state == state

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
            key = f"fund:{epoch.number}:{missing}"
            chain.as_operator(key, "RosToken", "transfer", chain.addresses.settlement, missing)
        receipt = chain.as_operator(
            self._root_key(epoch),
            "RiosSettlement",
            "post",
            epoch.number,
            bytes.fromhex(epoch.root[2:]),
            epoch.total_wei,
            epoch.head_hash,
        )
        chain.confirm()
        ledger.mark_epoch(epoch.number, EpochState.POSTED, tx=receipt.tx_hash)
        self.sync()

    def _root_key(self, epoch: Epoch) -> str:
        """A root that was challenged needs a new transaction."""
        dropped = sum(
            int(event.args["epoch"]) == epoch.number for event in self._books.ledger.chain_events(name="RootChallenged")
        )
        return f"root:{epoch.number}:{epoch.root}" + (f":{dropped}" if dropped else "")

    def _charge(self, number: int, due: Sequence[tuple[Address, int]]) -> None:
        chain = self.chain
        for part, (users, amounts) in enumerate(_chunks(due)):
            name = f"charge:{number}:{part}"
            batch = chain.keccak(name.encode())
            try:
                chain.as_operator(name, "RiosEscrow", "charge", batch, number, users, amounts)
            except TransactionFailed:
                # Who has withdrawn what was held of it must not keep the owners from what all others paid. He is
                # overdrawn in the ledger, and the treasury pays for him until he deposits again.
                there = [chain.read("RiosEscrow", "balanceOf", user) for user in users]
                short = [user for user, wei, has in zip(users, amounts, there, strict=True) if has < wei]
                if chain.read("RiosEscrow", "batchUsed", batch):
                    continue  # by an earlier attempt that was still under way
                if not short:
                    raise
                log.error("users have less in the escrow than they used", extra={"epoch": number, "users": short})
                rest = [(user, min(wei, has)) for user, wei, has in zip(users, amounts, there, strict=True) if has]
                if rest:
                    users, amounts = [user for user, _ in rest], [wei for _, wei in rest]
                    key = f"{name}:{derived_id('charges', *users, *map(str, amounts))}"
                    chain.as_operator(key, "RiosEscrow", "charge", batch, number, users, amounts)

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

        number = self.chain.claimable_epoch()
        if number == 0:
            return None
        return number, MerkleTree.of(self._books.ledger.leaves(number), keccak=self.chain.keccak)

    def claim(self, account: Address) -> Wei:
        """Pay an owner what the last final root promises and was not paid yet; how much that was.

        Of any amount, and whoever asks: the money goes to the owner.
        """
        with self._turn():
            found = self.tree()
            if found is None or account not in found[1].amounts:
                return Wei(0)
            number, tree = found
            amount = tree.amounts[account]
            due = amount - self.chain.claimed(account)
            if due <= 0:
                return Wei(0)
            # The proof is that of the epoch, so its number is in the key.
            key = f"claim:{number}:{account}:{amount}"
            try:
                self.chain.as_operator(key, "RiosSettlement", "claim", account, amount, list(tree.proof(account)))
            except TransactionFailed:
                if self.chain.claimed(account) < amount:  # else somebody else's claim came first, and paid the owner
                    raise
            self.chain.confirm()
            self.sync()
        return Wei(due)

    def pay_out(self, minimum: str | int | None = None) -> PaidOut:
        """Pay all owners to whom the last final root owes at least `minimum` (`RIOS_PAYOUT_MIN` without).

        By transactions of at most 250 owners. Who comes halfway, by an error or the end of the process, does it again:
        what is due is read from the contract's events, and a chunk that is under way is the same chunk again.

        Raises InvalidAmount, TransactionFailed, ChainUnavailable.
        """
        least = self._books.payout_min_wei if minimum is None else parse_ros(minimum, name="the least payout")
        ledger, chain = self._books.ledger, self.chain
        paid: dict[Address, Wei] = {}
        txs: list[str] = []
        with self._turn():
            self.sync()
            found = self.tree()
            if found is None:
                return PaidOut(0)
            number, tree = found
            due = {who: wei for who, wei in due_of(ledger, tree, chain.platform).items() if wei >= least}
            for part in chunks_of(tree, due):
                arguments = (list(part.accounts), list(part.amounts_wei), list(part.proof), list(part.flags))
                receipt = chain.as_operator(key_of(number, part), "RiosSettlement", "claimMany", *arguments)
                paid |= chain.claims_in(receipt)
                txs.append(receipt.tx_hash)
            if txs:
                chain.confirm()
                self.sync()
        return PaidOut(number, paid, tuple(txs))

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
