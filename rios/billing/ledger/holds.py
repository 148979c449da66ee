"""Holds: the highest price of a request is set aside before the work, and what was not used comes back.

Trial credit is held first, and spent first; what is released goes back to where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, or_, select

from rios.billing.books import PriceBook
from rios.billing.ledger import spending
from rios.billing.ledger.accounts import Kind, check_user, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.values import Hold, HoldState, Wanted
from rios.storage.models import HoldRow, HoldStepRow, PriceBookRow
from rios.storage.rows import Row
from rios.words.canonical import canonical
from rios.words.errors import InsufficientBalance, InvalidRequest, LedgerConflict
from rios.words.money import Wei, check_wei, format_ros

GRACE_US = 3600 * 10**6
"""A paused hold waits one hour for money before its request ends."""
EXPIRY_US = 24 * GRACE_US
"""A hold whose process died is released after a day, unless the caller says otherwise."""
LIVE = (HoldState.OPEN, HoldState.PAUSED)


def as_hold(row: Row) -> Hold:
    """The hold that a row stands for."""
    return Hold(**{**row, "state": HoldState(row["state"])})


def get(batch: Batch, hold_id: str) -> Row:
    """The row of a hold, or InvalidRequest where there is none."""
    row = batch.rows(HoldRow).get(hold_id)
    if row is None:
        raise InvalidRequest(f"there is no hold {hold_id!r}; hold the highest price before the work")
    return row


def place(batch: Batch, wanted: Wanted, *, at: int, expires_at: int | None) -> Hold:
    """Set money aside. The same id with the same contents is the same hold, whatever became of it since.

    Raises InsufficientBalance, BudgetExceeded, and LedgerConflict for a known id with other contents.
    """
    id, user, amount_wei, terms = wanted.id, wanted.user, wanted.amount_wei, wanted.terms  # noqa: A001
    check_user(user)
    check_wei(amount_wei, name=f"hold {id}")
    holds, steps = batch.rows(HoldRow), batch.rows(HoldStepRow)
    document = canonical(terms.to_dict()).decode()
    known = holds.get(id)
    if known is not None:
        first = steps.get(id, 0)
        assert first is not None
        pinned = (known["user_id"], first["amount_wei"], known["request_id"], known["terms"])
        if pinned != (user, amount_wei, wanted.request_id, document):
            raise LedgerConflict(f"hold {id} is there with other contents: {as_hold(known)}")
        return as_hold(known)
    steps.absent(id, 0)
    trial = _take(batch, id, 0, user, amount_wei, at=at)
    keep_book(batch, terms.book, published=False)
    row = {
        "id": id,
        "user_id": user,
        "request_id": wanted.request_id,
        "amount_wei": amount_wei,
        "trial_wei": trial,
        **dict.fromkeys(("posted_wei", "trial_posted_wei", "released_wei"), 0),
        "state": str(HoldState.OPEN),
        "price_book": terms.book.digest,
        "terms": document,
        "created_at": at,
        "expires_at": at + EXPIRY_US if expires_at is None else expires_at,
        "grace_until": None,
    }
    holds.put(row)
    steps.put({"hold_id": id, "step": 0, "amount_wei": amount_wei, "trial_wei": trial, "at": at})
    return as_hold(row)


def extend(batch: Batch, hold_id: str, step: int, amount_wei: int, *, at: int) -> Hold:
    """Set more aside for the next step of a stream; a paused hold is open again, and not forgotten for another day.

    The same step comes once.

    Raises InsufficientBalance and BudgetExceeded (pause the stream then), and LedgerConflict for a hold that has ended.
    """
    check_wei(amount_wei, name=f"step {step} of hold {hold_id}")
    row, steps = get(batch, hold_id), batch.rows(HoldStepRow)
    known = steps.get(hold_id, step)
    if known is not None:
        if known["amount_wei"] != amount_wei:
            raise LedgerConflict(
                f"step {step} of hold {hold_id} is {format_ros(known['amount_wei'])}, not {format_ros(amount_wei)}"
            )
        return as_hold(row)
    _check_live(row, "extended")
    trial = _take(batch, hold_id, step, row["user_id"], amount_wei, at=at)
    steps.put({"hold_id": hold_id, "step": step, "amount_wei": amount_wei, "trial_wei": trial, "at": at})
    changed = batch.rows(HoldRow).change(
        row,
        amount_wei=row["amount_wei"] + amount_wei,
        trial_wei=row["trial_wei"] + trial,
        state=str(HoldState.OPEN),
        grace_until=None,
        expires_at=max(row["expires_at"], at + EXPIRY_US),
    )
    return as_hold(changed)


def pause(batch: Batch, hold_id: str, *, grace_us: int, at: int) -> Hold:
    """The stream waits for money: for `grace_us` from `at`, not longer however often it is paused."""
    row = get(batch, hold_id)
    _check_live(row, "paused")
    if row["state"] == HoldState.PAUSED:
        return as_hold(row)
    return as_hold(batch.rows(HoldRow).change(row, state=str(HoldState.PAUSED), grace_until=at + grace_us))


def resume(batch: Batch, hold_id: str) -> Hold:
    """The stream goes on with what is still held."""
    row = get(batch, hold_id)
    _check_live(row, "resumed")
    return as_hold(batch.rows(HoldRow).change(row, state=str(HoldState.OPEN), grace_until=None))


def release(batch: Batch, hold_id: str, *, at: int, state: HoldState = HoldState.RELEASED) -> Hold:
    """Give back what is left. What was posted stays; a hold that has ended stays as it is."""
    row = get(batch, hold_id)
    if row["state"] not in LIVE:
        return as_hold(row)
    return as_hold(give_back(batch, row, state=state, at=at))


def give_back(batch: Batch, row: Row, *, state: HoldState, at: int) -> Row:
    """End a live hold as `state`, and return its rest to where it came from."""
    left = row["amount_wei"] - row["posted_wei"] - row["released_wei"]
    trial = row["trial_wei"] - row["trial_posted_wei"]
    held = user_account(row["user_id"], Kind.HELD)
    batch.post(
        Transfer(
            id=f"{row['id']}:release:{kind}",
            debit=held,
            credit=user_account(row["user_id"], kind),
            amount_wei=part,
            kind="release",
            reference=row["id"],
            at=at,
        )
        for kind, part in ((Kind.TRIAL, trial), (Kind.AVAILABLE, left - trial))
        if part
    )
    released = row["released_wei"] + left
    return batch.rows(HoldRow).change(row, released_wei=released, state=str(state), grace_until=None)


def overdue_ids(batch: Batch, at: int) -> Sequence[str]:
    """Live holds whose time was over at `at`."""
    return batch.connection.scalars(select(HoldRow.id).where(overdue_at(at)).order_by(HoldRow.id)).all()


def overdue_at(at: int) -> ColumnElement[bool]:
    """The condition that a hold was overdue at `at`."""
    paused = and_(HoldRow.state == str(HoldState.PAUSED), HoldRow.grace_until <= at)
    return or_(paused, and_(HoldRow.state.in_([str(state) for state in LIVE]), HoldRow.expires_at <= at))


def keep_book(batch: Batch, book: PriceBook, *, published: bool) -> None:
    """Keep a price book, so that what was rated by it can be rated again."""
    books = batch.rows(PriceBookRow)
    known = books.get(book.digest)
    if known is None:
        books.put(
            {
                "digest": book.digest,
                "version": book.version,
                "effective_from_s": book.effective_from_s,
                "published": published,
                "document": book.to_json(),
            }
        )
    elif published and not known["published"]:
        books.change(known, published=True)


def _take(batch: Batch, hold_id: str, step: int, user: str, amount_wei: int, *, at: int) -> int:
    """Move `amount_wei` into what is held, trial credit first; how much of it was trial credit."""
    trial, available = (batch.account(user_account(user, kind)) for kind in (Kind.TRIAL, Kind.AVAILABLE))
    free = trial.balance + available.balance
    if amount_wei > free:
        held = batch.account(user_account(user, Kind.HELD)).balance
        raise InsufficientBalance(
            f"up to {format_ros(amount_wei)} would be needed and user {user} has {format_ros(free)} available "
            f"({format_ros(held)} more are held for running requests): deposit at least "
            f"{format_ros(amount_wei - free)}, or ask for less"
        )
    spending.check(batch, user, amount_wei, at=at)
    from_trial = min(trial.balance, amount_wei)
    batch.post(
        Transfer(
            id=f"{hold_id}:hold:{step}:{account.kind}",
            debit=account.name,
            credit=user_account(user, Kind.HELD),
            amount_wei=part,
            kind="hold",
            reference=hold_id,
            at=at,
        )
        for account, part in ((trial, from_trial), (available, amount_wei - from_trial))
        if part
    )
    return Wei(from_trial)


def _check_live(row: Row, what: str) -> None:
    if row["state"] not in LIVE:
        raise LedgerConflict(f"hold {row['id']} is {row['state']}, so it cannot be {what}; place another hold")
