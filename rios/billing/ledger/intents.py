"""Transactions to be made on a chain, kept in the ledger's database: `IntentStore` of `rios.billing.chain.intents`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select

from rios.billing.chain.intents import UNFINISHED, Intent, check_same
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.ledger import Ledger
from rios.storage.models import ChainIntentRow
from rios.storage.rows import Row
from rios.words.canonical import canonical
from rios.words.errors import LedgerConflict


class SqlIntentStore:
    """Intents in the database of a ledger, shared by all processes that use it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def insert(self, intent: Intent) -> Intent:
        """Keep a new intent; one whose key is known stays as it is. LedgerConflict where that has another effect."""
        return self._ledger.transact(lambda batch: insert(batch, intent))

    def get(self, key: str) -> Intent | None:
        """The intent of a key, or None."""
        with self._ledger.database.reading() as connection:
            found = connection.scalar(select(ChainIntentRow.document).where(ChainIntentRow.key == key))
        return None if found is None else Intent.from_dict(json.loads(found))

    def save(self, intent: Intent) -> None:
        """Replace an intent by its next version; LedgerConflict where another was faster, or has its nonce."""
        self._ledger.transact(lambda batch: _save(batch, intent))

    def unfinished(self, chain_id: int, sender: str) -> Sequence[Intent]:
        """The intents of a sender that have not ended, in the order of their insertion."""
        row = ChainIntentRow
        wanted = select(row.document).where(row.chain_id == chain_id, row.sender == sender)
        wanted = wanted.where(row.state.in_([state.value for state in UNFINISHED])).order_by(row.seq)
        with self._ledger.database.reading() as connection:
            return [Intent.from_dict(json.loads(document)) for document in connection.scalars(wanted)]


def insert(batch: Batch, intent: Intent) -> Intent:
    """As `SqlIntentStore.insert`, in the transaction of `batch`: with the entries that it follows from."""
    intents = batch.rows(ChainIntentRow)
    row = intents.get(intent.key)
    if row is not None:
        known = Intent.from_dict(json.loads(row["document"]))
        check_same(known, intent)
        return known
    intents.put(_row(intent, batch.next_number(ChainIntentRow.seq)))
    return intent


def _save(batch: Batch, intent: Intent) -> None:
    intents = batch.rows(ChainIntentRow)
    row = intents.get(intent.key)
    if row is None or row["version"] != intent.version - 1:
        raise LedgerConflict(f"intent {intent.key!r} was changed by somebody else; read it again")
    if intent.nonce is not None and intent.nonce != row["nonce"]:
        by_nonce = batch.rows(ChainIntentRow, key=("chain_id", "sender", "nonce"))
        if by_nonce.get(intent.chain_id, intent.sender, intent.nonce) is not None:
            raise LedgerConflict(f"nonce {intent.nonce} of {intent.sender} belongs to another intent; read again")
    intents.put(_row(intent, row["seq"]))


def _row(intent: Intent, seq: int) -> Row:
    return {
        "key": intent.key,
        "seq": seq,
        "chain_id": intent.chain_id,
        "sender": intent.sender,
        "nonce": intent.nonce,
        "state": intent.state.value,
        "version": intent.version,
        "document": canonical(intent.to_dict()).decode(),
    }
