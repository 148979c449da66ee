"""That an address is a user's, said by the address itself: by a message that its key has signed.

The message names the user, the network and a nonce that is good once: nobody else can use it, nor elsewhere or later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rios.accounts.store import record
from rios.accounts.values import Principal
from rios.billing.signed import signer_of
from rios.services.tickets import drop_tickets, new_ticket, use_ticket
from rios.words.errors import InvalidRequest, LedgerConflict, NotAllowed
from rios.words.ids import Address, check_address

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.services.purse import Purse

PURPOSE = "address"
LASTS_S = 900
_TEXT = """With this signature I say that {address} is mine,
and that its deposits are to be spent by one user of a rios network.
user: {user}
chain: {chain_id}
escrow: {escrow}
token: {token}
nonce: {nonce}"""
_NONCE = "nonce: "


@dataclass(frozen=True, slots=True)
class ToSign:
    """What is to be signed, and where deposits go afterwards."""

    message: str
    chain_id: int
    escrow: Address
    token: Address


class Linking:
    """Links addresses to users of a gateway."""

    def __init__(self, purse: Purse) -> None:
        self._purse = purse

    def ask(self, who: Principal, address: str) -> ToSign:
        """The message that the key of `address` has to sign within a quarter of an hour.

        Raises LedgerConflict for an address that is another user's, and for a user who has another address.
        """
        who.require("wallet:write")
        found, ledger = check_address(address), self._purse.books.ledger
        self._check(who, found)
        now = ledger.now()

        def run(batch: Batch) -> str:
            drop_tickets(batch.connection, who.user_id, PURPOSE)
            return new_ticket(
                batch.connection, PURPOSE, who.user_id, {"address": found}, now, lasts_s=LASTS_S
            )  # fmt: skip

        return self._said(who, found, ledger.transact(run, alone=True))

    def link(self, who: Principal, nonce: str, signature: str) -> Address:
        """Take an address for the user's, also its deposits that came before; which one.

        Raises InvalidRequest for a nonce that is not good any more, NotAllowed where another key has signed, and as
        `ask`.
        """
        from rios.billing.ledger.money import link

        who.require("wallet:write")
        ledger = self._purse.books.ledger
        now = ledger.now()
        used = ledger.transact(lambda batch: use_ticket(batch.connection, nonce, PURPOSE, now), alone=True)
        if used is None or used[0] != who.user_id:
            raise InvalidRequest("this message is not good any more, or another user's: ask for a new one")
        address = check_address(used[1]["address"])
        by = signer_of(self._said(who, address, nonce).message, signature)
        if by != address:
            raise NotAllowed(f"the message was signed by {by}, or is another one: {address} has to sign it as it is")

        def run(batch: Batch) -> None:
            link(batch, who.user_id, address, at=now)
            record(
                batch.connection, at=now, organisation_id=who.organisation_id, actor=who.user_id,
                action="wallet.link", object=who.user_id, detail={"address": address},
            )  # fmt: skip

        self._check(who, address)
        ledger.transact(run, alone=True)
        return address

    def _check(self, who: Principal, address: Address) -> None:
        """Who has an address must not learn by an error whose another one is."""
        ledger = self._purse.books.ledger
        own, owner = ledger.address_of(who.user_id), ledger.user_of(address)
        if own is not None and own != address:
            raise LedgerConflict(f"this user has the address {own}; it stays, for its deposits are there")
        if owner is not None and owner != who.user_id:
            raise LedgerConflict(f"{address} belongs to another user; an address has one user")

    def _said(self, who: Principal, address: Address, nonce: str) -> ToSign:
        chain = self._purse.settlement.chain
        where = chain.addresses
        text = _TEXT.format(
            address=address, user=who.user_id, chain_id=chain.chain_id, escrow=where.escrow, token=where.token,
            nonce=nonce,
        )  # fmt: skip
        return ToSign(text, chain.chain_id, where.escrow, where.token)


def nonce_in(message: str) -> str:
    """The nonce that a message ends with. Raises InvalidRequest where it has none."""
    text, found, nonce = message.strip().rpartition(_NONCE)
    if not (text and found and nonce):
        raise InvalidRequest("this is no message of `link_message`: it ends with a nonce")
    return nonce
