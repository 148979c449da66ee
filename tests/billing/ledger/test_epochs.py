"""Epochs: what everybody earned since the beginning, which never falls, and what everybody pays."""

from __future__ import annotations

import pytest

from rios.billing.ledger import EpochCharge, EpochState, Ledger
from rios.billing.merkle import MerkleTree
from rios.billing.outbox import messages
from rios.words.errors import InsufficientBalance, InvalidRequest, LedgerConflict
from rios.words.ids import Address
from tests.billing.ledger.test_post import move
from tests.billing.ledger.work import PLATFORM, charge, event, hold, use
from tests.billing.make import OWNERS


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    ledger.deposit("d", "ann", 1_000)
    return ledger


def test_nothing_earned_is_no_epoch(ann: Ledger) -> None:
    assert ann.close_epoch(PLATFORM) is None
    assert ann.epochs() == []
    assert ann.epoch(1) is None


def test_an_epoch_has_the_sums_since_the_beginning(ann: Ledger) -> None:
    ids = [use(ann, 100, name="r1"), use(ann, 50, name="r2", owner=OWNERS[1], worker="b")]
    head = ann.head()
    first = ann.close_epoch(PLATFORM)
    assert first is not None
    assert ann.leaves(1) == {OWNERS[0]: 90, OWNERS[1]: 45, PLATFORM: 15}
    assert (first.number, first.state, first.total_wei, first.tx) == (1, EpochState.CLOSED, 150, None)
    assert first.root == f"0x{MerkleTree.of(ann.leaves(1)).root.hex()}"
    assert (first.head_seq, first.head_hash) == head
    assert ann.charges(1) == [EpochCharge(user_id="ann", amount_wei=150, trial_wei=0)]
    assert [found.epoch for name in ids if (found := ann.usage_of(name))] == [1, 1]
    assert [message.payload["epoch"] for message in messages(ann, topic="epoch.closed")] == [1]
    # Nothing since: the same epoch, nothing twice.
    assert ann.close_epoch(PLATFORM) == first
    use(ann, 10, name="r3")
    second = ann.close_epoch(PLATFORM)
    assert second is not None
    assert ann.leaves(2) == {OWNERS[0]: 99, OWNERS[1]: 45, PLATFORM: 16}
    assert ann.leaves(1)[OWNERS[0]] == 90
    assert ann.charges(2) == [EpochCharge(user_id="ann", amount_wei=10, trial_wei=0)]
    assert ann.epochs() == [first, second]
    assert [usage.request_id for usage in ann.usage(epoch=2)] == ["r3"]
    assert list(ann.usage(unsettled=True)) == []


def test_what_a_root_promises_stays_until_it_is_claimed(ann: Ledger) -> None:
    use(ann, 100)
    ann.close_epoch(PLATFORM)
    earned = f"worker:{OWNERS[0]}:earned"
    assert ann.claimable() == {earned: 90, "platform:revenue": 10}
    assert ann.claimable(OWNERS[0]) == {earned: 90}
    with pytest.raises(InsufficientBalance, match="posted root"):
        ann.post([move("steal", earned, "treasury", 1)])
    ann.apply_chain([event("Claimed", 1, account=OWNERS[0], amount=60, cumulative=60)])
    assert ann.claimable(OWNERS[0]) == {earned: 30}
    assert ann.accounts()[earned] == 30
    use(ann, 10, name="r2")
    ann.close_epoch(PLATFORM)
    assert ann.leaves(2)[OWNERS[0]] == 99
    assert ann.claimable(OWNERS[0]) == {earned: 39}


def test_trial_credit_is_charged_apart_and_refunds_below_zero(ledger: Ledger) -> None:
    ledger.grant_trial("ann", 30)
    ledger.deposit("d", "ann", 100)
    ledger.deposit("e", "bob", 100)
    usage_id = use(ledger, 50)
    ledger.close_epoch(PLATFORM)
    assert ledger.charges(1) == [EpochCharge(user_id="ann", amount_wei=20, trial_wei=30)]
    ledger.refund(usage_id, "wrong")
    use(ledger, 10, name="r2", user="bob")
    ledger.close_epoch(PLATFORM)
    assert ledger.charges(2) == [
        EpochCharge(user_id="ann", amount_wei=-20, trial_wei=-30),
        EpochCharge(user_id="bob", amount_wei=10, trial_wei=0),
    ]


def test_a_refund_alone_makes_an_epoch_with_the_same_leaves(ann: Ledger) -> None:
    usage_id = use(ann, 50)
    first = ann.close_epoch(PLATFORM)
    ann.refund(usage_id, "wrong")
    second = ann.close_epoch(PLATFORM)
    assert first is not None
    assert second is not None
    assert (second.number, second.root, second.total_wei) == (2, first.root, first.total_wei)
    assert ann.charges(2) == [EpochCharge(user_id="ann", amount_wei=-50, trial_wei=0)]


def test_an_owner_may_be_the_platform_too(ann: Ledger) -> None:
    use(ann, 100, owner=PLATFORM)
    ann.close_epoch(PLATFORM)
    assert ann.leaves(1) == {PLATFORM: 100}
    ann.apply_chain([event("Claimed", 1, account=PLATFORM, amount=95, cumulative=95)])
    assert ann.claimable() == {"platform:revenue": 5}


def test_an_owner_is_spelt_in_one_way(ann: Ledger) -> None:
    low = Address("0x00000000000000000000000000000000000000ff".replace("ff", "ab"))
    hold(ann, 10)
    with pytest.raises(InvalidRequest, match="spell the owner"):
        ann.settle("h1", [charge(10, owner=low)])


def test_a_root_goes_its_way(ann: Ledger) -> None:
    use(ann, 100)
    ann.close_epoch(PLATFORM)
    assert ann.mark_epoch(1, EpochState.POSTING).state == EpochState.POSTING
    posted = ann.mark_epoch(1, EpochState.POSTED, tx="0xab")
    assert (posted.state, posted.tx) == (EpochState.POSTED, "0xab")
    assert ann.mark_epoch(1, EpochState.POSTED) == posted
    assert ann.mark_epoch(1, EpochState.FINAL).tx == "0xab"
    for state in (EpochState.POSTING, EpochState.CHALLENGED, EpochState.CLOSED):
        with pytest.raises(LedgerConflict, match=f"is final and cannot become {state}"):
            ann.mark_epoch(1, state)
    with pytest.raises(InvalidRequest, match="no epoch 2"):
        ann.mark_epoch(2, EpochState.POSTED)
    assert ann.epoch(1) == ann.epochs()[0]
