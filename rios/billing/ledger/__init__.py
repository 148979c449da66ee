"""The double-entry ledger. `Ledger` and its values are here; the modules are its parts."""

from rios.billing.ledger.chain import ChainCursor, ChainEvent
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.ledger import Ledger
from rios.billing.ledger.values import (
    Balance,
    Budget,
    CreditNote,
    Entry,
    Epoch,
    EpochCharge,
    EpochState,
    Grant,
    Hold,
    HoldState,
    HoldStep,
    Invoice,
    Settled,
    Standing,
    StatementLine,
    Totals,
    Usage,
)

__all__ = [
    "Balance",
    "Budget",
    "ChainCursor",
    "ChainEvent",
    "CreditNote",
    "Entry",
    "Epoch",
    "EpochCharge",
    "EpochState",
    "Grant",
    "Hold",
    "HoldState",
    "HoldStep",
    "Invoice",
    "Ledger",
    "Settled",
    "Standing",
    "StatementLine",
    "Totals",
    "Transfer",
    "Usage",
]
