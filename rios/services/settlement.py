"""Money on the chain: what happened there, epochs and their roots, claims.

Whatever is sent is an intent with a key first, and whatever happened is read from events, so a crash at any point
neither repeats nor forgets anything: the next call goes on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from rios.services.books import Books
from rios.services.moments import moment_of
from rios.services.payouts import PaidOut, chunks_of, due_of, key_of
from rios.words.display import Shown
from rios.words.errors import (
    ChainUnavailable,
    NotProvable,
    TransactionFailed,
)
from rios.words.ids import Address, derived_id
from rios.words.money import Wei, format_ros, parse_ros

if TYPE_CHECKING:
    from rios.billing.ledger.chain import ChainCursor
    from rios.billing.ledger.values import Epoch
    from rios.billing.ledger.withdrawals import Asked
    from rios.billing.merkle import MerkleTree
    from rios.services.accounting import Reconciliation
    from rios.services.network_chain import NetworkChain

log = logging.getLogger(__name__)

# Under EIP-7825's 16.78 M gas whatever the accounts' state (contracts/README.md).
_CHARGES_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Settled(Shown):
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
        self._setting_aside = threading.Lock()
        self._asked = True
        """Whether a withdrawal waits, as of the events up to `_aside_at`; taken for true while nobody has looked."""
        self._aside_at: ChainCursor | None = None
        self._short: list[Asked] = []
        """Those that wait for more than is free."""
        self._told = False
        """Whether it was said that a root that was challenged keeps such a one from being charged."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
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
        with self.turn():
            count = self._take()
            self._mature()
        return count

    def follow(self) -> bool:
        """Go on with what was sent, and take what happened into the ledger; whether it should be settled at once.

        So it is where somebody has asked the escrow for more than he has free, and used something that is not charged;
        but not where the last root was challenged: nobody posts that again who has not looked at it. Whoever waits for
        a block to be final has the turn for a long time; events are taken meanwhile all the same.
        """
        self.chain.pump()
        self._take()
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._mature()
        finally:
            self._lock.release()
        if not self._short:
            return False
        unposted = self._last_is("closed") or self._last_is("posting")
        wanted = any(one.charge or unposted for one in self._short)
        if not (wanted and self.challenged):
            self._told = False
            return wanted
        if not self._told:
            self._told = True
            log.error(
                "the last root was challenged: look at it, then settle() posts it again; until then what was used is "
                "not charged, and a withdrawal that waits may take the money it was used with",
                extra={"users": [one.user for one in self._short]},
            )
        return False

    def _take(self) -> int:
        ledger = self._books.ledger
        count = self.chain.follow(ledger)
        # Events may have been taken by others too, or by a call that failed after it: the cursor says so.
        with self._setting_aside:
            followed = self.chain.followed(ledger)
            if self._asked or followed != self._aside_at:
                self._set_aside(followed)
        return count

    def _set_aside(self, followed: ChainCursor | None) -> None:
        """What withdrawals that wait ask for is not lent to requests any more, as far as it is free."""
        found = self._books.ledger.set_aside()
        self._asked, self._aside_at = bool(found), followed
        self._short = [one for one in found if one.short_wei]

    def _mature(self) -> None:
        """Mark the root that waited for the end of its challenge window as final, or as one that stands no more."""
        from rios.billing.ledger.values import EpochState

        ledger, chain = self._books.ledger, self.chain
        waiting = [(epoch.number, epoch.tx) for epoch in ledger.epochs() if epoch.state is EpochState.POSTED]
        followed = self.chain.followed(ledger)
        if not waiting or followed is None:
            return
        # Events and contract are looked at after the same block: a challenge that is not final yet is in neither.
        final, stands = chain.final_epoch(), chain.standing_epoch(followed.block)
        for number, tx in waiting:
            if number <= final:
                ledger.mark_epoch(number, EpochState.FINAL)
            elif number > stands and chain.is_after(tx, followed.block):
                continue  # the chain was not followed to where it was posted
            elif number > stands and self._challenges(number):
                log.error("the root of an epoch was challenged", extra={"epoch": number})
                ledger.mark_epoch(number, EpochState.CHALLENGED)
            elif number > stands:
                log.warning("a reorganisation took the root of an epoch; it is posted again", extra={"epoch": number})
                ledger.mark_epoch(number, EpochState.POSTING)

    def _challenges(self, number: int) -> int:
        """How often an epoch's root was challenged."""
        events = self._books.ledger.chain_events(name="RootChallenged")
        return sum(int(event.args["epoch"]) == number for event in events)

    def reconcile(self) -> Reconciliation:
        """Compare the ledger with itself, and with the chain as it was after the block that the ledger knows."""
        from rios.services.accounting import reconcile_followed

        with self.turn():
            self.sync()
            found, _ = reconcile_followed(self._books.ledger, self.chain)
        return found

    # --- epochs ----------------------------------------------------------------------------------------------

    def settle(self) -> Settled | None:
        """Close an epoch over all that was used and post its root; the same again where nothing was; None before any.

        While the last root can be challenged there is no next one: then that one again, and what was used since waits.
        A root that was challenged is posted once more: whoever settles has looked at it. Each step is repeatable:
        charges carry an id that the escrow remembers, the root its number.
        """
        from rios.billing.ledger.values import EpochState

        ledger = self._books.ledger
        with self.turn():
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
            final=True,
        )
        ledger.mark_epoch(epoch.number, EpochState.POSTED, tx=receipt.tx_hash)
        self.sync()

    def _root_key(self, epoch: Epoch) -> str:
        """A root that was challenged needs a new transaction."""
        dropped = self._challenges(epoch.number)
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
        with self.turn():
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
            proof = list(tree.proof(account))
            try:
                self.chain.as_operator(key, "RiosSettlement", "claim", account, amount, proof, final=True)
            except TransactionFailed:
                if self.chain.claimed(account) < amount:  # else somebody else's claim came first, and paid the owner
                    raise
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
        with self.turn():
            self.sync()
            found = self.tree()
            if found is None:
                return PaidOut(0)
            number, tree = found
            due = {who: wei for who, wei in due_of(ledger, tree, chain.platform).items() if wei >= least}
            calls = [
                (key_of(number, part), list(part.accounts), list(part.amounts_wei), list(part.proof), list(part.flags))
                for part in chunks_of(tree, due)
            ]
            for key, *arguments in calls:
                chain.as_operator(key, "RiosSettlement", "claimMany", *arguments)
            for key, *arguments in calls:  # all of them are in blocks: one wait is that of all
                receipt = chain.as_operator(key, "RiosSettlement", "claimMany", *arguments, final=True)
                paid |= chain.claims_in(receipt)
                txs.append(receipt.tx_hash)
            if txs:
                self.sync()
        return PaidOut(number, paid, tuple(txs))


def _chunks(due: Sequence[tuple[Address, int]]) -> Iterator[tuple[list[Address], list[int]]]:
    for start in range(0, len(due), _CHARGES_PER_CALL):
        part = due[start : start + _CHARGES_PER_CALL]
        yield [address for address, _ in part], [amount for _, amount in part]
