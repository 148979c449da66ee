"""Money that comes to a user, goes from one, and whom to tell about it."""

from __future__ import annotations

from collections.abc import Mapping

from rios.billing.budgets import low_alerts
from rios.billing.ledger.accounts import ESCROW, SPENDABLE, TREASURY, Kind, check_user, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.storage.models import AlertRow, UserRow
from rios.storage.rows import Row
from rios.words.errors import LedgerConflict
from rios.words.ids import Address, check_address
from rios.words.money import check_wei

LOW_TOPIC = "balance.low"


def user_row(batch: Batch, user: str) -> Row:
    """What is remembered of a user; a new one where there was nothing."""
    found = batch.rows(UserRow).get(user)
    if found is not None:
        return found
    nothing = dict.fromkeys(("full_wei", "fillings", "least_wei", "unsettled_wei", "unsettled_trial_wei"), 0)
    return {"id": user, "address": None, **nothing}


def balance_wei(batch: Batch, user: str) -> int:
    """What a user has, held or not."""
    return sum(batch.account(user_account(user, kind)).balance for kind in SPENDABLE)


def deposit(batch: Batch, *, id: str, user: str, amount_wei: int, reference: str, at: int) -> None:  # noqa: A002
    """Credit what the escrow contract received for a user; what is overdrawn is repaid first."""
    check_user(user)
    available = user_account(user, Kind.AVAILABLE)
    transfer = Transfer(
        id=id, debit=ESCROW, credit=available, amount_wei=amount_wei, kind="deposit", reference=reference, at=at
    )
    if not batch.post([transfer]):
        return
    missing = -batch.account(user_account(user, Kind.OVERDRAWN)).balance
    if missing > 0:
        repaid = min(missing, amount_wei)
        overdrawn = user_account(user, Kind.OVERDRAWN)
        batch.post(
            [
                Transfer(
                    id=f"{id}:repaid",
                    debit=available,
                    credit=overdrawn,
                    amount_wei=repaid,
                    kind="repay",
                    reference=reference,
                    at=at,
                )
            ]
        )
    filled(batch, user)


def grant(batch: Batch, *, id: str, user: str, amount_wei: int, at: int) -> None:  # noqa: A002
    """Give trial credit: spendable, never withdrawable."""
    check_user(user)
    trial = user_account(user, Kind.TRIAL)
    if batch.post([Transfer(id=id, debit=TREASURY, credit=trial, amount_wei=amount_wei, kind="trial", at=at)]):
        filled(batch, user)


def filled(batch: Batch, user: str) -> None:
    """From now on "low" is measured against this balance."""
    row, now = user_row(batch, user), balance_wei(batch, user)
    batch.rows(UserRow).change(row, full_wei=now, least_wei=now, fillings=row["fillings"] + 1)


def lowered(batch: Batch, user: str, *, at: int) -> None:
    """Tell about a balance that fell below 20, 10 or 5 % of what it was after the last deposit, each once."""
    row, now = user_row(batch, user), balance_wei(batch, user)
    if now >= row["least_wei"]:
        return
    for bp in low_alerts(row["least_wei"], now, row["full_wei"]):
        payload: dict[str, str | int] = {
            "user": user,
            "share_bp": bp,
            "balance_wei": str(now),
            "full_wei": str(row["full_wei"]),
        }
        alert(batch, LOW_TOPIC, f"low:{user}:{row['fillings']}:{bp}", payload, at=at)
    batch.rows(UserRow).change(row, least_wei=now)


def alert(batch: Batch, topic: str, key: str, payload: Mapping[str, str | int], *, at: int) -> None:
    """Send a message unless one of that key was ever sent."""
    alerts = batch.rows(AlertRow)
    if alerts.get(key) is None:
        alerts.put({"key": key, "at": at})
        batch.send(topic, key, payload, at=at)


def link(batch: Batch, user: str, address: str, *, at: int) -> None:
    """Say which user the deposits of `address` belong to, also those that came before.

    Raises LedgerConflict where the address is another user's, or the user has another address.
    """
    check_user(user)
    found = check_address(address)
    by_address = batch.rows(UserRow, key=("address",)).get(found)
    row = user_row(batch, user)
    if by_address is not None and by_address["id"] != user:
        raise LedgerConflict(f"address {found} belongs to user {by_address['id']}; an address has one user")
    if row["address"] == found:
        return
    if row["address"] is not None:
        raise LedgerConflict(f"user {user} has the address {row['address']}; it stays, for its deposits are there")
    batch.rows(UserRow).change(row, address=found)
    for kind in (Kind.AVAILABLE, Kind.WITHDRAWING, Kind.OVERDRAWN):
        _adopt(batch, user, found, kind, at=at)
    filled(batch, user)


def _adopt(batch: Batch, user: str, address: Address, kind: Kind, *, at: int) -> None:
    theirs, ours = batch.account(user_account(address, kind)), batch.account(user_account(user, kind))
    if not theirs.balance:
        return
    giver, taker = (theirs, ours) if theirs.balance > 0 else (ours, theirs)
    amount = check_wei(abs(theirs.balance), name=theirs.name)
    batch.post(
        [Transfer(id=f"link:{user}:{kind}", debit=giver.name, credit=taker.name, amount_wei=amount, kind="link", at=at)]
    )
