"""Withdrawals that wait for the escrow's delay: what they ask for is kept from being spent once it is free."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, select

from rios.billing.ledger.accounts import Kind, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.money import lowered
from rios.storage.models import AccountRow, ChainEventRow, UserRow
from rios.storage.rows import Row
from rios.words.ids import Address, check_address

_ASKS = ("WithdrawalRequested", "WithdrawalReduced")
_ENDS = ("WithdrawalCancelled", "Withdrawn")


@dataclass(frozen=True, slots=True)
class Asked:
    """A withdrawal that waits."""

    user: str
    total_wei: int
    """What the contract will pay, or less where charges come first."""
    short_wei: int
    """How much of it is not set aside, because it is held, or used and not charged yet."""
    charge: bool
    """Whether the user has used something that the contract knows nothing of."""


def waiting(connection: Connection) -> tuple[list[Asked], bool]:
    """All withdrawals that wait, and whether something of them can be set aside now. It keeps no writer busy."""
    found, movable = [], False
    for address, row in _waiting(connection).items():
        of = select(UserRow.id, UserRow.unsettled_wei).where(UserRow.address == address)
        user_row = connection.execute(of).one_or_none()
        user = address if user_row is None else user_row.id
        free, aside = (user_account(user, kind) for kind in (Kind.AVAILABLE, Kind.WITHDRAWING))
        balances = select(AccountRow.name, AccountRow.balance_wei).where(AccountRow.name.in_([free, aside]))
        there = {name: int(balance) for name, balance in connection.execute(balances)}
        total = int(json.loads(row["args"])["total"])
        missing = max(total - there.get(aside, 0), 0)
        movable = movable or min(missing, there.get(free, 0)) > 0
        found.append(Asked(user, total, missing, user_row is not None and int(user_row.unsettled_wei) > 0))
    return found, movable


def set_aside(batch: Batch, *, at: int) -> list[Asked]:
    """Move what is free of what is asked for out of what can be spent; all withdrawals that wait."""
    found = []
    for address, row in _waiting(batch.connection).items():
        user_row = batch.rows(UserRow, key=("address",)).get(address)
        user = address if user_row is None else str(user_row["id"])
        free, aside = (user_account(user, kind) for kind in (Kind.AVAILABLE, Kind.WITHDRAWING))
        total = int(json.loads(row["args"])["total"])
        missing = max(total - batch.account(aside).balance, 0)
        moved = max(min(missing, batch.account(free).balance), 0)
        if moved:
            # The number of the entry before makes the id one that no other has.
            transfer = Transfer(
                id=f"aside:{row['tx_hash']}:{row['log_index']}:{batch.seq}", debit=free, credit=aside,
                amount_wei=moved, kind="chain", at=at, reference=row["tx_hash"],
            )  # fmt: skip
            batch.post([transfer])
            lowered(batch, user, at=at)
        uncharged = user_row is not None and int(user_row["unsettled_wei"]) > 0
        found.append(Asked(user, total, missing - moved, uncharged))
    return found


def _waiting(connection: Connection) -> dict[Address, Row]:
    """The last word of the escrow about the withdrawal of each address that has one."""
    rows = connection.execute(
        select(ChainEventRow.__table__)
        .where(ChainEventRow.name.in_(_ASKS + _ENDS), ChainEventRow.applied == 1)
        .order_by(ChainEventRow.block, ChainEventRow.log_index)
    ).mappings()
    last: dict[Address, Row] = {}
    for row in rows:
        address = check_address(json.loads(row["args"])["user"])
        last.pop(address, None)
        if row["name"] in _ASKS and int(json.loads(row["args"])["total"]):
            last[address] = dict(row)
    return last
