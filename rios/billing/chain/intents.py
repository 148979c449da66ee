"""What is to be done on the chain, kept before it is done: the outbox of transactions.

An intent has a key that names its effect ("epoch-7-root"): the same key is the same intent, however often it is asked
for. Every signed transaction is kept with its intent before a node sees it, so a crash at any point leaves enough to go
on: what was signed is sent again, and what was not signed has no nonce yet.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, Self

from rios.words.canonical import digest
from rios.words.errors import LedgerConflict
from rios.words.ids import Address, check_address
from rios.words.money import check_wei


class IntentState(StrEnum):
    """How far an intent is. `DONE` and `FAILED` are its ends: neither is left again."""

    WAITING = "waiting"
    """Nothing is signed; it has no nonce."""
    SENT = "sent"
    """Signed, and perhaps with a node."""
    MINED = "mined"
    """In a block that may still be reorganised away."""
    DONE = "done"
    """In a final block, with success."""
    FAILED = "failed"
    """In a final block, and reverted; or given up before anything was signed."""


UNFINISHED = frozenset({IntentState.WAITING, IntentState.SENT, IntentState.MINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed transaction. Those of one nonce replace each other, so one of them at most has an effect."""

    tx_hash: str
    raw: bytes
    max_fee_wei: int
    tip_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One transaction to be made, and what became of it."""

    key: str
    chain_id: int
    sender: Address
    to: Address | None
    """None creates a contract."""
    data: bytes
    value_wei: int = 0
    gas: int | None = None
    """The limit; estimated when it is signed where nobody gave it."""

    state: IntentState = IntentState.WAITING
    version: int = 0
    """Counts the changes: a store refuses a change that was made from an older version."""
    nonce: int | None = None
    attempts: tuple[Attempt, ...] = ()
    tx_hash: str | None = None
    """Of the attempt that is in a block."""
    block: int | None = None
    block_hash: str | None = None
    error: str | None = None

    @property
    def effect(self) -> str:
        """A digest of what it does, without what became of it: the same key must have the same."""
        parts = [self.chain_id, self.sender, self.to, self.data.hex(), str(self.value_wei)]
        return digest(parts)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in UNFINISHED

    def changed(self, **fields: Any) -> Self:
        """The next version of it."""
        return replace(self, version=self.version + 1, **fields)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; amounts are text."""
        return {
            "key": self.key,
            "chain_id": self.chain_id,
            "sender": self.sender,
            "to": self.to,
            "data": self.data.hex(),
            "value_wei": str(self.value_wei),
            "gas": self.gas,
            "state": self.state.value,
            "version": self.version,
            "nonce": self.nonce,
            "attempts": [
                {"tx_hash": a.tx_hash, "raw": a.raw.hex(), "max_fee_wei": str(a.max_fee_wei), "tip_wei": str(a.tip_wei)}
                for a in self.attempts
            ],
            "tx_hash": self.tx_hash,
            "block": self.block,
            "block_hash": self.block_hash,
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote."""
        fields = dict(raw)
        fields["attempts"] = tuple(
            Attempt(
                tx_hash=a["tx_hash"],
                raw=bytes.fromhex(a["raw"]),
                max_fee_wei=int(a["max_fee_wei"]),
                tip_wei=int(a["tip_wei"]),
            )
            for a in raw["attempts"]
        )
        fields |= {
            "data": bytes.fromhex(raw["data"]),
            "value_wei": int(raw["value_wei"]),
            "state": IntentState(raw["state"]),
        }
        return cls(**fields)


def intent(
    key: str, *, chain_id: int, sender: str, to: str | None, data: bytes, value_wei: int = 0, gas: int | None = None
) -> Intent:
    """A new intent; its addresses and amount are checked."""
    return Intent(
        key=key,
        chain_id=chain_id,
        sender=check_address(sender, name="the sender"),
        to=None if to is None else check_address(to, name="the receiver"),
        data=bytes(data),
        value_wei=check_wei(value_wei, name="the value"),
        gas=gas,
    )


class IntentStore(Protocol):
    """Keeps intents. Each method is one durable transaction: done when it returns, or not at all.

    A table needs the columns key (primary), chain_id, sender, nonce, state, version, a counter of insertion, and
    `to_dict` as JSON; and (chain_id, sender, nonce) unique where the nonce is not null.
    """

    def insert(self, intent: Intent) -> Intent:
        """Keep a new intent; one whose key is known stays as it is. Returns what is kept.

        Raises LedgerConflict where the known one has another effect.
        """

    def get(self, key: str) -> Intent | None:
        """The intent of a key, or None."""

    def save(self, intent: Intent) -> None:
        """Replace an intent by its next version.

        Raises LedgerConflict unless the kept version is `intent.version - 1`, and where another intent of the same
        sender on the same chain has its nonce: somebody else was faster, so read again.
        """

    def unfinished(self, chain_id: int, sender: str) -> Sequence[Intent]:
        """The intents of a sender that have not ended, in the order of their insertion."""


class MemoryIntentStore:
    """Intents that last as long as the process: for an embedded chain in memory, and for tests."""

    def __init__(self) -> None:
        self._intents: dict[str, Intent] = {}
        self._lock = threading.Lock()

    def insert(self, intent: Intent) -> Intent:
        """See `IntentStore`."""
        with self._lock:
            known = self._intents.setdefault(intent.key, intent)
        check_same(known, intent)
        return known

    def get(self, key: str) -> Intent | None:
        """See `IntentStore`."""
        return self._intents.get(key)

    def save(self, intent: Intent) -> None:
        """See `IntentStore`."""
        with self._lock:
            known = self._intents.get(intent.key)
            if known is None or known.version != intent.version - 1:
                raise LedgerConflict(f"intent {intent.key!r} was changed by somebody else; read it again")
            if intent.nonce is not None and any(
                other.key != intent.key
                and (other.chain_id, other.sender, other.nonce) == (intent.chain_id, intent.sender, intent.nonce)
                for other in self._intents.values()
            ):
                raise LedgerConflict(f"nonce {intent.nonce} of {intent.sender} belongs to another intent; read again")
            self._intents[intent.key] = intent

    def unfinished(self, chain_id: int, sender: str) -> Sequence[Intent]:
        """See `IntentStore`."""
        with self._lock:
            return [
                i for i in self._intents.values() if not i.finished and (i.chain_id, i.sender) == (chain_id, sender)
            ]


def check_same(known: Intent, wanted: Intent) -> None:
    """Raise LedgerConflict unless both have the same effect."""
    if known.effect != wanted.effect:
        raise LedgerConflict(f"intent {wanted.key!r} is known with another effect; a new effect needs a new key")
