"""The one owner of an account's nonces: each intent becomes a transaction in a block, once, whatever happens between.

What is signed is kept before a node sees it. So after a crash, a node that forgot, or a reorganisation, the same signed
transaction is sent again, and only one of those with its nonce can have an effect. Fees rise while it is stuck, up to a
bound. Several processes may share a store: the store lets one of them have a nonce.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from rios.billing.chain.abi import keccak
from rios.billing.chain.fees import FeeBounds, bumped, first
from rios.billing.chain.finality import CONFIRMATIONS, final_block
from rios.billing.chain.intents import Attempt, Intent, IntentState, IntentStore, intent
from rios.billing.chain.protocol import GAS_MAX, Block, Chain, Receipt, Transaction, Verdict
from rios.billing.keystore import Signer
from rios.words.errors import ChainMismatch, ChainUnavailable, KeystoreError, LedgerConflict, TransactionFailed
from rios.words.ids import Address

SEND_TIMEOUT_S = 120.0
POLL_S = 0.25
STUCK_BLOCKS = 3
"""A transaction that is in none of so many blocks offers too little."""
_GAS_MARGIN_PERCENT = 20
"""Between an estimate and the block that it gets into, the state may change."""
_RACES_MAX = 5


class Sender:
    """Sends what an account wants done. Its methods may be called from several threads."""

    def __init__(
        self,
        chain: Chain,
        signer: Signer,
        store: IntentStore,
        *,
        bounds: FeeBounds | None = None,
        confirmations: int = CONFIRMATIONS,
        finalized_tag: bool = True,
        timeout_s: float = SEND_TIMEOUT_S,
        poll_s: float = POLL_S,
    ) -> None:
        """confirmations, finalized_tag: when a block is final, as `final_block` has it.

        timeout_s: how long `send` waits for a block, unless the call says otherwise. poll_s: how often it looks.
        """
        self._chain = chain
        self._signer = signer
        self._store = store
        self._bounds = bounds or FeeBounds()
        self._confirmations = confirmations
        self._finalized_tag = finalized_tag
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._head_at: dict[str, int] = {}
        """By the hash of a transaction: the latest block when this process first sent it."""
        self._lost_at: dict[str, int] = {}
        """By key: the final block under which somebody else's transaction was first seen to have the nonce."""

    def __repr__(self) -> str:
        return f"<Sender {self.address} on {self._chain!r}>"

    @property
    def address(self) -> Address:
        """Who sends."""
        return self._signer.address

    def wanted(self, key: str) -> Intent | None:
        """What was wanted under `key`, or None."""
        return self._store.get(key)

    def unfinished(self) -> Sequence[Intent]:
        """What has not ended, as it was when it was looked after last."""
        return self._store.unfinished(self._chain.chain_id, self.address)

    def submit(
        self,
        key: str,
        to: Address | None,
        data: bytes,
        *,
        value_wei: int = 0,
        gas: int | None = None,
        retry: bool = False,
    ) -> Intent:
        """Keep what is wanted under `key` and do not wait: `pump` sends it. The same key again is the same intent.

        to: None creates a contract. gas: the limit; estimated without. retry: begin anew where it failed before; a
        failed intent had no effect.

        Raises LedgerConflict where the key has another effect, TransactionFailed for a limit above that of EIP-7825.
        """
        if gas is not None and gas > GAS_MAX:
            raise TransactionFailed(f"{key!r} asks for {gas} gas, more than {GAS_MAX} (EIP-7825); split it")
        wanted = intent(
            key, chain_id=self._chain.chain_id, sender=self.address, to=to, data=data, value_wei=value_wei, gas=gas
        )
        known = self._store.insert(wanted)
        if retry and known.state is IntentState.FAILED:
            known = known.changed(
                state=IntentState.WAITING, gas=gas, nonce=None, attempts=(), tx_hash=None, block=None, block_hash=None,
                error=None,
            )  # fmt: skip
            self._store.save(known)
        return known

    def send(
        self,
        key: str,
        to: Address | None,
        data: bytes,
        *,
        value_wei: int = 0,
        gas: int | None = None,
        retry: bool = False,
        final: bool = False,
        timeout_s: float | None = None,
    ) -> Receipt:
        """As `submit`, and wait until it is in a block, or with `final` in one that stays.

        What is in a block that is not final yet stays with `pump`, which sends it again after a reorganisation.

        Raises TransactionFailed where it reverts, where a node refuses it, and where it is in no block by the deadline
        (then it stays with `pump`, and the same key waits on); ChainUnavailable where no node answers, and where its
        block is not final by the deadline; ChainMismatch where the intent was done on another chain; KeystoreError
        where the signer may not sign, and it has failed then.
        """
        found = self.submit(key, to, data, value_wei=value_wei, gas=gas, retry=retry)
        return self._awaited(found, final=final, timeout_s=self._timeout_s if timeout_s is None else timeout_s)

    def finish(self, key: str, *, timeout_s: float) -> Receipt:
        """Wait until what was sent under `key` is in a block that stays, and send it again after a reorganisation.

        Raises as `send`.
        """
        return self._awaited(self._get(key), final=True, timeout_s=timeout_s)

    def _awaited(self, found: Intent, *, final: bool, timeout_s: float) -> Receipt:
        deadline, key = time.monotonic() + timeout_s, found.key
        while True:
            away: ChainUnavailable | None = None
            try:
                if not found.finished:
                    self.pump()
                    found = self._get(key)
                if (receipt := self._result(found, final=final)) is not None:
                    return receipt
                if found.state is IntentState.DONE:
                    found = self._reopened(found)
            except ChainUnavailable as error:
                found = self._get(key)
                if found.state is IntentState.WAITING:
                    raise  # nobody has heard of it yet: there is nothing to wait for
                away = error
            if time.monotonic() >= deadline:
                if away is not None:
                    raise away
                raise self._late(found, timeout_s)
            time.sleep(min(self._poll_s, max(deadline - time.monotonic(), 0)))

    def pump(self) -> Sequence[Intent]:
        """Go on with everything unfinished, once and without waiting; what is still unfinished then.

        Raises ChainUnavailable, KeystoreError.
        """
        if not self._lock.acquire(timeout=self._timeout_s):
            raise ChainUnavailable(f"another thread sends for {self.address} since {self._timeout_s:g} s; try again")
        try:
            return self._pump()
        finally:
            self._lock.release()

    def _pump(self) -> Sequence[Intent]:
        for _ in range(_RACES_MAX):
            try:
                unfinished = self._advance()
                if self._sign_waiting(unfinished):
                    # What was sent may be in a block at once: a chain in this process needs no second call.
                    unfinished = self._advance()
            except LedgerConflict:
                # Another process with the same store was faster; what it did is read in the next round.
                continue
            return unfinished
        return self.unfinished()

    # What is signed.

    def _advance(self) -> list[Intent]:
        """Look after what is signed, in the order of nonces; what is unfinished, in the order of insertion."""
        unfinished = list(self.unfinished())
        signed = sorted((found for found in unfinished if found.attempts), key=lambda found: found.nonce or 0)
        if not signed:
            return unfinished
        final = final_block(self._chain, confirmations=self._confirmations, finalized_tag=self._finalized_tag)
        changed = {found.key: self._followed(found, final) for found in signed}
        return [now for found in unfinished if not (now := changed.get(found.key, found)).finished]

    def _followed(self, found: Intent, final: Block | None) -> Intent:
        """What became of a signed intent. One that is in no block is sent again."""
        if receipt := self._receipt(found):
            return self._mined(found, receipt, final)
        assert found.nonce is not None
        if final is not None and self._used(found.nonce, final):
            # Its nonce is gone for good. A node behind others may know that and not the block, and to sign once more
            # would then be twice: so it is asked again under a later final block.
            if final.number == self._lost_at.setdefault(found.key, final.number):
                return found
            if receipt := self._receipt(found):
                return self._mined(found, receipt, final)
            del self._lost_at[found.key]
            return self._saved(found, state=IntentState.WAITING, nonce=None, attempts=(), tx_hash=None, block=None,
                               block_hash=None, error=f"nonce {found.nonce} was used by somebody else")  # fmt: skip
        if found.state is IntentState.MINED:
            found = self._saved(found, state=IntentState.SENT, tx_hash=None, block=None, block_hash=None)
        return self._repeat(found)

    def _used(self, nonce: int, final: Block) -> bool:
        """Whether a nonce is in a final block. The older block is asked last, for nodes forget what was then."""
        return self._chain.nonce(self.address) > nonce and (self._chain.nonce(self.address, block=final.number) > nonce)

    def _receipt(self, found: Intent) -> Receipt | None:
        for attempt in reversed(found.attempts):
            if receipt := self._chain.receipt(attempt.tx_hash):
                return receipt
        return None

    def _mined(self, found: Intent, receipt: Receipt, final: Block | None) -> Intent:
        state = IntentState.MINED
        if final is not None and receipt.block <= final.number:
            state = IntentState.DONE if receipt.succeeded else IntentState.FAILED
        if (found.state, found.block_hash) == (state, receipt.block_hash):
            return found
        error = None if receipt.succeeded else self._why(found, receipt)
        self._lost_at.pop(found.key, None)
        for attempt in found.attempts:
            self._head_at.pop(attempt.tx_hash, None)
        return self._saved(found, state=state, tx_hash=receipt.tx_hash, block=receipt.block, error=error,
                           block_hash=receipt.block_hash)  # fmt: skip

    def _why(self, found: Intent, receipt: Receipt) -> str:
        """Why a transaction reverted: what the same call answers on the block before it."""
        said = f"{receipt.tx_hash} in block {receipt.block} was reverted"
        if found.to is None:
            return said
        try:
            self._chain.call(
                found.to, found.data, sender=self.address, value_wei=found.value_wei, block=receipt.block - 1
            )
        except (TransactionFailed, ChainUnavailable) as error:
            return f"{said}: {error}"
        return f"{said}; on the block before it would not be"

    def _repeat(self, found: Intent) -> Intent:
        """Hand the latest attempt in again, or a dearer one where it is stuck."""
        last, head = found.attempts[-1], self._chain.block_number()
        verdict = None
        if head - self._head_at.setdefault(last.tx_hash, head) < STUCK_BLOCKS:
            found, verdict = self._hand_in(found)
            if verdict is not Verdict.UNDERPRICED:
                return found
        offer = bumped(last, self._chain.fees(), self._bounds)
        if offer is None or len(found.attempts) >= self._bounds.attempts_max:
            return found if verdict else self._hand_in(found)[0]
        attempt = self._signed(found, offer=offer)
        return self._hand_in(self._saved(found, attempts=(*found.attempts, attempt)))[0]

    def _hand_in(self, found: Intent) -> tuple[Intent, Verdict | None]:
        """Send the latest attempt. A refusal is kept with the intent: it may be taken later, once there is money."""
        last = found.attempts[-1]
        self._head_at.setdefault(last.tx_hash, self._chain.block_number())
        try:
            verdict, error = self._chain.send_raw(last.raw), None
        except TransactionFailed as refusal:
            verdict, error = None, str(refusal)
        return (found if found.error == error else self._saved(found, error=error)), verdict

    # What waits.

    def _sign_waiting(self, unfinished: Sequence[Intent]) -> bool:
        """Sign and send what has no nonce yet, in the order of insertion; whether there was any."""
        waiting = [found for found in unfinished if found.state is IntentState.WAITING]
        if not waiting:
            return False
        under_way = [found.nonce for found in unfinished if found.nonce is not None]
        # What is signed here is the only thing under way, so the next nonce follows the last of it; the chain's own
        # count falls behind that while a reorganisation takes blocks away.
        nonce = max([self._chain.nonce(self.address), *(used + 1 for used in under_way)])
        offer = first(self._chain.fees(), self._bounds)
        earlier = any(found.state is IntentState.SENT for found in unfinished)
        for found in waiting:
            gas = found.gas
            if gas is None:
                gas = self._gas(found, earlier=earlier)
            if gas is None:
                continue
            sent = found.changed(state=IntentState.SENT, nonce=nonce, gas=gas, error=None)
            try:
                sent = replace(sent, attempts=(self._signed(sent, offer=offer),))
            except KeystoreError as error:
                # Who may not sign today must not be surprised by what was wanted today when he may again.
                self._saved(found, state=IntentState.FAILED, error=str(error))
                raise
            self._store.save(sent)
            self._hand_in(sent)
            nonce, earlier = nonce + 1, True
        return True

    def _gas(self, found: Intent, *, earlier: bool) -> int | None:
        """The limit for an intent; None where it cannot be known now. One that would revert has failed, unless
        something that it may build on is still under way."""
        try:
            gas = self._chain.estimate(sender=self.address, to=found.to, data=found.data, value_wei=found.value_wei)
        except TransactionFailed as error:
            state = IntentState.WAITING if earlier else IntentState.FAILED
            if (found.state, found.error) != (state, str(error)):
                self._saved(found, state=state, error=str(error))
            return None
        return min(gas + gas * _GAS_MARGIN_PERCENT // 100, GAS_MAX)

    def _signed(self, found: Intent, *, offer: tuple[int, int]) -> Attempt:
        """An attempt of an intent that has its nonce and gas; nobody but the caller has it yet."""
        assert found.nonce is not None
        assert found.gas is not None
        fee, tip = offer
        transaction = Transaction(
            chain_id=found.chain_id,
            nonce=found.nonce,
            to=found.to,
            data=found.data,
            value_wei=found.value_wei,
            gas=found.gas,
            max_fee_wei=fee,
            tip_wei=tip,
        )
        raw = self._signer.sign_transaction(transaction)
        return Attempt(tx_hash="0x" + keccak(raw).hex(), raw=raw, max_fee_wei=fee, tip_wei=tip)

    # How it stands.

    def _saved(self, found: Intent, **fields: object) -> Intent:
        changed = found.changed(**fields)
        self._store.save(changed)
        return changed

    def _get(self, key: str) -> Intent:
        found = self._store.get(key)
        assert found is not None, f"the store lost the intent {key!r}"
        return found

    def _result(self, found: Intent, *, final: bool) -> Receipt | None:
        """The receipt of an intent that is far enough, or None. Raises TransactionFailed for one that failed."""
        if found.state is IntentState.FAILED:
            raise TransactionFailed(f"{found.key!r} failed: {found.error}; nothing of it had an effect")
        if found.error is not None and found.state is not IntentState.WAITING:
            raise TransactionFailed(f"{found.key!r} is not done yet: {found.error}")
        if found.state is IntentState.DONE or (found.state is IntentState.MINED and not final):
            assert found.tx_hash is not None
            return self._chain.receipt(found.tx_hash)
        return None

    def _reopened(self, found: Intent) -> Intent:
        """Something done whose block went though it was final. What is signed is handed in again where its nonce is
        free, and the contract there: so it can have happened on no block of this chain. Else raises ChainMismatch."""
        assert found.nonce is not None
        there = found.to is not None and bool(self._chain.code(found.to))
        if not there or self._chain.nonce(self.address) > found.nonce:
            raise ChainMismatch(
                f"{found.key!r} was done by {found.tx_hash}, which this chain does not have: it is another chain, "
                "or was begun anew"
            )
        return self._saved(found, state=IntentState.SENT, tx_hash=None, block=None, block_hash=None)

    def _late(self, found: Intent, timeout_s: float) -> TransactionFailed | ChainUnavailable:
        if found.state is IntentState.MINED:
            return ChainUnavailable(
                f"{found.key!r} is in block {found.block} of chain {found.chain_id}, which is not final after "
                f"{timeout_s:g} s; it stays sent: ask again later"
            )
        last = found.attempts[-1] if found.attempts else None
        offered = f"; it offers {last.max_fee_wei} wei for each gas" if last else ""
        why = f" ({found.error})" if found.error else ""
        return TransactionFailed(
            f"{found.key!r} is {found.state.value} after its deadline{why}{offered}; it stays under way"
        )
