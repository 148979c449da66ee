"""A chain with a network's contracts on it, and the two who act there: the network's operator and the local wallet."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.billing.books import PriceBook
from rios.billing.chain import abi
from rios.billing.chain.contracts import Addresses, Terms, check_contracts, deploy_all, read
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.events import CURSOR, decode_log, follow
from rios.billing.chain.finality import CONFIRMATIONS, final_block
from rios.billing.chain.intents import IntentState
from rios.billing.chain.rpc import RpcChain
from rios.billing.chain.sender import Sender
from rios.billing.chain.view import SettlementView
from rios.billing.ledger.intents import SqlIntentStore
from rios.words.errors import ChainUnavailable, PriceBookError, TransactionFailed
from rios.words.ids import Address
from rios.words.money import WEI_PER_ROS, Wei

if TYPE_CHECKING:
    from rios.billing.chain.protocol import Chain, Receipt
    from rios.billing.keystore import KeySigner
    from rios.billing.ledger.chain import ChainEvent
    from rios.billing.ledger.ledger import Ledger
    from rios.storage.breaker import Breaker

log = logging.getLogger(__name__)

_POLL_S = 0.25
GAS_MONEY_WEI = 10**24
"""What operator and wallet have of an embedded chain's own coin: nobody can buy anything else for it."""
WALLET_WEI = 1_000 * WEI_PER_ROS
"""Test ROS of a local wallet on the embedded chain."""
TREASURY_WEI = 1_000_000 * WEI_PER_ROS
"""What the operator of a local network can give as trial credit."""


class NetworkChain(SettlementView):
    """The contracts of one network, as operator and wallet use them (`rios.services.accounting.Vault`)."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        wallet: KeySigner,
        operator: KeySigner,
        home: Path | None,
        url: str | None = None,
        chain_id: int | None = None,
        contracts: Path | None = None,
        confirmations: int = CONFIRMATIONS,
        final_timeout_s: float = 600.0,
        challenge_window_s: int = 0,
        breaker: Breaker | None = None,
    ) -> None:
        """Connect, and make the contracts where there are none yet.

        home: where the embedded chain and the addresses of its contracts are kept. url: a node instead of the embedded
        chain. contracts: a file with their addresses, where somebody else has made them. confirmations: after how many
        blocks one of a node is taken as final. final_timeout_s: how long that may take. challenge_window_s: how long a
        root can be challenged, where the contracts are made here. breaker: of a node, so that nobody waits for one
        that is known not to answer.

        Raises ChainUnavailable, ChainMismatch, TransactionFailed.
        """
        embedded = url is None
        self._chain: Chain
        if url is None:
            fund = {wallet.address: GAS_MONEY_WEI, operator.address: GAS_MONEY_WEI}
            self._chain = EmbeddedChain(home, fund=fund)
        else:
            self._chain = RpcChain(url, chain_id=chain_id, breaker=breaker)
        self._embedded = embedded
        self._confirmations = confirmations
        self._final_timeout_s = final_timeout_s
        self._challenge_window_s = challenge_window_s
        store = SqlIntentStore(ledger)
        self._operator = Sender(self._chain, operator, store, confirmations=confirmations, finalized_tag=embedded)
        self._wallet = Sender(self._chain, wallet, store, confirmations=confirmations, finalized_tag=embedded)
        self._lock = threading.Lock()
        self.platform: Address = operator.address
        self.keccak = abi.keccak
        self.addresses = self._contracts(contracts or (None if home is None else home / "contracts.json"))
        super().__init__(self._chain, self.addresses.settlement, from_block=self.addresses.block)
        self.withdrawal_delay_s = int(self.read("RiosEscrow", "withdrawalDelay"))

    def __repr__(self) -> str:
        return f"<NetworkChain {self._chain!r}, settlement {self.addresses.settlement}>"

    def _contracts(self, path: Path | None) -> Addresses:
        if path is not None and path.exists():
            found = Addresses.from_dict(json.loads(path.read_text()))
            check_contracts(self._chain, found)
            return found
        terms = Terms(challenge_window_s=self._challenge_window_s)
        if self._embedded:
            terms = dataclasses.replace(terms, withdrawal_delay_s=0)
        found = deploy_all(self._chain, self._operator, terms=terms)
        mint = abi.encode("RosToken", "mint", self._operator.address, TREASURY_WEI)
        self._operator.send("mint:treasury", found.token, mint)
        gift = abi.encode("RosToken", "transfer", self._wallet.address, WALLET_WEI)
        self._operator.send("mint:wallet", found.token, gift)
        if path is not None:
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(found.to_dict()))
            temporary.replace(path)
        return found

    def block_number(self) -> int:
        """The newest block. Raises ChainUnavailable."""
        return self._chain.block_number()

    def close(self) -> None:
        """Let go of the node, or of the embedded chain's file."""
        self._chain.close()

    # --- acting ----------------------------------------------------------------------------------------------

    def as_operator(self, key: str, contract: str, function: str, *arguments: Any, gas: int | None = None) -> Receipt:
        """Call a contract as the network's operator, once for each `key`. Raises TransactionFailed."""
        return self._act(self._operator, key, contract, function, arguments, gas)

    def as_wallet(self, key: str, contract: str, function: str, *arguments: Any, gas: int | None = None) -> Receipt:
        """Call a contract as the local wallet, once for each `key`. Raises TransactionFailed."""
        return self._act(self._wallet, key, contract, function, arguments, gas)

    def begun(self, key: str) -> bool:
        """Whether the local wallet was asked for `key` before."""
        return self._wallet.known(key)

    def _act(
        self, sender: Sender, key: str, contract: str, function: str, arguments: tuple[Any, ...], gas: int | None
    ) -> Receipt:
        data = abi.encode(contract, function, *arguments)
        receipt = sender.send(key, self.addresses.of(contract), data, gas=gas, retry=True)
        if not receipt.succeeded:
            raise TransactionFailed(f"{function} of {contract} was reverted in {receipt.tx_hash}")
        return receipt

    def confirm(self) -> None:
        """Wait until what is in blocks now is final; an embedded chain's blocks are so at once.

        Raises ChainUnavailable where that takes longer than `RIOS_CHAIN_FINAL_TIMEOUT_S`.
        """
        head = self._chain.block_number()
        deadline = time.monotonic() + self._final_timeout_s
        while True:
            final = final_block(self._chain, confirmations=self._confirmations, finalized_tag=self._embedded)
            if final is not None and final.number >= head:
                return
            if time.monotonic() > deadline:
                raise ChainUnavailable(
                    f"block {head} of chain {self.chain_id} is not final after {self._final_timeout_s:g} s "
                    "(RIOS_CHAIN_FINAL_TIMEOUT_S); what was sent stays sent: ask again later"
                )
            time.sleep(_POLL_S)

    def advance(self, seconds: int) -> bool:
        """Move the clock of an embedded chain on; False where it is not ours."""
        if not isinstance(self._chain, EmbeddedChain):
            return False
        self._chain.advance(seconds)
        return True

    def finish_wallet(self) -> None:
        """Go on with what the wallet had under way, also that of a process that died, until it is in final blocks.

        What a node refuses is left as it is. Raises ChainUnavailable where it takes longer than
        `RIOS_CHAIN_FINAL_TIMEOUT_S`.
        """
        deadline = time.monotonic() + self._final_timeout_s
        unfinished = first = self._wallet.pump()
        while any(one.state is not IntentState.MINED and one.error is None for one in unfinished):
            if time.monotonic() > deadline:
                raise ChainUnavailable(f"{unfinished[0].key!r} is in no block after {self._final_timeout_s:g} s; wait")
            time.sleep(_POLL_S)
            unfinished = self._wallet.pump()
        if first:
            self.confirm()

    def mine_one(self) -> bool:
        """Mine an empty block on an embedded chain; False where others mine."""
        if not isinstance(self._chain, EmbeddedChain):
            return False
        self._chain.mine()
        return True

    def follow(self, ledger: Ledger) -> int:
        """Take the final events since the last time into the ledger; how many were new."""
        count = 0
        with self._lock:
            while True:
                found = follow(
                    self._chain,
                    self.addresses,
                    ledger.cursor(CURSOR),
                    confirmations=self._confirmations,
                    finalized_tag=self._embedded,
                )
                if found is None:
                    return count
                if found.reverted_from is not None:
                    ledger.revert_chain(found.reverted_from, found.cursor)
                    continue
                for event in found.events:
                    if event.name == "PriceBookPublished":
                        publish(ledger, event)
                count += ledger.apply_chain(found.events, found.cursor)
                if not found.more:
                    return count

    # --- asking ----------------------------------------------------------------------------------------------

    def read(self, contract: str, function: str, *arguments: Any) -> Any:
        """What a function of a contract answers now."""
        return read(self._chain, self.addresses, contract, function, *arguments)

    def claimable_epoch(self) -> int:
        """The last epoch whose root can be challenged no more, as the next transaction finds it; 0 before any."""
        return int(self.read("RiosSettlement", "current")[0])

    def final_epoch(self) -> int:
        """As `claimable_epoch`, after the latest block that stays."""
        if self._embedded:
            return self.claimable_epoch()
        final = final_block(self._chain, confirmations=self._confirmations, finalized_tag=False)
        if final is None:
            return 0
        return int(read(self._chain, self.addresses, "RiosSettlement", "current", block=final.number)[0])

    def claims_in(self, receipt: Receipt) -> dict[Address, Wei]:
        """What a transaction paid to owners."""
        found = [event for log in receipt.logs if (event := decode_log(log, self.addresses)) is not None]
        return {
            Address(str(event.args["account"])): Wei(int(event.args["amount"]))
            for event in found
            if event.name == "Claimed"
        }

    def tokens_of(self, who: str) -> Wei:
        """Wei of ROS of an address, or of the contract "escrow" or "settlement"."""
        address = getattr(self.addresses, who) if who in ("escrow", "settlement") else who
        return Wei(self.read("RosToken", "balanceOf", address))


def publish(ledger: Ledger, event: ChainEvent) -> None:
    """Take a price book from the event that published it; one that cannot be read is logged and not in force."""
    document, digest = str(event.args["document"]), str(event.args["digest"]).removeprefix("0x")
    try:
        book = PriceBook.from_json(document)
        if book.digest != digest:
            raise PriceBookError(f"its document has the digest {book.digest}, the event says {digest}")
        ledger.publish_price_book(book)
    except PriceBookError as error:
        log.error("a published price book is not taken", extra={"version": event.args["version"], "reason": str(error)})
