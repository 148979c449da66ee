"""A chain of each kind for a test, with the few things that a test does to it from outside."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rios.billing.chain.abi import keccak
from rios.billing.chain.contracts import Addresses, deploy_all
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.intents import IntentStore, MemoryIntentStore
from rios.billing.chain.protocol import Chain, Receipt, Transaction
from rios.billing.chain.rpc import RpcChain
from rios.billing.chain.sender import Sender
from rios.billing.keystore import KeySigner
from rios.words.ids import Address, check_address
from tests.billing.chain.anvil import Anvil

COINS = 10**24
GWEI = 10**9
# Keys of nobody, the same in each run: a failure shows the same addresses again.
ALICE, BOB, CAROL = (KeySigner(bytes(31) + bytes([number])) for number in (11, 12, 13))
NOBODY = check_address("0x" + 20 * "9a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A chain, and how to make blocks on it."""

    chain: Chain
    node: Anvil | None = None

    @property
    def embedded(self) -> EmbeddedChain:
        """The chain, where it is in this process."""
        assert isinstance(self.chain, EmbeddedChain)
        return self.chain

    @property
    def anvil(self) -> Anvil:
        """The node, where it is one."""
        assert self.node is not None
        return self.node

    def mine(self, blocks: int = 1) -> None:
        """Mine empty blocks."""
        if self.node is None:
            self.embedded.mine(blocks)
        else:
            self.node.ask("anvil_mine", hex(blocks))

    def fund(self, address: Address, wei: int = COINS) -> None:
        """Give an account coins for gas."""
        if self.node is None:
            self.embedded.fund(address, wei)
        else:
            self.node.ask("anvil_setBalance", address, hex(wei))

    def sender(self, signer: KeySigner = ALICE, store: IntentStore | None = None, *, timeout_s: float = 60) -> Sender:
        """A sender that looks often."""
        return Sender(self.chain, signer, store or MemoryIntentStore(), timeout_s=timeout_s, poll_s=0.02)

    def deploy(self, sender: Sender | None = None) -> Addresses:
        """All contracts, of Alice."""
        return deploy_all(self.chain, sender or self.sender())


def on_anvil(node: Anvil, *, timeout_s: float = 10) -> Net:
    """A node whose Alice, Bob and Carol have coins."""
    net = Net(chain=RpcChain(node.url, timeout_s=timeout_s), node=node)
    for signer in (ALICE, BOB, CAROL):
        net.fund(signer.address)
    return net


def signed(
    chain: Chain,
    signer: KeySigner,
    *,
    to: Address | None = NOBODY,
    data: bytes = b"",
    value_wei: int = 0,
    gas: int = 100_000,
    nonce: int | None = None,
    max_fee_wei: int = 20 * GWEI,
    chain_id: int | None = None,
) -> bytes:
    """A signed transaction of type 2."""
    transaction = Transaction(
        chain_id=chain.chain_id if chain_id is None else chain_id,
        nonce=chain.nonce(signer.address) if nonce is None else nonce,
        to=to,
        data=data,
        value_wei=value_wei,
        gas=gas,
        max_fee_wei=max_fee_wei,
        tip_wei=min(GWEI, max_fee_wei),
    )
    return signer.sign_transaction(transaction)


def hash_of(raw: bytes) -> str:
    """The hash of a signed transaction."""
    return "0x" + keccak(raw).hex()


def sent(chain: Chain, raw: bytes) -> Receipt:
    """The receipt of a transaction on a chain that mines at once."""
    chain.send_raw(raw)
    deadline = time.monotonic() + 60
    while (receipt := chain.receipt(hash_of(raw))) is None:
        assert time.monotonic() < deadline, "it is not mined"
        time.sleep(0.005)  # anvil mines a moment after it has answered
    return receipt
