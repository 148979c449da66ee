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
    Hold,
    HoldState,
    HoldStep,
    Invoice,
    Settled,
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
    "Hold",
    "HoldState",
    "HoldStep",
    "Invoice",
    "Ledger",
    "Settled",
    "StatementLine",
    "Totals",
    "Transfer",
    "Usage",
]
