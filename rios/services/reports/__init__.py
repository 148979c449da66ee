"""Reports over the ledger: what is in them, when they are due, who gets them, and that each is made once."""
