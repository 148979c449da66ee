"""One pass over all entries, for reconciliation: sums by account and the hash chain, in constant memory."""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Connection, select, text

from rios.billing.ledger.values import Totals
from rios.billing.verify import GENESIS
from rios.storage.driver import pages
from rios.storage.models import AccountRow, TransferRow

_PAGE = 5_000
# Raw, because a million rows are to take seconds: the amounts are text here, which is what the digest is of anyway.
_ENTRIES = """
    SELECT seq, id, debit_id, credit_id, CAST(amount_wei AS TEXT), kind, reference, at, payload, digest, hash
    FROM transfers ORDER BY seq
"""


def head(connection: Connection) -> tuple[int, bytes]:
    """Number and hash of the last entry."""
    found = connection.execute(
        select(TransferRow.seq, TransferRow.hash).order_by(TransferRow.seq.desc()).limit(1)
    ).one_or_none()
    return (0, GENESIS) if found is None else (found.seq, bytes(found.hash))


def totals(connection: Connection) -> Totals:
    """Sum all entries up and check their chain."""
    accounts = connection.execute(select(AccountRow.id, AccountRow.name, AccountRow.balance_wei)).all()
    names = {row.id: row.name for row in accounts}
    sums: dict[int, int] = dict.fromkeys(names, 0)
    before, last, broken = GENESIS, 0, None
    for page in pages(connection, text(_ENTRIES), _PAGE):
        for seq, name, debit, credit, amount, kind, reference, at, payload, digest, stored in page:
            wei = int(amount)
            sums[debit] -= wei
            sums[credit] += wei
            last += 1
            if broken is None:
                contents = f"{name}\n{names[debit]}\n{names[credit]}\n{amount}\n{kind}\n{reference}\n{payload or ''}"
                made = sha256(contents.encode()).digest()
                link = before + seq.to_bytes(8, "big") + at.to_bytes(8, "big", signed=True) + made
                if seq != last or made != digest or sha256(link).digest() != stored:
                    broken = last
            before = stored
    return Totals(
        entries=last,
        head_hash=bytes(before),
        balances={names[number]: amount for number, amount in sums.items()},
        stored={row.name: row.balance_wei for row in accounts},
        broken_at=broken,
    )
