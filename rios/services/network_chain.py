"""A chain with a network's contracts on it, and the two who act there: the network's operator and the local wallet."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.billing.chain import abi
from rios.billing.chain.contracts import NOBODY, Addresses, Terms, check_contracts, deploy_all, read
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.events import CURSOR, decode_log, follow
from rios.billing.chain.finality import CONFIRMATIONS, final_block
from rios.billing.chain.intents import IntentState
from rios.billing.chain.rpc import RpcChain
from rios.billing.chain.sender import Sender
from rios.billing.chain.view import SettlementView
from rios.billing.ledger.intents import SqlIntentStore
from rios.words.errors import ChainMismatch, ChainUnavailable, TransactionFailed
from rios.words.ids import Address
from rios.words.money import WEI_PER_ROS, Wei

if TYPE_CHECKING:
    from rios.billing.chain.intents import Intent
    from rios.billing.chain.protocol import Block, Chain, Receipt
    from rios.billing.keystore import Signer
    from rios.billing.ledger.chain import ChainCursor
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
        wallet: Signer,
        operator: Signer,
        home: Path | None,
        url: str | None = None,
        chain_id: int | None = None,
        contracts: Path | None = None,
        confirmations: int | None = None,
        final_timeout_s: float = 1800.0,
        challenge_window_s: int = 0,
        breaker: Breaker | None = None,
    ) -> None:
        """Connect, and make the contracts where there are none yet.

        home: where the embedded chain and the addresses of its contracts are kept. url: a node instead of the embedded
        chain. contracts: a file with their addresses, where somebody else has made them. confirmations: after how many
        blocks one of a node is taken as final; what the node calls so without. final_timeout_s: how long that may take.
        challenge_window_s: how long a root can be challenged, where the contracts are made here. breaker: of a node,
        so that nobody waits for one that is known not to answer.

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
        self._confirmations = CONFIRMATIONS if confirmations is None else confirmations
        self._finalized_tag = tag = embedded or confirmations is None
        self._final_timeout_s = final_timeout_s
        self._challenge_window_s = challenge_window_s
        store = SqlIntentStore(ledger)
        self._operator = Sender(self._chain, operator, store, confirmations=self._confirmations, finalized_tag=tag)
        self._wallet = Sender(self._chain, wallet, store, confirmations=self._confirmations, finalized_tag=tag)
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

    def now_s(self) -> int:
        """The time of the newest block, in seconds since 1970. Raises ChainUnavailable."""
        found = self._chain.block(self._chain.block_number())
        if found is None:
            raise ChainUnavailable(f"{self._chain!r} changed its blocks while they were read; try again")
        return found.timestamp

    def close(self) -> None:
        """Let go of the node, or of the embedded chain's file."""
        self._chain.close()

    # --- acting ----------------------------------------------------------------------------------------------

    def as_operator(
        self, key: str, contract: str, function: str, *arguments: Any, gas: int | None = None, final: bool = False
    ) -> Receipt:
        """Call a contract as the network's operator, once for each `key`.

        final: wait until its block stays, and send it again where a reorganisation takes it away. What was sent before
        it is final then, for nonces have an order.

        Raises TransactionFailed, and ChainUnavailable where it is not final within `RIOS_CHAIN_FINAL_TIMEOUT_S`: then
        it stays sent.
        """
        return self._act(self._operator, key, contract, function, arguments, gas, final=final)

    def as_wallet(
        self, key: str, contract: str, function: str, *arguments: Any, gas: int | None = None, final: bool = False
    ) -> Receipt:
        """Call a contract as the local wallet, once for each `key`. final, and what it raises: as of `as_operator`."""
        return self._act(self._wallet, key, contract, function, arguments, gas, final=final)

    def want(self, key: str, contract: str, function: str, *arguments: Any) -> None:
        """Keep what the wallet is to do under `key`, and do not wait: it is done though this process ends."""
        self._wallet.submit(key, self.addresses.of(contract), abi.encode(contract, function, *arguments), retry=True)

    def begun(self, key: str) -> bool:
        """Whether the local wallet was asked for `key` before."""
        return self._wallet.wanted(key) is not None

    def asked(self, key: str, contract: str, function: str, *arguments: Any) -> bool:
        """Whether this is what the local wallet was asked for under `key`."""
        found = self._wallet.wanted(key)
        data = abi.encode(contract, function, *arguments)
        return found is not None and (found.to, found.data) == (self.addresses.of(contract), data)

    def under_way(self) -> list[str]:
        """The keys of what the wallet was asked for and is in no final block yet."""
        return [found.key for found in self._wallet.unfinished()]

    def _act(
        self,
        sender: Sender,
        key: str,
        contract: str,
        function: str,
        arguments: tuple[Any, ...],
        gas: int | None,
        *,
        final: bool,
    ) -> Receipt:
        data = abi.encode(contract, function, *arguments)
        receipt = sender.send(key, self.addresses.of(contract), data, gas=gas, retry=True)
        if receipt.succeeded and final:
            receipt = sender.finish(key, timeout_s=self._final_timeout_s)
        if not receipt.succeeded:
            raise TransactionFailed(f"{function} of {contract} was reverted in {receipt.tx_hash}")
        return receipt

    def pump(self) -> list[Intent]:
        """Go on with all that operator and wallet have under way, without waiting; what is unfinished then."""
        return [*self._operator.pump(), *self._wallet.pump()]

    def _final(self) -> Block | None:
        return final_block(self._chain, confirmations=self._confirmations, finalized_tag=self._finalized_tag)

    def confirm(self) -> None:
        """Wait until what is in blocks now is final; an embedded chain's blocks are so at once.

        What a reorganisation takes away meanwhile is sent again, and waited for.

        Raises ChainUnavailable where that takes longer than `RIOS_CHAIN_FINAL_TIMEOUT_S`.
        """
        head = self._chain.block_number()
        deadline = time.monotonic() + self._final_timeout_s
        waited = {found.key for found in self.pump() if found.state is IntentState.MINED}
        while True:
            left = [found for found in self.pump() if found.key in waited and found.error is None]
            final = self._final()
            if not left and final is not None and final.number >= head:
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

    def finish_wallet(self) -> bool:
        """Go on with what the wallet had under way, also that of a process that died, until it is in final blocks.

        Whether there was any. What a node refuses is left as it is. Raises ChainUnavailable where it takes longer than
        `RIOS_CHAIN_FINAL_TIMEOUT_S`.
        """
        deadline = time.monotonic() + self._final_timeout_s
        first = self.under_way()
        if first:
            log.warning("what the wallet has under way is finished first", extra={"keys": first})
        while left := [found for found in self._wallet.pump() if found.error is None]:
            if time.monotonic() > deadline:
                raise ChainUnavailable(
                    f"{left[0].key!r}, which the wallet was asked for before, is not final after "
                    f"{self._final_timeout_s:g} s (RIOS_CHAIN_FINAL_TIMEOUT_S); it stays sent: ask again later"
                )
            time.sleep(_POLL_S)
        return bool(first)

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
                    finalized_tag=self._finalized_tag,
                )
                if found is None:
                    return count
                if found.reverted_from is not None:
                    ledger.revert_chain(found.reverted_from, found.cursor)
                    continue
                count += ledger.apply_chain(found.events, found.cursor)
                if not found.more:
                    return count

    @staticmethod
    def followed(ledger: Ledger) -> ChainCursor | None:
        """Up to which block its events are in the ledger; None before any is final."""
        return ledger.cursor(CURSOR)

    # --- asking ----------------------------------------------------------------------------------------------

    def read(self, contract: str, function: str, *arguments: Any, block: int | None = None) -> Any:
        """What a function of a contract answers now, or after `block`."""
        return read(self._chain, self.addresses, contract, function, *arguments, block=block)

    def after(self, block: int) -> PastChain | None:
        """The contracts as they were after a block; None where they were not made yet.

        Raises ChainUnavailable where the node has forgotten what was then.
        """
        try:
            made = self.read("RiosEscrow", "settlement", block=block) != NOBODY
        except ChainMismatch:  # nothing answers at the address yet
            made = False
        return PastChain(self._chain, self.addresses, block) if made else None

    def claimable_epoch(self) -> int:
        """The last epoch whose root can be challenged no more, as the next transaction finds it; 0 before any."""
        return int(self.read("RiosSettlement", "current")[0])

    def final_epoch(self) -> int:
        """As `claimable_epoch`, after the latest block that stays."""
        if self._embedded:
            return self.claimable_epoch()
        final = self._final()
        return 0 if final is None else int(self.read("RiosSettlement", "current", block=final.number)[0])

    def standing_epoch(self, block: int) -> int:
        """The last epoch whose root stood after a block; 0 before any."""
        return int(self.read("RiosSettlement", "latestEpoch", block=block))

    def is_after(self, tx: str | None, block: int) -> bool:
        """Whether a transaction is in a later block than that; not where no block has it, as after a reorganisation."""
        receipt = None if tx is None else self._chain.receipt(tx)
        return receipt is not None and receipt.block > block

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


class PastChain(SettlementView):
    """The contracts of a network as they were after one block (`rios.services.accounting.Vault`)."""

    def __init__(self, chain: Chain, addresses: Addresses, block: int) -> None:
        super().__init__(chain, addresses.settlement, from_block=addresses.block, block=block)
        self._addresses = addresses

    def tokens_of(self, who: str) -> Wei:
        """Wei of ROS that the contract "escrow" or "settlement" had."""
        holder = {"escrow": self._addresses.escrow, "settlement": self._addresses.settlement}[who]
        return Wei(read(self._chain, self._addresses, "RosToken", "balanceOf", holder, block=self._block))
