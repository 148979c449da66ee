"""Budgets in the ledger: what was spent in which period, whether there is room for more, and whom to tell."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from rios.billing.budgets import BUDGET_ALERTS_BP, Period, check_room, span, used_alerts
from rios.billing.ledger.accounts import Kind, check_user, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.money import alert
from rios.storage.gateway_models import QuotaRow
from rios.storage.models import BudgetRow, SpendingRow
from rios.storage.rows import Row
from rios.words.money import check_wei

BUDGET_TOPIC = "budget.used"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=256)
def start_of(period: Period, at: int) -> int:
    """When the period around `at` began; 0 for the one that never began. All in microseconds since 1970."""
    start = span(period, _EPOCH + timedelta(microseconds=at)).start
    return 0 if start is None else (start - _EPOCH) // timedelta(microseconds=1)


def set_budget(
    batch: Batch,
    user: str,
    limit_wei: int | None,
    *,
    period: Period,
    alerts_bp: Sequence[int] = BUDGET_ALERTS_BP,
    hard: bool,
    at: int,
) -> None:
    """Set what `user` may spend in each `period`; None takes the budget away. What was spent before counts."""
    check_user(user)
    budgets = batch.rows(BudgetRow)
    # A row cannot be deleted through a batch, and the history of budgets is worth a row: no limit is one of -1.
    limit = -1 if limit_wei is None else check_wei(limit_wei, name="the budget")
    budgets.put(
        {
            "user_id": user,
            "period": str(period),
            "limit_wei": limit,
            "alerts": json.dumps(sorted(alerts_bp)),
            "hard": hard,
            "set_at": at,
        }
    )
    if limit > 0:
        spent = _spending(batch, user, period, at)["spent_wei"]
        _tell(batch, user, period, at, 0, spent, limit, alerts_bp)


def check(batch: Batch, user: str, amount_wei: int, *, at: int) -> None:
    """Raise BudgetExceeded unless each hard budget of `user` has room to hold `amount_wei` more."""
    for row in _budgets(batch, user):
        if row["hard"]:
            period = Period(row["period"])
            spent = _spending(batch, user, period, at)["spent_wei"]
            held = batch.account(user_account(user, Kind.HELD)).balance
            check_room(amount_wei, row["limit_wei"], period=period, spent_wei=spent, held_wei=held)
    quota = batch.rows(QuotaRow).get(user)  # what an admin allows, beside what users allow themselves
    if quota is not None and quota["spend_wei"] is not None:
        spent = _spending(batch, user, Period.DAY, at)["spent_wei"]
        held = batch.account(user_account(user, Kind.HELD)).balance
        check_room(amount_wei, quota["spend_wei"], period=Period.DAY, spent_wei=spent, held_wei=held)


def spend(batch: Batch, user: str, amount_wei: int, *, at: int) -> None:
    """Count what was spent (below 0: refunded) in the periods around `at`, and send the alerts that it sets off."""
    if not amount_wei:
        return
    rows = batch.rows(SpendingRow)
    limits = {row["period"]: row for row in _budgets(batch, user)}
    rows.load((user, str(period), start_of(period, at)) for period in Period)
    for period in Period:
        row = _spending(batch, user, period, at)
        # A refund of an earlier period's use may exceed what was spent in this one; a period is never below 0.
        spent = max(row["spent_wei"] + amount_wei, 0)
        most = max(row["most_wei"], spent)
        rows.change(row, spent_wei=spent, most_wei=most)
        budget = limits.get(period)
        if budget is not None and budget["limit_wei"] > 0 and most > row["most_wei"]:
            alerts_bp = json.loads(budget["alerts"])
            _tell(batch, user, period, at, row["most_wei"], most, budget["limit_wei"], alerts_bp)


def _budgets(batch: Batch, user: str) -> Iterator[Row]:
    rows = batch.rows(BudgetRow)
    rows.load((user, str(period)) for period in Period)
    for period in Period:
        row = rows.get(user, str(period))
        if row is not None and row["limit_wei"] >= 0:
            yield row


def _spending(batch: Batch, user: str, period: Period, at: int) -> Row:
    start = start_of(period, at)
    found = batch.rows(SpendingRow).get(user, str(period), start)
    return found or {"user_id": user, "period": str(period), "start": start, "spent_wei": 0, "most_wei": 0}


def _tell(
    batch: Batch,
    user: str,
    period: Period,
    at: int,
    before_wei: int,
    after_wei: int,
    limit_wei: int,
    alerts_bp: Sequence[int],
) -> None:
    start = start_of(period, at)
    for bp in used_alerts(before_wei, after_wei, limit_wei, alerts_bp=alerts_bp):
        payload: dict[str, str | int] = {
            "user": user,
            "period": str(period),
            "start": start,
            "share_bp": bp,
            "spent_wei": str(after_wei),
            "limit_wei": str(limit_wei),
        }
        alert(batch, BUDGET_TOPIC, f"budget:{user}:{period}:{start}:{limit_wei}:{bp}", payload, at=at)
