"""Closing epochs: what each address has earned since the beginning, and what each user pays for it.

An account of earnings holds what was earned and not yet claimed. Its floor is the part of it that a root has promised.
So what it holds above the floor was earned since the last epoch; closing one raises the floor to the balance, and a
claim lowers both. That the floor holds is that cumulative sums never fall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, or_, select, update

from rios.billing.ledger.accounts import REVENUE, Kind, owner_of
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.values import Epoch, EpochState
from rios.billing.merkle import MerkleTree
from rios.storage.models import AccountRow, EpochChargeRow, EpochLeafRow, EpochRow, UsageRow, UserRow
from rios.storage.rows import Row
from rios.words.errors import InvalidRequest, LedgerConflict
from rios.words.ids import Address
from rios.words.keccak import Hash
from rios.words.money import Wei

CLOSED_TOPIC = "epoch.closed"
_NEXT = {
    EpochState.CLOSED: {EpochState.POSTING, EpochState.POSTED, EpochState.FINAL},
    EpochState.POSTING: {EpochState.CLOSED, EpochState.POSTED, EpochState.FINAL},
    EpochState.POSTED: {EpochState.FINAL, EpochState.CHALLENGED, EpochState.POSTING},
    EpochState.CHALLENGED: {EpochState.POSTING, EpochState.POSTED},
    EpochState.FINAL: {EpochState.POSTED},
}


def as_epoch(row: Row) -> Epoch:
    """The epoch that a row stands for."""
    found = {**row, "state": EpochState(row["state"]), "head_hash": bytes(row["head_hash"])}
    return Epoch(**found)


def close(batch: Batch, *, platform: Address, keccak: Hash, at: int) -> Epoch | None:
    """Close an epoch over all that happened since the last one; that one again where nothing did, None before any.

    platform: the address that may claim the platform's share.
    """
    connection = batch.connection
    last = connection.execute(select(EpochRow.__table__).order_by(EpochRow.number.desc()).limit(1)).mappings().first()
    leaves = {} if last is None else _leaves(batch, last["number"])
    floors = _collect(batch, leaves, platform)
    charges = connection.execute(
        select(UserRow.id, UserRow.unsettled_wei, UserRow.unsettled_trial_wei).where(
            or_(UserRow.unsettled_wei != 0, UserRow.unsettled_trial_wei != 0)
        )
    ).all()
    if not floors and not charges:
        return None if last is None else as_epoch(dict(last))
    if not leaves:
        return None
    tree = MerkleTree.of(leaves, keccak=keccak)
    row = {
        "number": batch.next_number(EpochRow.number),
        "state": str(EpochState.CLOSED),
        "root": f"0x{tree.root.hex()}",
        "total_wei": sum(leaves.values()),
        "head_seq": batch.seq,
        "head_hash": batch.head,
        "closed_at": at,
        "tx": None,
    }
    number = row["number"]
    batch.rows(EpochRow).put(row)
    batch.rows(EpochRow).flush()
    connection.execute(
        insert(EpochLeafRow),
        [{"epoch": number, "address": address, "cumulative_wei": amount} for address, amount in leaves.items()],
    )
    if charges:
        connection.execute(
            insert(EpochChargeRow),
            [{"epoch": number, "user_id": user, "amount_wei": use, "trial_wei": trial} for user, use, trial in charges],
        )
        connection.execute(update(UserRow).values(unsettled_wei=0, unsettled_trial_wei=0))
    connection.execute(update(UsageRow).where(UsageRow.epoch.is_(None)).values(epoch=number))
    for name, floor in floors.items():
        batch.set_floor(batch.account(name), floor)
    payload = {"epoch": number, "root": row["root"], "total_wei": str(row["total_wei"])}
    batch.send(CLOSED_TOPIC, f"epoch:{number}", payload, at=at)
    return as_epoch(row)


def mark(batch: Batch, number: int, state: EpochState, *, tx: str | None) -> Epoch:
    """Say what became of an epoch's root. Raises LedgerConflict for what cannot follow, such as posting a final one."""
    row = batch.rows(EpochRow).get(number)
    if row is None:
        raise InvalidRequest(f"there is no epoch {number}; close it first")
    now = EpochState(row["state"])
    if state != now and state not in _NEXT[now]:
        raise LedgerConflict(f"epoch {number} is {now} and cannot become {state}")
    return as_epoch(batch.rows(EpochRow).change(row, state=str(state), tx=row["tx"] if tx is None else tx))


def _leaves(batch: Batch, number: int) -> dict[Address, Wei]:
    rows = batch.connection.execute(
        select(EpochLeafRow.address, EpochLeafRow.cumulative_wei).where(EpochLeafRow.epoch == number)
    )
    return {Address(address): Wei(amount) for address, amount in rows}


def _collect(batch: Batch, leaves: dict[Address, Wei], platform: Address) -> Mapping[str, int]:
    """Add what was earned since the last epoch to `leaves`; the new floor of each account that earned something."""
    floors: dict[str, Any] = {}
    columns = (AccountRow.name, AccountRow.floor_wei, AccountRow.balance_wei)
    kinds = [str(Kind.EARNED), str(Kind.REVENUE)]
    for name, floor, balance in batch.connection.execute(select(*columns).where(AccountRow.kind.in_(kinds))):
        assert floor is not None  # these kinds begin with one, and nothing takes it away
        if balance > floor:
            address = platform if name == REVENUE else owner_of(name)
            leaves[address] = Wei(leaves.get(address, 0) + balance - floor)
            floors[name] = balance
    return floors
