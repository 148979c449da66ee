"""Reports over a ledger."""
