"""A chain in this process, by py-evm: it mines each transaction at once, into a block of its own that stays.

Cancun's rules, without proof of work, and with EIP-7825's bound on the gas of a transaction. The clock of the chain is
that of the machine, but each block is at least a second younger than the one before, and `advance` moves it on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI, StateAPI
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.db.atomic import AtomicDB
from eth.exceptions import HeaderNotFound, VMError
from eth.typing import HeaderParams
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.shanghai.withdrawals import Withdrawal
from eth.vm.spoof import SpoofTransaction
from eth_typing import Address as CanonicalAddress
from eth_typing import BlockNumber
from eth_utils.exceptions import ValidationError

from rios.billing.chain.abi import address as address_of
from rios.billing.chain.evm_store import EvmStore
from rios.billing.chain.evm_values import (
    account,
    block_of,
    bloom_bits,
    canonical,
    decoded,
    hash32,
    matches,
    place_of,
    reason,
    receipt_of,
    spelt,
)
from rios.billing.chain.protocol import DEFAULT_TIMEOUT_S, GAS_MAX, Block, Fees, Log, Receipt, Topics, Verdict
from rios.billing.recursion import put_back
from rios.words.errors import ChainMismatch, ChainUnavailable, InvalidRequest, TransactionFailed
from rios.words.ids import Address

put_back()

EMBEDDED_CHAIN_ID = 0x726F73
"""The letters "ros"."""
BLOCK_GAS = 60_000_000
_TIP_WEI = 10**9
_BASE_FEE_WEI = 10**9
_GWEI = 10**9
_OFFSET = b"rios:clock-offset-s"
_CHAIN_ID = b"rios:chain-id"
_NOBODY = CanonicalAddress(bytes(20))


class EmbeddedChain:
    """See `Chain`. Every block is final."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        chain_id: int = EMBEDDED_CHAIN_ID,
        fund: Mapping[Address, int] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Open the chain in the directory `home`, or begin one; without `home`, one that is gone when it is closed.

        fund: wei of the chain's coin that accounts have in its first block; an older chain stays as it is.
        timeout_s: how long a call waits for its turn.

        Raises ChainMismatch where the chain in `home` has another id, ChainUnavailable where its file is damaged.
        """
        self._home = home
        self._chain_id = chain_id
        self._closed = False
        self._store = EvmStore(None if home is None else home / "chain.sqlite", timeout_s=timeout_s)
        rules = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, CancunVM),))
        self._rules: type[MiningChain] = MiningChain.configure("RiosChain", vm_configuration=rules, chain_id=chain_id)
        self._db = AtomicDB(self._store)
        with self._store.turn(write=True):
            if self._store.exists(_CHAIN_ID):
                known = int(self._store[_CHAIN_ID])
                if known != chain_id:
                    raise ChainMismatch(f"the chain in {home} has the id {known}, not {chain_id}; give another home")
                self._chain = self._rules(self._db)
            else:
                self._chain = self._begin(fund or {})

    def _begin(self, fund: Mapping[Address, int]) -> MiningChain:
        state = {canonical(address): account(wei) for address, wei in fund.items()}
        parameters: dict[str, HeaderParams] = {
            "coinbase": _NOBODY,
            "difficulty": 0,
            "gas_limit": BLOCK_GAS,
            "timestamp": int(time.time()),
            "nonce": bytes(8),
            "mix_hash": bytes(32),
            "extra_data": b"",
            "base_fee_per_gas": _BASE_FEE_WEI,
        }
        self._store[_CHAIN_ID] = str(self._chain_id).encode()
        return cast("MiningChain", self._rules.from_genesis(self._db, parameters, state))

    def __repr__(self) -> str:
        return f"<EmbeddedChain {self._chain_id} in {self._home or 'memory'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See `Chain`. Calls after it raise ChainUnavailable."""
        self._closed = True
        self._store.close()

    @contextlib.contextmanager
    def _turn(self, *, write: bool = False) -> Iterator[MiningChain]:
        if self._closed:
            raise ChainUnavailable(f"{self!r} is closed")
        with self._store.turn(write=write) as changed:
            if changed:
                self._chain = self._rules(self._db)
            try:
                yield self._chain
            except BaseException:
                # py-evm keeps the header of the block to come; after half a block it is one of nothing that was kept.
                self._chain = self._rules(self._db) if write else self._chain
                raise

    # What only this chain can.

    def mine(self, blocks: int = 1) -> None:
        """Mine empty blocks."""
        for _ in range(blocks):
            with self._turn(write=True) as chain:
                self._mine(chain, [])

    def advance(self, seconds: int) -> None:
        """Move the chain's clock on, and mine a block at the new time."""
        if seconds < 0:
            raise InvalidRequest(f"the clock of a chain never goes back, so {seconds} seconds are refused")
        with self._turn(write=True) as chain:
            # From the time of the latest block, which may be ahead of the machine's clock.
            ahead = chain.get_canonical_head().timestamp + seconds - int(time.time())
            self._store[_OFFSET] = str(max(self._offset_s() + seconds, ahead)).encode()
            self._mine(chain, [])

    def fund(self, address: Address, wei: int) -> None:
        """Give an account some of the chain's own coin, which pays for gas; whole gwei, rounded up."""
        grant = Withdrawal(0, 0, canonical(address), -(-wei // _GWEI))
        with self._turn(write=True) as chain:
            self._mine(chain, [], withdrawals=[grant])

    def _offset_s(self) -> int:
        return int(self._store[_OFFSET]) if self._store.exists(_OFFSET) else 0

    def _next_timestamp(self, chain: MiningChain) -> int:
        return max(chain.get_canonical_head().timestamp + 1, int(time.time()) + self._offset_s())

    def _mine(self, chain: MiningChain, transactions: Sequence[SignedTransactionAPI], **more: Any) -> None:
        chain.set_header_timestamp(self._next_timestamp(chain))
        chain.mine_all(transactions, **more)

    # See `Chain`.

    @property
    def chain_id(self) -> int:
        """See `Chain`."""
        return self._chain_id

    def check(self) -> None:
        """See `Chain`."""
        with self._turn():
            return

    def block_number(self) -> int:
        """See `Chain`."""
        return self.head().number

    def head(self) -> Block:
        """See `Chain`."""
        with self._turn() as chain:
            return block_of(chain.get_canonical_head())

    def finalized(self) -> Block | None:
        """See `Chain`; the latest block."""
        return self.head()

    def block(self, which: int | str) -> Block | None:
        """See `Chain`."""
        with self._turn() as chain:
            header = self._header(chain, which)
            return None if header is None else block_of(header)

    def _header(self, chain: MiningChain, which: int | str) -> BlockHeaderAPI | None:
        try:
            if isinstance(which, str):
                return chain.get_block_header_by_hash(hash32(which))
            return chain.get_canonical_block_header_by_number(BlockNumber(which))
        except HeaderNotFound:
            return None

    def logs(
        self, *, from_block: int, to_block: int, addresses: Sequence[Address], topics: Topics = ()
    ) -> Sequence[Log]:
        """See `Chain`."""
        wanted = {canonical(address) for address in addresses}
        masks = [bloom_bits(address) for address in wanted]
        found: list[Log] = []
        with self._turn() as chain:
            last = min(to_block, chain.get_canonical_head().block_number)
            for number in range(max(from_block, 0), last + 1):
                header = chain.get_canonical_block_header_by_number(BlockNumber(number))
                if any(header.bloom & mask == mask for mask in masks):
                    found += [log for receipt in self._receipts(chain, header) for log in receipt.logs]
        names = {address_of(address) for address in addresses}
        return [log for log in found if log.address in names and matches(log, topics)]

    def call(
        self, to: Address, data: bytes, *, sender: Address | None = None, value_wei: int = 0, block: int | None = None
    ) -> bytes:
        """See `Chain`."""
        with self._turn() as chain, self._state(chain, block) as state:
            computation = state.costless_execute_transaction(
                self._spoof(chain, state, sender, to, data, value_wei, gas=state.gas_limit)
            )
            if computation.is_error:
                raise TransactionFailed(f"a call of {to} reverts: {reason(computation.error)}")
            return bytes(computation.output)

    def estimate(self, *, sender: Address, to: Address | None, data: bytes, value_wei: int = 0) -> int:
        """See `Chain`; a little too much, for calls within the call are left with a 64th less than they ask for."""
        with self._turn() as chain, self._state(chain, None) as state:

            def run(gas: int) -> ComputationAPI:
                snapshot = state.snapshot()
                try:
                    return state.costless_execute_transaction(
                        self._spoof(chain, state, sender, to, data, value_wei, gas=gas)
                    )
                finally:
                    state.revert(snapshot)

            try:
                most = run(GAS_MAX)
            except (ValidationError, VMError) as invalid:  # an error of a contract is in the computation
                raise TransactionFailed(f"a transaction of {sender} is refused: {invalid}") from invalid
            if most.is_error:
                raise TransactionFailed(f"a transaction to {to or 'create a contract'} {_estimate_error(most.error)}")
            used = GAS_MAX - int(most.get_gas_remaining())
            # EIP-150 keeps back a 64th of the gas at each call within a call: a 64th more is mostly enough.
            for gas in (used + used // steps for steps in (64, 32, 16, 8)):
                if gas < GAS_MAX and not run(gas).is_error:
                    return gas
            return GAS_MAX

    def send_raw(self, raw: bytes) -> Verdict:
        """See `Chain`. Once it returns, the transaction is mined, and on the disk where there is a home."""
        with self._turn(write=True) as chain:
            transaction = decoded(chain, raw)
            if place_of(chain, transaction.hash) is not None:
                return Verdict.KNOWN
            if transaction.gas > GAS_MAX:
                raise TransactionFailed(
                    f"a transaction asks for {transaction.gas} gas, more than {GAS_MAX} (EIP-7825); split it"
                )
            state = chain.get_vm(chain.get_canonical_head()).state
            expected = state.get_nonce(transaction.sender)
            if transaction.nonce < expected:
                return Verdict.NONCE_USED
            if transaction.nonce > expected:
                raise TransactionFailed(
                    f"a transaction has the nonce {transaction.nonce}, but {expected} is next; send that one first"
                )
            if transaction.max_fee_per_gas < (chain.header.base_fee_per_gas or 0):
                return Verdict.UNDERPRICED
            try:
                self._mine(chain, [transaction])
            except (ValidationError, VMError) as error:
                raise TransactionFailed(f"a transaction of {spelt(transaction.sender)} is refused: {error}") from error
        return Verdict.ACCEPTED

    def receipt(self, tx_hash: str) -> Receipt | None:
        """See `Chain`."""
        with self._turn() as chain:
            place = place_of(chain, hash32(tx_hash))
            if place is None:
                return None
            header = chain.get_canonical_block_header_by_number(BlockNumber(place[0]))
            return self._receipts(chain, header)[place[1]]

    def nonce(self, address: Address, *, block: int | None = None) -> int:
        """See `Chain`."""
        with self._turn() as chain:
            return int(self._after(chain, block).get_nonce(canonical(address)))

    def fees(self) -> Fees:
        """See `Chain`."""
        with self._turn() as chain:
            return Fees(base_wei=int(chain.header.base_fee_per_gas or 0), tip_wei=_TIP_WEI)

    def balance(self, address: Address) -> int:
        """See `Chain`."""
        with self._turn() as chain:
            return int(self._after(chain, None).get_balance(canonical(address)))

    def code(self, address: Address) -> bytes:
        """See `Chain`."""
        with self._turn() as chain:
            return bytes(self._after(chain, None).get_code(canonical(address)))

    def _after(self, chain: MiningChain, block: int | None) -> StateAPI:
        """The state after a block, the latest without."""
        header = chain.get_canonical_head() if block is None else self._header(chain, block)
        if header is None:
            raise InvalidRequest(f"{self!r} has no block {block}")
        return chain.get_vm(header).state

    @contextlib.contextmanager
    def _state(self, chain: MiningChain, block: int | None) -> Iterator[StateAPI]:
        """The state in which a transaction after `block` would run. Nothing of what is done to it is kept."""
        if block is None:
            # py-evm makes the header of the next block from this one, a second later: the next block's own time.
            parent = chain.get_canonical_head()
            parent = parent.copy(timestamp=self._next_timestamp(chain) - 1, gas_limit=BLOCK_GAS)
        elif (found := self._header(chain, block)) is None:
            raise InvalidRequest(f"{self!r} has no block {block}")
        else:
            parent = found
        with chain.get_vm(parent).in_costless_state() as state:
            yield state

    def _spoof(
        self,
        chain: MiningChain,
        state: StateAPI,
        sender: Address | None,
        to: Address | None,
        data: bytes,
        value_wei: int,
        *,
        gas: int,
    ) -> SignedTransactionAPI:
        """A transaction that nobody signed."""
        origin = _NOBODY if sender is None else canonical(sender)
        unsigned = chain.create_unsigned_transaction(
            nonce=state.get_nonce(origin),
            gas_price=0,
            gas=gas,
            to=CanonicalAddress(b"") if to is None else canonical(to),
            value=value_wei,
            data=data,
        )
        return cast("SignedTransactionAPI", SpoofTransaction(unsigned, from_=origin))

    def _receipts(self, chain: MiningChain, header: BlockHeaderAPI) -> list[Receipt]:
        """The receipts of a block, in order."""
        block = chain.get_block_by_header(header)
        receipts = list(block.get_receipts(chain.chaindb))
        made, used, index = [], 0, 0
        for transaction, receipt in zip(block.transactions, receipts, strict=True):
            made.append(receipt_of(header, transaction, receipt, gas_used=receipt.gas_used - used, first=index))
            used, index = receipt.gas_used, index + len(receipt.logs)
        return made


def _estimate_error(error: VMError) -> str:
    if type(error).__name__ == "OutOfGas":
        return f"needs more than {GAS_MAX} gas (EIP-7825); split it"
    return f"would revert: {reason(error)}"
