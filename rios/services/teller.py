"""Deposits of the local wallet into the escrow, and withdrawals of it, each once."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rios.services.books import LOCAL_USER, Books
from rios.services.settlement import Settlement
from rios.words.errors import InvalidRequest
from rios.words.money import Wei, format_ros, parse_ros

if TYPE_CHECKING:
    from rios.billing.ledger.values import Balance

log = logging.getLogger(__name__)


class Teller:
    """Moves ROS of the wallet in and out of the escrow.

    A call that ended without an answer, by an outage or with its process, is one that may be made again: it goes on
    with what was sent.
    """

    def __init__(self, books: Books, settlement: Settlement) -> None:
        self._books = books
        self._settlement = settlement
        self._unanswered: dict[tuple[str, int], str] = {}
        """By verb and amount: the key of a call that ended without an answer."""

    def deposit(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Move ROS of the wallet into the escrow and return the balance once they are credited.

        key: with it, once for each; LedgerConflict where it came before with another amount. Without, a deposit of the
        same amount whose call ended without an answer is gone on with, and no other one is made.
        """
        wei = _positive(amount, "the deposit")
        chain = self._settlement.chain
        with self._settlement.turn():
            name = self._name("deposit", wei, key, "deposit")
            chain.finish_wallet()
            have = chain.tokens_of(self._books.address)
            if wei > have and not chain.begun(name):
                raise InvalidRequest(
                    f"the wallet {self._books.address} has {format_ros(have)} on the chain, and {format_ros(wei)} were "
                    f"to be deposited; deposit at most {format_ros(have)}, or send it ROS first"
                )
            with self._answered("deposit", wei, name):
                chain.as_wallet(f"{name}:approve", "RosToken", "approve", chain.addresses.escrow, wei)
                chain.as_wallet(name, "RiosEscrow", "deposit", wei, final=True)
                self._settlement.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def withdraw(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Take deposited ROS back to the wallet, after what was used has been settled and the delay has passed.

        Where the escrow delays withdrawals, this only asks for it: call `finish_withdrawal` when it is due. There is
        one withdrawal at a time. key: as of `deposit`.
        """
        wei = _positive(amount, "the withdrawal")
        chain = self._settlement.chain
        with self._settlement.turn():
            name = self._name("withdraw", wei, key, "requestWithdrawal", asked_by=":request")
            request = f"{name}:request"
            # A withdrawal whose process was killed goes first, and leaves less.
            chain.finish_wallet()
            if not chain.begun(request):
                self._check_withdrawal(wei)
            with self._answered("withdraw", wei, name):
                chain.want(request, "RiosEscrow", "requestWithdrawal", wei)
                if chain.withdrawal_delay_s == 0:
                    # Kept before the first is sent: whoever finds the one done finds the other to do.
                    chain.want(name, "RiosEscrow", "withdraw")
                    chain.as_wallet(request, "RiosEscrow", "requestWithdrawal", wei)
                    chain.as_wallet(name, "RiosEscrow", "withdraw", final=True)
                else:
                    chain.as_wallet(request, "RiosEscrow", "requestWithdrawal", wei, final=True)
                self._settlement.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def _check_withdrawal(self, wei: Wei) -> None:
        """Raise InvalidRequest unless a new withdrawal can be asked for, after settling what was used."""
        if waiting := self._waiting():
            raise InvalidRequest(
                f"{format_ros(waiting)} are being withdrawn already: finish_withdrawal() takes them when they are due, "
                f"cancel_withdrawal() leaves them deposited; ask for {format_ros(wei)} after that"
            )
        self._settlement.settle()
        free = self._books.ledger.balance(LOCAL_USER).deposited_wei
        if wei > free:
            raise InvalidRequest(
                f"{format_ros(free)} can be withdrawn, not {format_ros(wei)}: what is held or was given as trial "
                "credit stays"
            )

    def _waiting(self) -> int:
        """Wei that the wallet has asked the escrow for and not taken."""
        return int(self._settlement.chain.read("RiosEscrow", "pendingWithdrawal", self._books.address)[0])

    def finish_withdrawal(self, *, key: str | None = None) -> Balance:
        """Take what was asked for earlier and is due now, or raise TransactionFailed. key: as of `deposit`."""
        return self._end_withdrawal("finish", "withdraw", key)

    def cancel_withdrawal(self, *, key: str | None = None) -> Balance:
        """Leave what was asked for earlier in the escrow, to be spent. key: as of `deposit`.

        Raises InvalidRequest where nothing was asked for.
        """
        return self._end_withdrawal("cancel", "cancelWithdrawal", key)

    def _end_withdrawal(self, verb: str, function: str, key: str | None) -> Balance:
        chain = self._settlement.chain
        name = f"{verb}:{key}" if key else f"{verb}-{secrets.token_hex(8)}"
        with self._settlement.turn():
            earlier = any(found.startswith((f"{verb}:", f"{verb}-")) for found in chain.under_way())
            chain.finish_wallet()
            # How a withdrawal without an answer ended is known now: the next one of its amount is another.
            for what in [what for what in self._unanswered if what[0] == "withdraw"]:
                del self._unanswered[what]
            if self._waiting() or chain.begun(name):
                chain.as_wallet(name, "RiosEscrow", function, final=True)
            elif not earlier:  # an earlier call that had no answer has done it
                raise InvalidRequest("no withdrawal waits; withdraw an amount first")
            self._settlement.sync()
        return self._books.ledger.balance(LOCAL_USER)

    def _name(self, verb: str, wei: Wei, key: str | None, function: str, *, asked_by: str = "") -> str:
        """What the intents of a verb are called by: its key, or a new name, or that of the call that it repeats.

        asked_by: what is added to the name of the intent that has the amount, in a call of `function`.
        """
        if key:
            return f"{verb}:{key}"
        chain = self._settlement.chain
        known = [self._unanswered[verb, wei]] if (verb, wei) in self._unanswered else []
        known += [found.removesuffix(asked_by) for found in chain.under_way() if found.startswith(f"{verb}-")]
        for name in known:
            if chain.asked(name + asked_by, "RiosEscrow", function, wei):
                said = {"verb": verb, "wei": str(wei), "key": name}
                log.warning("one of this amount had no answer; this call goes on with it", extra=said)
                return name
        return f"{verb}-{secrets.token_hex(8)}"

    @contextlib.contextmanager
    def _answered(self, verb: str, wei: Wei, name: str) -> Iterator[None]:
        """Remember what was sent without a key until it is known how it ended."""
        if name.startswith(f"{verb}-"):
            self._unanswered[verb, wei] = name
        yield
        self._unanswered.pop((verb, wei), None)


def _positive(amount: str | int, name: str) -> Wei:
    wei = parse_ros(amount, name=name)
    if wei == 0:
        raise InvalidRequest(f"{name} is 0 ROS; it must be more")
    return wei
