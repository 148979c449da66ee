"""Refunds: the user has the whole at once, and who got the money gives it, now or out of what comes."""

from __future__ import annotations

from typing import Any

import pytest

from rios.billing.budgets import Period
from rios.billing.ledger import Ledger
from rios.words.errors import InvalidAmount, InvalidRequest, LedgerConflict
from rios.words.ids import derived_id
from tests.billing.clock import DAY_US, Clock
from tests.billing.ledger.work import PLATFORM, use
from tests.billing.make import OWNERS

EARNED, OWED = f"worker:{OWNERS[0]}:earned", f"worker:{OWNERS[0]}:owed"


def _accounts(ledger: Ledger) -> tuple[int, int, int, int]:
    """What the worker earned and owes, and what the platform did."""
    found = ledger.accounts()
    return tuple(found.get(name, 0) for name in (EARNED, OWED, "platform:revenue", "platform:refunds"))  # type: ignore[return-value]


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    ledger.deposit("d", "ann", 1_000)
    return ledger


def test_before_the_epoch_is_closed_both_give_back_what_they_got(ann: Ledger, clock: Clock) -> None:
    usage_id = use(ann, 101)
    assert _accounts(ann) == (91, 0, 10, 0)
    note = ann.refund(usage_id, "wrong model")
    assert (note.amount_wei, note.from_worker_wei, note.from_platform_wei, note.epoch) == (101, 91, 10, None)
    assert (note.worker_owes_wei, note.platform_owes_wei, note.number, note.at) == (0, 0, 1, clock.now_us)
    assert _accounts(ann) == (0, 0, 0, 0)
    assert ann.balance("ann").deposited_wei == 1_000
    found = ann.usage_of(usage_id)
    assert found is not None
    assert (found.amount_wei, found.refunded_wei) == (101, 101)
    assert ann.costs("user") == {"ann": 0}
    assert ann.close_epoch(PLATFORM) is None


def test_the_same_refund_comes_once(ann: Ledger) -> None:
    usage_id = use(ann, 100)
    first = ann.refund(usage_id, "slow", amount_wei=30, note_id="n")
    assert ann.refund(usage_id, "slow", amount_wei=30, note_id="n") == first
    assert ann.refund(usage_id, "slow", note_id="n") == first
    for other in ({"reason": "fast"}, {"reason": "slow", "amount_wei": 31}):
        with pytest.raises(LedgerConflict, match=first.id):
            ann.refund(usage_id, note_id="n", **other)
    second = ann.refund(usage_id, "slow", note_id="part-2", amount_wei=70)
    assert second.number == 2
    assert ann.credit_notes(user="ann") == ann.credit_notes(usage_id=usage_id) == [first, second]
    assert ann.credit_notes(user="bob") == []
    with pytest.raises(InvalidAmount, match="0 ROS are left"):
        ann.refund(usage_id, "again", note_id="part-3")


def test_what_is_left_after_a_part_can_be_given_too(ann: Ledger) -> None:
    usage_id = use(ann, 100)
    part = ann.refund(usage_id, "slow", amount_wei=30)
    assert ann.refund(usage_id, "slow", amount_wei=30) == part, "a repetition gives nothing twice"
    other = ann.refund(usage_id, "wrong model", amount_wei=30)
    rest = ann.refund(usage_id, "slow")
    assert [note.amount_wei for note in (part, other, rest)] == [30, 30, 40]
    assert ann.refund(usage_id, "slow") == rest
    assert ann.balance("ann").deposited_wei == 1_000
    assert ann.credit_notes(user="ann") == [part, other, rest]
    with pytest.raises(InvalidAmount, match="0 ROS are left"):
        ann.refund(usage_id, "again")


@pytest.mark.parametrize("amount_wei", [30, None])
def test_a_refund_of_an_older_version_comes_once(ann: Ledger, amount_wei: int | None) -> None:
    usage_id = use(ann, 100)
    old = ann.refund(usage_id, "slow", amount_wei=amount_wei, note_id=derived_id("cn", usage_id))
    assert ann.refund(usage_id, "slow", amount_wei=amount_wei) == old
    if amount_wei is not None:  # others are others
        assert ann.refund(usage_id, "wrong model", amount_wei=30).id != old.id
        rest = ann.refund(usage_id, "slow")
        assert rest.amount_wei == 40
        assert ann.refund(usage_id, "slow") == rest
    assert ann.balance("ann").deposited_wei == 1_000


def test_parts_come_to_what_each_got(ann: Ledger) -> None:
    usage_id = use(ann, 101)
    notes = [ann.refund(usage_id, "bit by bit", note_id=f"n{part}", amount_wei=part) for part in (1, 2, 3, 40, 55)]
    assert sum(note.from_worker_wei for note in notes) == 91
    assert sum(note.from_platform_wei for note in notes) == 10
    assert _accounts(ann) == (0, 0, 0, 0)


def test_only_what_was_paid_can_be_refunded(ann: Ledger) -> None:
    usage_id = use(ann, 100)
    amounts: list[Any] = [0, -1, 101, 1.0, True]
    for amount in amounts:
        with pytest.raises(InvalidAmount):
            ann.refund(usage_id, "no", amount_wei=amount)
    with pytest.raises(InvalidRequest, match="no usage record"):
        ann.refund("u-none", "no")
    assert ann.credit_notes() == []


def test_after_its_epoch_the_platform_gives_first_then_the_worker_owes(ann: Ledger) -> None:
    usage_id = use(ann, 100, name="r1")
    epoch = ann.close_epoch(PLATFORM)
    assert epoch is not None
    use(ann, 200, name="r2", owner=OWNERS[1], worker="b")
    assert _accounts(ann) == (90, 0, 10 + 20, 0)
    note = ann.refund(usage_id, "wrong")
    assert (note.epoch, note.from_worker_wei, note.from_platform_wei) == (1, 0, 20)
    assert (note.worker_owes_wei, note.platform_owes_wei) == (80, 0)
    # What the root promised is untouched; the user has it all.
    assert _accounts(ann) == (90, -80, 10, 0)
    assert ann.balance("ann").deposited_wei == 800
    # Later earnings repay first.
    use(ann, 50, name="r3")
    assert _accounts(ann) == (90, -35, 15, 0)
    use(ann, 50, name="r4")
    assert _accounts(ann) == (100, 0, 20, 0)
    later = ann.close_epoch(PLATFORM)
    assert later is not None
    before, after = ann.leaves(1), ann.leaves(2)
    assert all(after[address] >= amount for address, amount in before.items())
    assert (before[OWNERS[0]], after[OWNERS[0]], after[PLATFORM]) == (90, 100, 20)


def test_the_platform_owes_its_own_part(ann: Ledger) -> None:
    usage_id = use(ann, 100)
    ann.close_epoch(PLATFORM)
    note = ann.refund(usage_id, "wrong")
    assert (note.worker_owes_wei, note.platform_owes_wei) == (90, 10)
    assert _accounts(ann) == (90, -90, 10, -10)
    use(ann, 100, name="r2", owner=OWNERS[1], worker="b")
    assert _accounts(ann) == (90, -90, 10, 0)


def test_a_debt_that_earlier_money_repaid_leaves_less_to_take(ann: Ledger) -> None:
    """The worker earns while it owes, so what the new use brought is gone when that is refunded too."""
    first = use(ann, 100, name="r1")
    ann.close_epoch(PLATFORM)
    ann.refund(first, "wrong")
    second = use(ann, 40, name="r2")
    assert _accounts(ann) == (90, -54, 10, -6)
    note = ann.refund(second, "wrong too")
    assert (note.from_worker_wei, note.worker_owes_wei, note.from_platform_wei, note.platform_owes_wei) == (0, 36, 0, 4)
    assert _accounts(ann) == (90, -90, 10, -10)
    assert ann.balance("ann").deposited_wei == 1_000


def test_deposits_come_back_first_and_trial_credit_as_trial_credit(ledger: Ledger) -> None:
    ledger.grant_trial("ann", 60)
    ledger.deposit("d", "ann", 100)
    usage_id = use(ledger, 100)
    assert (ledger.balance("ann").trial_wei, ledger.balance("ann").deposited_wei) == (0, 60)
    note = ledger.refund(usage_id, "half", amount_wei=50)
    assert note.trial_wei == 10
    assert (ledger.balance("ann").trial_wei, ledger.balance("ann").deposited_wei) == (10, 100)
    assert ledger.refund(usage_id, "rest", note_id="rest").trial_wei == 50
    assert (ledger.balance("ann").trial_wei, ledger.balance("ann").deposited_wei) == (60, 100)


def test_a_refund_makes_room_in_the_budget_of_its_use(ann: Ledger, clock: Clock) -> None:
    usage_id = use(ann, 100, name="r1")
    yesterday = clock.now_us
    clock.now_us += DAY_US
    use(ann, 10, name="r2")
    ann.refund(usage_id, "wrong")
    assert ann.spent("ann", Period.DAY, at=yesterday) == 0
    assert ann.spent("ann", Period.DAY, at=clock.now_us) == 10
    assert ann.spent("ann", Period.TOTAL, at=clock.now_us) == 10
