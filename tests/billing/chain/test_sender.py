"""Each intent becomes one transaction in a block, whatever happens to a process or a node."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rios.billing.chain.abi import creation, encode
from rios.billing.chain.contracts import role_id
from rios.billing.chain.fees import FeeBounds
from rios.billing.chain.intents import Intent, IntentState, IntentStore, MemoryIntentStore
from rios.billing.chain.protocol import GAS_MAX, Chain
from rios.billing.chain.sender import STUCK_BLOCKS, Sender
from rios.billing.keystore import KeySigner, WatchOnly
from rios.words.errors import (
    ChainMismatch,
    ChainUnavailable,
    KeystoreError,
    LedgerConflict,
    TransactionFailed,
)
from rios.words.ids import Address
from tests.billing.chain.conftest import needs_npm
from tests.billing.chain.nets import ALICE, BOB, CAROL, GWEI, NOBODY, Net
from tests.waiting import until

WAIT_S = 60
KINDS = ["memory", pytest.param("anvil", marks=needs_npm)]
on_both = pytest.mark.parametrize("net", KINDS, indirect=True)


@pytest.fixture
def token(net: Net) -> Address:
    """A token that Alice made and may mint, in final blocks."""
    sender = net.sender()
    made = sender.send("token", None, creation("RosToken", ALICE.address, 0, 10**27), gas=8_000_000).created
    assert made is not None
    sender.send("role", made, encode("RosToken", "grantRole", role_id("MINTER_ROLE"), ALICE.address), gas=200_000)
    net.mine(3)
    return made


def _mint(amount: int, to: Address = NOBODY) -> bytes:
    return encode("RosToken", "mint", to, amount)


def _balance(net: Net, token: Address, of: Address = NOBODY) -> int:
    return int.from_bytes(net.chain.call(token, encode("RosToken", "balanceOf", of)), "big")


@on_both
class TestSend:
    def test_a_key_has_its_effect_once(self, net: Net, token: Address) -> None:
        store = MemoryIntentStore()
        first = net.sender(store=store).send("mint", token, _mint(5))
        assert first.succeeded
        # The same sender, and one of a later process.
        sender = net.sender(store=store)
        assert (sender.send("mint", token, _mint(5)), sender.send("mint", token, _mint(5))) == (first, first)
        assert _balance(net, token) == 5

    def test_a_key_has_one_effect(self, net: Net, token: Address) -> None:
        sender = net.sender()
        sender.send("mint", token, _mint(5))
        with pytest.raises(LedgerConflict, match="mint"):
            sender.send("mint", token, _mint(6))
        assert _balance(net, token) == 5

    def test_coins(self, net: Net) -> None:
        net.sender().send("gift", NOBODY, b"", value_wei=7)
        assert net.chain.balance(NOBODY) == 7

    def test_what_would_revert_is_not_signed_and_says_why(self, net: Net, token: Address) -> None:
        store = MemoryIntentStore()
        sender = net.sender(BOB, store)
        with pytest.raises(TransactionFailed, match="AccessControlUnauthorizedAccount"):
            sender.send("mint", token, _mint(5))
        found = store.get("mint")
        assert found is not None
        assert (found.state, found.attempts) == (IntentState.FAILED, ())
        assert net.chain.nonce(BOB.address) == 0
        with pytest.raises(TransactionFailed, match="AccessControlUnauthorizedAccount"):
            sender.send("mint", token, _mint(5))

    def test_what_reverts_in_a_block_says_why(self, net: Net, token: Address) -> None:
        sender = net.sender(BOB)
        with pytest.raises(TransactionFailed, match="AccessControlUnauthorizedAccount"):
            sender.send("mint", token, _mint(5), gas=200_000)
        assert net.chain.nonce(BOB.address) == 1

    def test_what_failed_is_tried_again_where_that_is_wanted(self, net: Net, token: Address) -> None:
        sender = net.sender(BOB)
        for gas in (None, 200_000):
            with pytest.raises(TransactionFailed):
                sender.send("mint", token, _mint(5), gas=gas, retry=True)
            net.mine(2)
            sender.pump()
        grant = encode("RosToken", "grantRole", role_id("MINTER_ROLE"), BOB.address)
        net.sender(ALICE).send("grant", token, grant)
        with pytest.raises(TransactionFailed):
            sender.send("mint", token, _mint(5))
        assert sender.send("mint", token, _mint(5), retry=True).succeeded
        assert sender.send("mint", token, _mint(5), retry=True).succeeded
        assert _balance(net, token) == 5

    def test_more_gas_than_a_transaction_may_have(self, net: Net, token: Address) -> None:
        with pytest.raises(TransactionFailed, match="EIP-7825"):
            net.sender().send("mint", token, _mint(5), gas=GAS_MAX + 1)

    def test_what_was_wanted_without_a_key_is_not_done_later(self, net: Net, token: Address) -> None:
        store = MemoryIntentStore()
        watching = Sender(net.chain, WatchOnly(ALICE.address), store)
        with pytest.raises(KeystoreError, match="watched only"):
            watching.send("mint", token, _mint(5))
        assert list(net.sender(ALICE, store).pump()) == []
        assert _balance(net, token) == 0

    def test_a_chain_without_what_is_done_is_another(self, net: Net, token: Address) -> None:
        store = MemoryIntentStore()
        done = net.sender(store=store).send("mint", token, _mint(5))
        net.mine(3)
        net.sender(store=store).pump()
        found = store.get("mint")
        assert found is not None
        assert (found.state, found.tx_hash, found.nonce is not None) == (IntentState.DONE, done.tx_hash, True)
        store._intents["mint"] = found.changed(tx_hash="0x" + 64 * "3")
        with pytest.raises(ChainMismatch, match="another chain"):
            net.sender(store=store).send("mint", token, _mint(5))

    def test_what_builds_on_what_is_under_way_waits_for_it(self, net: Net, token: Address) -> None:
        sender = net.sender()
        sender.submit("mint", token, _mint(5, ALICE.address))
        sender.submit("pay", token, encode("RosToken", "transfer", NOBODY, 5))
        assert sender.send("more", token, _mint(1, ALICE.address)).succeeded
        _pumped(sender, lambda: _balance(net, token) == 5)


def _pumped(sender: Sender, done: Callable[[], bool]) -> None:
    """Pump until something holds."""

    def is_done() -> bool:
        sender.pump()
        return done()

    until(is_done, deadline_s=WAIT_S, pause_s=0.02)


@on_both
class TestTogether:
    def test_threads_share_a_sender(self, net: Net, token: Address) -> None:
        sender = net.sender()
        _all(lambda n: sender.send(f"mint-{n}", token, _mint(1)), 8)
        assert _balance(net, token) == 8

    def test_senders_share_a_store(self, net: Net, token: Address) -> None:
        """As those of two processes do; half of the keys are wanted by both."""
        store = MemoryIntentStore()
        senders = [net.sender(store=store), net.sender(store=store)]
        _all(lambda n: senders[n % 2].send(f"mint-{n // 2 if n < 4 else n}", token, _mint(1)), 8)
        assert _balance(net, token) == 6

    def test_accounts_do_not_wait_for_each_other(self, net: Net) -> None:
        store = MemoryIntentStore()
        signers = (ALICE, BOB, CAROL)
        _all(lambda n: net.sender(signers[n], store).send(f"gift-{n}", NOBODY, b"", value_wei=1), 3)
        assert net.chain.balance(NOBODY) == 3
        assert [net.chain.nonce(signer.address) for signer in signers] == [1, 1, 1]


def _all(run: Callable[[int], object], count: int) -> None:
    """`run` in as many threads, at once."""
    failures: list[BaseException] = []
    together = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            together.wait(WAIT_S)
            run(number)
        except BaseException as error:  # noqa: BLE001  # raised where somebody sees it
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)


class Killed(BaseException):
    """The process is gone."""


class Dying:
    """A chain or a store in a process that is killed before, or just after, its n-th call that changes something."""

    def __init__(self, inner: Any, methods: frozenset[str], *, at: int, after: bool) -> None:
        self._inner, self._methods, self._after = inner, methods, after
        self._left = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = found(*arguments)
            if self._left == 0:
                raise Killed
            return result

        return call


STORE, CHAIN = frozenset({"insert", "save"}), frozenset({"send_raw"})
# Insertion, signature and end are kept; one transaction is sent.
CRASHES = [
    *((STORE, at, after) for at in (1, 2, 3) for after in (False, True)),
    *((CHAIN, 1, after) for after in (False, True)),
]


@on_both
@pytest.mark.parametrize(("methods", "at", "after"), CRASHES)
def test_a_killed_process_neither_repeats_nor_forgets(
    net: Net, token: Address, methods: frozenset[str], at: int, after: bool
) -> None:
    store, before = MemoryIntentStore(), net.chain.nonce(ALICE.address)
    dying: IntentStore = Dying(store, methods, at=at, after=after) if methods is STORE else store  # type: ignore[assignment]
    chain: Chain = Dying(net.chain, methods, at=at, after=after) if methods is CHAIN else net.chain  # type: ignore[assignment]
    with pytest.raises(Killed):
        _until_killed(net, Sender(chain, ALICE, dying, poll_s=0.02), token)
    known = store.get("mint") is not None
    assert known or (methods is STORE and at == 1)

    sender = net.sender(store=store)
    if known:
        _pumped(sender, lambda: _balance(net, token) == 5)
    assert sender.send("mint", token, _mint(5)).succeeded
    assert sender.send("next", token, _mint(1)).succeeded
    net.mine(3)
    assert list(sender.pump()) == []
    assert _balance(net, token) == 6
    assert net.chain.nonce(ALICE.address) == before + 2


def _until_killed(net: Net, sender: Sender, token: Address) -> None:
    sender.send("mint", token, _mint(5))
    net.mine(3)
    sender.pump()


class TestNode:
    """What only a node does."""

    pytestmark = needs_npm

    @pytest.fixture
    def net(self, live: Net) -> Net:
        """A node alone."""
        return live

    @pytest.fixture
    def made(self, live: Net, token: Address) -> Address:
        """A token, on a node that mines when it is told to from now on."""
        live.anvil.ask("evm_setAutomine", False)
        return token

    def test_in_a_block_and_in_a_final_one(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = live.sender(store=store, timeout_s=0)
        with pytest.raises(TransactionFailed, match="stays under way"):
            sender.send("mint", made, _mint(5))
        assert _states(store, "mint") == [IntentState.SENT]
        live.mine()
        assert sender.send("mint", made, _mint(5)).succeeded
        assert _states(store, "mint") == [IntentState.MINED]
        with pytest.raises(ChainUnavailable, match="not final after 0 s"):
            sender.send("mint", made, _mint(5), final=True)
        live.mine(2)
        assert sender.send("mint", made, _mint(5), final=True).succeeded
        assert _states(store, "mint") == [IntentState.DONE]

    def test_a_dropped_one_is_sent_again(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = live.sender(store=store)
        for number in range(3):
            sender.submit(f"mint-{number}", made, _mint(1))
        sender.pump()
        before = [store.get(f"mint-{number}") for number in range(3)]
        live.anvil.ask("anvil_dropAllTransactions")
        live.mine()
        assert _balance(live, made) == 0
        # Another process, after a crash: the same signed transactions.
        live.sender(store=store).pump()
        assert [store.get(f"mint-{number}") for number in range(3)] == before
        live.mine()
        assert _balance(live, made) == 3

    def test_a_stuck_one_offers_more_up_to_a_bound(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        bounds = FeeBounds(max_fee_wei=40 * GWEI)
        sender = Sender(live.chain, ALICE, store, bounds=bounds)
        sender.submit("mint", made, _mint(5))
        sender.pump()
        offers = []
        for _ in range(6):
            for _ in range(STUCK_BLOCKS):
                live.anvil.ask("anvil_setNextBlockBaseFeePerGas", hex(30 * GWEI))
                live.mine()
            sender.pump()
            offers.append([attempt.max_fee_wei for attempt in _get(store, "mint").attempts])
        fees = offers[-1]
        assert len(fees) > 1
        assert fees == sorted(set(fees))
        assert fees[-1] <= bounds.max_fee_wei
        assert offers[-1] == offers[-2], "the bound ends it"
        assert all(later * 10 >= sooner * 11 for sooner, later in itertools.pairwise(fees))
        assert _balance(live, made) == 5

    def test_it_waits_at_the_bound(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = Sender(live.chain, ALICE, store, bounds=FeeBounds(max_fee_wei=5 * GWEI), timeout_s=0)
        for _ in range(3 * STUCK_BLOCKS):
            live.anvil.ask("anvil_setNextBlockBaseFeePerGas", hex(90 * GWEI))
            live.mine()
            with pytest.raises(TransactionFailed, match="wei for each gas"):
                sender.send("mint", made, _mint(5))
        live.anvil.ask("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        live.mine()
        sender.pump()
        live.anvil.ask("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        live.mine()
        assert sender.send("mint", made, _mint(5)).succeeded
        assert _balance(live, made) == 5

    def test_what_a_reorganisation_took_away_is_sent_again(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = Sender(live.chain, ALICE, store, confirmations=12, finalized_tag=False, poll_s=0.02)
        live.anvil.ask("evm_setAutomine", True)
        live.mine(20)
        receipts = [sender.send(f"mint-{number}", made, _mint(1)) for number in range(12)]
        assert _states(store, *(f"mint-{number}" for number in range(12))) == 12 * [IntentState.MINED]
        live.anvil.ask("anvil_reorg", 12, [])
        live.anvil.ask("anvil_dropAllTransactions")
        live.mine()
        assert _balance(live, made) == 0
        _pumped(sender, lambda: _balance(live, made) == 12)
        live.mine(20)
        assert list(sender.pump()) == []
        again = [sender.send(f"mint-{number}", made, _mint(1)) for number in range(12)]
        # The same signed transactions, so that nothing can happen twice.
        assert [receipt.tx_hash for receipt in again] == [receipt.tx_hash for receipt in receipts]
        assert _balance(live, made) == 12

    def test_a_nonce_that_somebody_else_used(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = live.sender(store=store)
        sender.submit("mint", made, _mint(5))
        sender.pump()
        live.anvil.ask("anvil_dropAllTransactions")
        live.anvil.ask("evm_setAutomine", True)
        other = live.sender()  # the same key with a store of its own, as it should not be
        assert other.send("gift", NOBODY, b"", value_wei=1).succeeded
        sender.pump()
        assert _states(store, "mint") == [IntentState.SENT], "the other's block may still go away"
        live.mine(3)
        sender.pump()
        assert _states(store, "mint") == [IntentState.SENT], "a node may know a nonce before its block"
        live.mine()
        assert sender.send("mint", made, _mint(5)).succeeded
        assert _balance(live, made) == 5

    def test_a_node_that_is_killed_and_started_again(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = live.sender(store=store)
        sender.submit("mint", made, _mint(5))
        sender.pump()
        live.anvil.stop()  # it keeps its blocks, not what waits for one
        with pytest.raises(ChainUnavailable, match="no connection"):
            sender.send("other", made, _mint(1))
        with pytest.raises(ChainUnavailable):
            sender.pump()
        live.anvil.start()
        assert sender.send("mint", made, _mint(5)).succeeded
        assert _balance(live, made) == 6, "what was wanted while it was away is done too"

    def test_a_node_that_goes_while_somebody_waits(self, live: Net, made: Address) -> None:
        store = MemoryIntentStore()
        sender = live.sender(store=store)
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.append(sender.send("mint", made, _mint(5))))
        waiting.start()
        until(lambda: store.get("mint") is not None and _states(store, "mint") == [IntentState.SENT], deadline_s=WAIT_S)
        live.anvil.stop()
        live.anvil.start()
        waiting.join(WAIT_S)
        assert [receipt.succeeded for receipt in got] == [True]
        assert _balance(live, made) == 5

    def test_one_without_coins_is_done_when_there_are_some(self, live: Net, made: Address) -> None:
        live.anvil.ask("evm_setAutomine", True)
        poor, store = KeySigner.random(), MemoryIntentStore()
        sender = live.sender(poor, store)
        approve = encode("RosToken", "approve", NOBODY, 5)
        with pytest.raises(TransactionFailed, match="not done yet"):
            sender.send("approve", made, approve, gas=100_000)
        live.fund(poor.address)
        assert sender.send("approve", made, approve, gas=100_000).succeeded
        assert _get(store, "approve").error is None


def _get(store: IntentStore, key: str) -> Intent:
    found = store.get(key)
    assert found is not None
    return found


def _states(store: IntentStore, *keys: str) -> Sequence[IntentState]:
    return [_get(store, key).state for key in keys]
