"""Refunds by credit note: a record stays as it is, and entries of its own give its price back.

What a root has promised to an address is its own for good, so a refund takes only what was not promised yet. Before the
epoch of the use is closed, worker and platform give back what each of them got. Afterwards the platform gives first,
out of what it earned since; the rest is owed by the worker, up to what it got, and by the platform. Their later
earnings repay that first. The user has the whole amount at once either way.
"""

from __future__ import annotations

from collections.abc import Iterator

from rios.billing.ledger import spending
from rios.billing.ledger.accounts import REFUNDS, REVENUE, Kind, earned, owed, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.money import user_row
from rios.billing.ledger.values import CreditNote
from rios.billing.split import parts
from rios.storage.models import CreditNoteRow, UsageRow, UserRow
from rios.storage.rows import Row
from rios.words.errors import InvalidAmount, InvalidRequest, LedgerConflict
from rios.words.ids import UsageId, derived_id
from rios.words.money import Wei, check_wei, format_ros


def refund(
    batch: Batch, usage_id: str, reason: str, *, amount_wei: int | None, note_id: str | None, at: int
) -> CreditNote:
    """Give `amount_wei` of a usage record's price back; what is left of it without. The same note comes once.

    note_id: without one, a refund of the same record, reason and amount is the same note, and any other is another.

    Raises InvalidRequest for unknown usage, InvalidAmount for more than was not refunded yet, and LedgerConflict for a
    known note with other contents.
    """
    usage, notes = batch.rows(UsageRow).get(usage_id), batch.rows(CreditNoteRow)
    if usage is None:
        raise InvalidRequest(f"there is no usage record {usage_id!r}; net.billing.usage() lists them")
    left = usage["amount_wei"] - usage["refunded_wei"]
    named = derived_id("cn", usage_id, reason, "rest" if amount_wei is None else str(amount_wei))
    name = named if note_id is None else note_id
    known = notes.get(name)
    if known is None and note_id is None:
        # Older versions called the only note of a record so. What is left after it can be given too.
        older = notes.get(derived_id("cn", usage_id))
        same = older is not None and (not left if amount_wei is None else older["amount_wei"] == amount_wei)
        if older is not None and same and older["reason"] == reason:
            return _note(older)
    if known is not None:
        if (known["usage_id"], known["reason"]) != (usage_id, reason) or amount_wei not in (None, known["amount_wei"]):
            raise LedgerConflict(f"credit note {name} is there with other contents: {_note(known)}")
        return _note(known)
    amount = left if amount_wei is None else check_wei(amount_wei, name="the refund", minimum=1)
    if amount > left or not amount:
        raise InvalidAmount(
            f"{format_ros(amount)} of usage {usage_id} cannot be refunded: it cost {format_ros(usage['amount_wei'])}, "
            f"of which {format_ros(left)} are left"
        )
    given = _sources(batch, usage, amount)
    trial = _trial(usage, amount)
    _post(batch, name, usage, given, trial, at=at)
    batch.rows(UsageRow).change(usage, refunded_wei=usage["refunded_wei"] + amount)
    user = user_row(batch, usage["user_id"])
    batch.rows(UserRow).change(
        user,
        unsettled_wei=user["unsettled_wei"] - (amount - trial),
        unsettled_trial_wei=user["unsettled_trial_wei"] - trial,
    )
    # In the period of the use: there it is spent no more.
    spending.spend(batch, usage["user_id"], -amount, at=usage["at"])
    row = {
        "id": name,
        "number": batch.next_number(CreditNoteRow.number),
        "usage_id": usage_id,
        "user_id": usage["user_id"],
        "amount_wei": amount,
        "trial_wei": trial,
        "from_worker_wei": given[earned(usage["owner"])],
        "from_platform_wei": given[REVENUE],
        "worker_owes_wei": given[owed(usage["owner"])],
        "platform_owes_wei": given[REFUNDS],
        "epoch": usage["epoch"],
        "reason": reason,
        "at": at,
    }
    notes.put(row)
    return _note(row)


def as_note(row: Row) -> CreditNote:
    """The credit note that a row stands for."""
    return _note(row)


def _note(row: Row) -> CreditNote:
    return CreditNote(**{**row, "usage_id": UsageId(row["usage_id"])})


def _shares(usage: Row, amount: int) -> tuple[int, int]:
    """What of `amount` the worker and the platform got, so that all refunds together come to what they got at all."""

    def worker(refunded: int) -> int:
        return int(parts(refunded, (usage["worker_wei"], usage["platform_wei"]))[0])

    before = usage["refunded_wei"]
    share = worker(before + amount) - worker(before)
    return share, amount - share


def _sources(batch: Batch, usage: Row, amount: int) -> dict[str, int]:
    """Which account gives how much."""
    worker, owes = earned(usage["owner"]), owed(usage["owner"])
    share, rest = _shares(usage, amount)
    if usage["epoch"] is None:
        # Earlier debts may have been repaid out of it already.
        from_worker = min(share, batch.account(worker).free_wei)
        from_platform = min(rest, batch.account(REVENUE).free_wei)
    else:
        from_worker = 0
        from_platform = min(amount, batch.account(REVENUE).free_wei)
        share = min(share, amount - from_platform)
        rest = amount - share
    return {
        worker: from_worker,
        REVENUE: from_platform,
        owes: share - from_worker,
        REFUNDS: rest - from_platform,
    }


def _trial(usage: Row, amount: int) -> int:
    """What of `amount` goes back as trial credit: what deposits paid comes back first, as when a hold is released."""
    deposited: int = usage["amount_wei"] - usage["trial_wei"]
    before: int = usage["refunded_wei"]
    return max(before + amount - deposited, 0) - max(before - deposited, 0)


def _post(batch: Batch, name: str, usage: Row, given: dict[str, int], trial: int, *, at: int) -> None:
    def transfers() -> Iterator[Transfer]:
        left = {Kind.TRIAL: trial, Kind.AVAILABLE: sum(given.values()) - trial}
        for debit, amount in given.items():
            for kind, still in left.items():
                part = min(amount, still)
                if part:
                    left[kind] -= part
                    amount -= part
                    yield Transfer(
                        id=f"{name}:{debit}:{kind}",
                        debit=debit,
                        credit=user_account(usage["user_id"], kind),
                        amount_wei=Wei(part),
                        kind="refund",
                        reference=name,
                        at=at,
                    )

    batch.post(transfers())
