"""Settling: usage rows, entries, what is left, spending and alerts, together and once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from rios.billing.budgets import Period
from rios.billing.ledger import Ledger
from rios.billing.ledger.settling import usage_digest
from rios.billing.outbox import messages
from rios.billing.verify import earning_payload
from rios.words.canonical import digest as canonical_digest
from rios.words.errors import (
    BudgetExceeded,
    InsufficientBalance,
    InvalidAmount,
    InvalidRequest,
    LedgerConflict,
)
from rios.words.money import Wei
from tests.billing.clock import DAY_US, Clock
from tests.billing.ledger.work import ROS, TERMS, charge, hold, use
from tests.billing.make import OWNERS


def test_workers_and_platform_get_their_parts(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 1_000)
    hold(ledger, 500)
    rated = [
        charge(101),
        charge(55, worker="b", owner=OWNERS[1]),
        charge(7, resource="bytes"),
        charge(0, resource="cpu"),
    ]
    found = ledger.settle("h1", rated, deployment="dep")
    assert (found.amount_wei, found.new, found.hold.posted_wei, found.hold.released_wei) == (163, 4, 163, 337)
    accounts = ledger.accounts()
    assert accounts[f"worker:{OWNERS[0]}:earned"] == 91 + 6
    assert accounts[f"worker:{OWNERS[1]}:earned"] == 50
    assert accounts["platform:revenue"] == 163 - 147
    assert ledger.balance("ann").wei == 837
    usage = {one.usage_id: one for one in ledger.usage()}
    for one in rated:
        kept = usage[one.record.usage_id]
        assert kept.record == one.record
        assert (kept.amount_wei, kept.price, kept.units) == (one.amount_wei, str(one.price_wei), str(one.units))
        assert (kept.deployment, kept.user_id, kept.epoch, kept.refunded_wei) == ("dep", "ann", None, 0)
        postings = ledger.postings(one.record.usage_id)
        assert sum(entry.amount_wei for entry in postings) == one.amount_wei
        for entry in postings:
            assert entry.reference == one.record.usage_id
            payload = json.loads(entry.document or "")
            assert payload.items() >= earning_payload(one.record, TERMS).items()
            assert payload["usage"] == kept.digest.hex()


@pytest.mark.parametrize("discount", [None, "research"])
def test_a_digest_is_of_the_canonical_text(discount: str | None) -> None:
    one = dataclasses.replace(charge(10, model='odd "\u00e9"'), discount=discount, discount_wei=Wei(3), unit='a "b"')
    said: dict[str, Any] = {
        "record": one.record.to_dict(), "user": "ann", "hold": "h\u00e9", "deployment": "d\\", "line": one.line,
        "unit": one.unit, "units": "10/3", "price": "3", "amount_wei": "10", "worker_wei": "9", "platform_wei": "1",
    }  # fmt: skip
    if discount is not None:
        said |= {"discount": discount, "discount_wei": "3"}
    found = usage_digest(one, user="ann", hold_id="h\u00e9", deployment="d\\")
    assert found.hex() == canonical_digest(said)


def test_the_same_usage_is_posted_once(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 100)
    hold(ledger, 50)
    first = ledger.settle("h1", [charge(10)], final=False)
    assert ledger.settle("h1", [charge(10)], final=False).new == 0
    again = ledger.settle("h1", [charge(10), charge(5, resource="bytes")])
    assert (again.new, again.amount_wei, again.hold.posted_wei) == (1, 15, 15)
    assert ledger.settle("h1", [charge(10), charge(5, resource="bytes")]).hold == again.hold
    assert first.hold.posted_wei == 10
    assert ledger.balance("ann").wei == 85
    for other in (
        charge(11),
        dataclasses.replace(charge(10), worker_wei=Wei(8), platform_wei=Wei(2)),
        dataclasses.replace(charge(10), record=dataclasses.replace(charge(10).record, measured_ns=1)),
    ):
        with pytest.raises(LedgerConflict, match="other contents"):
            ledger.settle("h1", [other])
    with pytest.raises(LedgerConflict, match="other contents"):
        ledger.settle("h1", [charge(10)], deployment="another")
    with pytest.raises(LedgerConflict, match="posted"):
        ledger.settle("h1", [charge(1, resource="cpu")])


def test_more_than_is_held_is_refused_whole(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 100)
    hold(ledger, 10)
    with pytest.raises(InsufficientBalance, match=r"extend it by 0\.000000000000000001 ROS"):
        ledger.settle("h1", [charge(6), charge(5, resource="bytes")])
    assert list(ledger.usage()) == []
    ledger.extend("h1", 1, 1)
    ledger.settle("h1", [charge(6), charge(5, resource="bytes")])


def test_a_charge_that_does_not_fit_is_refused(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 100)
    hold(ledger, 50)
    cases: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"worker_wei": 1}, InvalidRequest),
        ({"worker_wei": 10.0}, InvalidAmount),
        ({"worker_wei": -1, "platform_wei": 11}, InvalidAmount),
        ({"record": charge(1, request_id="other").record}, InvalidRequest),
    ]
    for changes, error in cases:
        with pytest.raises(error):
            ledger.settle("h1", [dataclasses.replace(charge(10), **changes)])


def test_a_request_that_used_nothing_costs_nothing(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 100)
    hold(ledger, 50)
    assert ledger.settle("h1", []).hold.state == "released"
    assert ledger.balance("ann").available_wei == 100


def test_spending_is_counted_by_period(ledger: Ledger, clock: Clock) -> None:
    ledger.deposit("d", "ann", 100)
    use(ledger, 10, name="r1")
    clock.now_us += DAY_US
    use(ledger, 5, name="r2")

    def spent(at: int) -> list[int]:
        return [ledger.spent("ann", period, at=at) for period in Period]

    assert spent(clock.now_us) == [5, 15, 15, 15]
    assert spent(clock.now_us - DAY_US) == [10, 15, 15, 15]
    assert spent(clock.now_us + 30 * DAY_US) == [0, 0, 0, 15]


def test_a_hard_budget_holds_and_a_soft_one_tells(ledger: Ledger, clock: Clock) -> None:
    ledger.deposit("d", "ann", 100 * ROS)
    ledger.set_budget("ann", 10 * ROS, period="day")
    ledger.set_budget("ann", 12 * ROS, period="month", hard=False, alerts_bp=(5_000,))
    use(ledger, 6 * ROS, name="r1")
    hold(ledger, 3 * ROS, id="h2", request_id="r2")
    with pytest.raises(BudgetExceeded, match="has room for 1 ROS: 6 ROS are spent and 3 ROS held"):
        hold(ledger, 2 * ROS, id="h3")
    assert ledger.room("ann", at=clock.now_us) == ROS, "a soft one bounds nothing"
    with pytest.raises(BudgetExceeded):
        ledger.extend("h2", 1, 2 * ROS)
    ledger.extend("h2", 1, ROS)
    assert [(m.payload["period"], m.payload["share_bp"]) for m in messages(ledger)] == [
        ("day", 5_000),
        ("month", 5_000),
    ]
    ledger.settle("h2", [charge(3 * ROS, request_id="r2")])
    assert [m.payload["share_bp"] for m in messages(ledger, topic="budget.used")] == [5_000, 5_000, 7_500, 9_000]
    budgets = {budget.period: budget for budget in ledger.budgets("ann", at=clock.now_us)}
    assert (budgets[Period.DAY].spent_wei, budgets[Period.DAY].hard) == (9 * ROS, True)
    # A new day has room again, a total does not care.
    clock.now_us += DAY_US
    use(ledger, 9 * ROS, name="r4")
    ledger.set_budget("ann", 18 * ROS, period="total")
    assert len(list(messages(ledger, topic="budget.used"))) == 4 + 3 + 3
    with pytest.raises(BudgetExceeded, match="in total"):
        hold(ledger, 1, id="h5")
    ledger.set_budget("ann", None, period="total")
    assert ledger.room("ann", at=clock.now_us) == ROS
    ledger.set_budget("ann", None, period="day")
    assert ledger.room("ann", at=clock.now_us) == ledger.balance("ann").available_wei > ROS
    ledger.set_budget("ann", 10 * ROS, period="day")
    hold(ledger, ROS, id="h5")


def test_a_budget_of_nothing_stops_everything(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", 100)
    ledger.set_budget("ann", 0, period="total")
    with pytest.raises(BudgetExceeded):
        hold(ledger, 1)


def test_a_low_balance_is_told_once_for_each_filling(ledger: Ledger) -> None:
    def told() -> list[int]:
        return [message.payload["share_bp"] for message in messages(ledger, topic="balance.low")]

    ledger.deposit("d", "ann", 1_000)
    use(ledger, 795, name="r1")
    assert told() == []
    use(ledger, 6, name="r2")
    assert told() == [2_000]
    use(ledger, 1, name="r3")
    use(ledger, 150, name="r4")
    assert told() == [2_000, 1_000, 500]
    ledger.grant_trial("ann", 1_000)
    use(ledger, 900, name="r5")
    assert told() == [2_000, 1_000, 500, 2_000]
    assert [message.key for message in messages(ledger, topic="balance.low", delivered=False)][-1] == "low:ann:2:2000"


def test_trial_credit_is_given_once(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.grant_trial("ann", 10)
    assert ledger.balance("ann").trial_wei == 10
    with pytest.raises(LedgerConflict):
        ledger.grant_trial("ann", 11)
