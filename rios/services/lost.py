"""What a gateway that died held and posted for generations that nobody got is given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select

from rios.storage.models import HoldRow, UsageRow
from rios.words.money import Wei

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger

REASON = "its answer was lost with its gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """How much it was."""

    holds: int
    released_wei: Wei
    refunded_wei: Wei


def give_back(ledger: Ledger, user_id: str, which: ColumnElement[bool]) -> GivenBack:
    """Release the holds of `user_id` for which `which` is true, and refund what was posted against them.

    Again changes nothing. Raises LedgerUnavailable.
    """
    hold, usage = HoldRow, UsageRow
    with ledger.database.reading() as connection:
        wanted = select(hold.id, hold.released_wei).where(hold.user_id == user_id, which)
        holds = {row.id: row.released_wei for row in connection.execute(wanted)}
    released = refunded = 0
    for hold_id, before in holds.items():
        released += ledger.release(hold_id).released_wei - before
        with ledger.database.reading() as connection:
            posted = select(usage.id, usage.amount_wei, usage.refunded_wei).where(usage.hold_id == hold_id)
            rows = [row for row in connection.execute(posted) if row.amount_wei > row.refunded_wei]
        for row in rows:
            refunded += ledger.refund(row.id, REASON).amount_wei
    return GivenBack(holds=len(holds), released_wei=Wei(released), refunded_wei=Wei(refunded))
