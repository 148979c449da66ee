"""From rated usage to entries: rows, postings, what is left, spending and alerts, in one transaction."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring as quoted
from typing import Any

from rios.billing.ledger import holds, spending, volumes
from rios.billing.ledger.accounts import REFUNDS, REVENUE, Kind, earned, owed, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.money import lowered, user_row
from rios.billing.ledger.values import HoldState, Settled, Usage
from rios.billing.rating import Charge
from rios.billing.usage import FIELDS
from rios.storage.models import HoldRow, UsageRow, UserRow
from rios.storage.rows import Row
from rios.words.errors import InsufficientBalance, InvalidRequest, LedgerConflict
from rios.words.ids import Address, UsageId, check_address
from rios.words.money import Wei, check_wei, format_ros

_New = tuple[Charge, bytes, str]
"""A charge that is not in the ledger, its digest, and its record as canonical JSON."""
# Two spellings of an address would be two accounts, and an epoch with both could not be closed.
_spelling = functools.lru_cache(maxsize=1 << 14)(check_address)


def settle(batch: Batch, hold_id: str, charges: Sequence[Charge], *, deployment: str, final: bool, at: int) -> Settled:
    """Post `charges` against a hold; `final` releases what is left of it. What was posted before is not posted again.

    Raises InsufficientBalance where they exceed what is held, and LedgerConflict for a usage id with other contents or
    new usage of a hold that has ended.
    """
    row = holds.get(batch, hold_id)
    usage = batch.rows(UsageRow)
    new: list[_New] = []
    for charge in charges:
        _check(charge, row)
        record = charge.record.to_json()
        mark = _digest(charge, record, user=row["user_id"], hold_id=hold_id, deployment=deployment)
        known = usage.get(charge.record.usage_id)
        if known is None:
            new.append((charge, mark, record))
        elif bytes(known["digest"]) != mark:
            raise LedgerConflict(
                f"usage {charge.record.usage_id} is in the ledger with other contents or another price"
            )
    if new:
        row = _post(batch, row, new, deployment=deployment, at=at)
    if final and row["state"] in holds.LIVE:
        state = HoldState.POSTED if row["posted_wei"] else HoldState.RELEASED
        row = holds.give_back(batch, row, state=state, at=at)
    total = Wei(sum(charge.amount_wei for charge in charges))
    return Settled(hold=holds.as_hold(row), amount_wei=total, new=len(new))


def usage_digest(charge: Charge, *, user: str, hold_id: str, deployment: str) -> bytes:
    """SHA-256 of what a usage row says, but for its moment and what happens to it later: the entries carry it."""
    return _digest(charge, charge.record.to_json(), user=user, hold_id=hold_id, deployment=deployment)


def _digest(charge: Charge, record: str, *, user: str, hold_id: str, deployment: str) -> bytes:
    """As `usage_digest`, of what `words/canonical` would write: it is made for each record of each request.

    record: its canonical JSON.
    """
    less = ""  # what is in ledgers from before there were discounts keeps its digest
    if charge.discount is not None:
        less = f'"discount":{quoted(charge.discount)},"discount_wei":"{charge.discount_wei}",'
    said = (
        f'{{"amount_wei":"{charge.amount_wei}","deployment":{quoted(deployment)},{less}"hold":{quoted(hold_id)},'
        f'"line":{quoted(charge.line)},"platform_wei":"{charge.platform_wei}","price":"{charge.price_wei}",'
        f'"record":{record},"unit":{quoted(charge.unit)},"units":"{charge.units}","user":{quoted(user)},'
        f'"worker_wei":"{charge.worker_wei}"}}'
    )
    return hashlib.sha256(said.encode()).digest()


def as_usage(row: Row) -> Usage:
    """The usage that a row stands for."""
    rest = {name: value for name, value in row.items() if name not in ("id", "owner")}
    return Usage(usage_id=UsageId(row["id"]), owner=Address(row["owner"]), **rest)


def repay(batch: Batch, reference: str, *, account: str, debt: str, at: int) -> None:
    """Let what `account` has beyond its promises repay what `debt`, an account below 0, owes."""
    missing = -batch.account(debt).balance
    repaid = min(missing, batch.account(account).free_wei)
    if repaid > 0:
        batch.post(
            [
                Transfer(
                    id=f"{reference}:repay:{batch.account(debt).kind}",
                    debit=account,
                    credit=debt,
                    amount_wei=repaid,
                    kind="repay",
                    reference=reference,
                    at=at,
                )
            ]
        )


def _check(charge: Charge, hold: Row) -> None:
    record = charge.record
    if _spelling(record.owner) != record.owner:
        raise InvalidRequest(f"usage {record.usage_id}: spell the owner {record.owner} as {_spelling(record.owner)}")
    for name in ("amount_wei", "worker_wei", "platform_wei", "discount_wei"):
        check_wei(getattr(charge, name), name=f"{name} of {record.usage_id}")
    if charge.worker_wei + charge.platform_wei != charge.amount_wei:
        raise InvalidRequest(
            f"usage {record.usage_id}: the parts of worker and platform do not add up to {charge.amount_wei} wei"
        )
    if record.source != hold["request_id"]:
        raise InvalidRequest(
            f"usage {record.usage_id} is of {record.source}, hold {hold['id']} of {hold['request_id']}"
        )


def _post(batch: Batch, row: Row, new: list[_New], *, deployment: str, at: int) -> Row:
    if row["state"] not in holds.LIVE:
        raise LedgerConflict(
            f"hold {row['id']} is {row['state']} and has no usage {new[0][0].record.usage_id}; hold again to post more"
        )
    user, total = row["user_id"], sum(charge.amount_wei for charge, _, _ in new)
    left = row["amount_wei"] - row["posted_wei"] - row["released_wei"]
    if total > left:
        raise InsufficientBalance(
            f"hold {row['id']} has {format_ros(left)} left and the use costs {format_ros(total)}: "
            f"extend it by {format_ros(total - left)} first"
        )
    trial_left = row["trial_wei"] - row["trial_posted_wei"]
    trial_total = min(trial_left, total)
    owners = dict.fromkeys(charge.record.owner for charge, _, _ in new if charge.worker_wei)
    batch.load_accounts(name for owner in owners for name in (earned(owner), owed(owner)))
    transfers: list[Transfer] = []
    usage, terms = batch.rows(UsageRow), hashlib.sha256(row["terms"].encode()).hexdigest()
    for charge, mark, record in new:
        trial = min(trial_left, charge.amount_wei)
        trial_left -= trial
        usage.put(_row(charge, mark, row, deployment=deployment, trial_wei=trial, at=at))
        # As `verify.earning_payload` wants it: the hash chain fixes record and terms with the amount.
        said = hashlib.sha256(record.encode()).hexdigest()
        payload = f'{{"record":"{said}","terms":"{terms}","usage":"{mark.hex()}"}}'
        transfers += _transfers(charge, payload, user_account(user, Kind.HELD), at=at)
    batch.post(transfers)
    first = new[0][0].record.usage_id
    for owner in owners:
        repay(batch, f"{first}:{owner}", account=earned(owner), debt=owed(owner), at=at)
    repay(batch, first, account=REVENUE, debt=REFUNDS, at=at)
    account = user_row(batch, user)
    batch.rows(UserRow).change(
        account,
        unsettled_wei=account["unsettled_wei"] + total - trial_total,
        unsettled_trial_wei=account["unsettled_trial_wei"] + trial_total,
    )
    spending.spend(batch, user, total, at=at)
    volumes.count(batch, user, (charge for charge, _, _ in new), at=at)
    lowered(batch, user, at=at)
    return batch.rows(HoldRow).change(
        row,
        posted_wei=row["posted_wei"] + total,
        trial_posted_wei=row["trial_posted_wei"] + trial_total,
    )


def _transfers(charge: Charge, payload: str, held: str, *, at: int) -> Iterator[Transfer]:
    record = charge.record
    for part, credit, amount in (
        ("worker", earned(record.owner), charge.worker_wei),
        ("platform", REVENUE, charge.platform_wei),
    ):
        if amount:
            yield Transfer(
                id=f"{record.usage_id}:{part}",
                debit=held,
                credit=credit,
                amount_wei=amount,
                kind="usage",
                reference=record.usage_id,
                payload=payload,
                at=at,
            )


def _row(charge: Charge, mark: bytes, hold: Row, *, deployment: str, trial_wei: int, at: int) -> dict[str, Any]:
    record = {name: getattr(charge.record, name) for name in FIELDS}
    return {
        "id": record.pop("usage_id"),
        "step": record.pop("hold_step"),
        "request_id": record.pop("source"),
        **record,
        "hold_id": hold["id"],
        "user_id": hold["user_id"],
        "deployment": deployment,
        "line": charge.line,
        "unit": charge.unit,
        "units": str(charge.units),
        "price": str(charge.price_wei),
        "amount_wei": charge.amount_wei,
        "worker_wei": charge.worker_wei,
        "platform_wei": charge.platform_wei,
        "trial_wei": trial_wei,
        "discount": charge.discount,
        "discount_wei": charge.discount_wei,
        "refunded_wei": 0,
        "at": at,
        "price_book": hold["price_book"],
        "digest": mark,
        "epoch": None,
    }
