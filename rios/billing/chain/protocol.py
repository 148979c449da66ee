"""What rios asks of a chain, whoever keeps it: a node somewhere, or this process.

Every call ends by the chain's own deadline, with ChainUnavailable where nobody answered. Hashes are text, "0x" and 64
digits in lower case; addresses are spelt as EIP-55 has it; amounts are wei.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from rios.words.ids import Address

GAS_MAX = 2**24
"""The most that one transaction may ask for (EIP-7825)."""
DEFAULT_TIMEOUT_S = 10.0
Topics = Sequence[str | None]
"""Hashes by place; None stands for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The header of a block, as much of it as is asked for."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    """Seconds since 1970."""
    bloom: bytes = field(repr=False)
    """256 bytes that tell which logs are surely not in it (yellow paper, 4.3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What a contract said."""

    address: Address
    topics: tuple[str, ...]
    data: bytes
    block: int
    block_hash: str
    tx_hash: str
    index: int
    """Its place in the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a transaction that is in a block."""

    tx_hash: str
    block: int
    block_hash: str
    succeeded: bool
    gas_used: int
    gas_price_wei: int
    """What was paid for each gas."""
    created: Address | None
    """The contract that it made, if it made one."""
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """What the chain takes now (EIP-1559)."""

    base_wei: int
    """Burnt for each gas in the next block."""
    tip_wei: int
    """What the node suggests to give on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transaction of type 2, to be signed."""

    chain_id: int
    nonce: int
    to: Address | None
    data: bytes
    value_wei: int
    gas: int
    max_fee_wei: int
    """For each gas, tip and base fee together."""
    tip_wei: int


class Verdict(StrEnum):
    """What a node says to a signed transaction. One that it refuses for good is a TransactionFailed."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    """It had it already."""
    NONCE_USED = "nonce used"
    """Another transaction of this nonce, or this one, is in a block."""
    UNDERPRICED = "underpriced"
    """Its fee is too low, by itself or to replace another of the same nonce."""


class Chain(Protocol):
    """A chain. Each method raises ChainUnavailable by its deadline, and ChainMismatch where the node changed chains."""

    @property
    def chain_id(self) -> int:
        """By EIP-155. Raises ChainMismatch where the node says another than it should."""

    def check(self) -> None:
        """Ask again which chain this is; raises ChainMismatch where it is another than before."""

    def block_number(self) -> int:
        """The number of the latest block."""

    def head(self) -> Block:
        """The latest block."""

    def finalized(self) -> Block | None:
        """The latest block that stays; None where the chain does not tell."""

    def block(self, which: int | str) -> Block | None:
        """A block by number or by hash; None where the chain has none (any more)."""

    def logs(
        self, *, from_block: int, to_block: int, addresses: Sequence[Address], topics: Topics = ()
    ) -> Sequence[Log]:
        """The logs of some contracts in a range of blocks, both ends included, in their order."""

    def call(
        self, to: Address, data: bytes, *, sender: Address | None = None, value_wei: int = 0, block: int | None = None
    ) -> bytes:
        """What a contract answers, after the latest block or after `block`.

        Raises TransactionFailed when it reverts, and ChainUnavailable where the chain has no state of that block now.
        """

    def estimate(self, *, sender: Address, to: Address | None, data: bytes, value_wei: int = 0) -> int:
        """The gas that a transaction would need now. Raises TransactionFailed when it would revert."""

    def send_raw(self, raw: bytes) -> Verdict:
        """Hand in a signed transaction. Raises TransactionFailed where it can never be mined as it is."""

    def receipt(self, tx_hash: str) -> Receipt | None:
        """The receipt of a transaction that is in a block of this chain, or None."""

    def nonce(self, address: Address, *, block: int | None = None) -> int:
        """How many transactions of an account are in blocks up to the latest, or up to `block`."""

    def fees(self) -> Fees:
        """What is taken now."""

    def balance(self, address: Address) -> int:
        """What an account has, in wei of the chain's own coin."""

    def code(self, address: Address) -> bytes:
        """The code of a contract; empty where there is none."""

    def close(self) -> None:
        """Let go of what it holds. What was mined stays."""
