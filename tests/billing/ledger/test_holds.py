"""Holds: nothing starts without its highest price, and what is not used comes back where it came from."""

from __future__ import annotations

import pytest

from rios.billing.ledger import Hold, HoldState, Ledger
from rios.billing.ledger.values import Wanted
from rios.billing.pricing import Terms
from rios.words.errors import InsufficientBalance, InvalidAmount, InvalidRequest, LedgerConflict
from tests.billing.clock import DAY_US, HOUR_US, SECOND_US, Clock
from tests.billing.ledger.work import ROS, TERMS, charge, hold
from tests.billing.make import book


def _has(ledger: Ledger, user: str = "ann") -> tuple[int, int, int]:
    found = ledger.balance(user)
    return found.deposited_wei, found.trial_wei, found.held_wei


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    """10 of trial credit and 5 deposited."""
    ledger.grant_trial("ann", 10)
    ledger.deposit("d1", "ann", 5)
    return ledger


def test_trial_credit_is_held_first_and_comes_back_last(ann: Ledger) -> None:
    found = hold(ann, 12)
    assert (found.trial_wei, found.left_wei, found.state) == (10, 12, HoldState.OPEN)
    assert _has(ann) == (3, 0, 12)
    ann.settle("h1", [charge(4)])
    assert _has(ann) == (5, 6, 0)
    assert ann.balance("ann").wei == ann.balance("ann").available_wei == 11
    hold(ann, 8, id="h2")
    assert ann.release("h2").state == HoldState.RELEASED
    assert _has(ann) == (5, 6, 0)


def test_more_than_there_is_is_refused_before_anything(ann: Ledger) -> None:
    hold(ann, 9 * 1)
    with pytest.raises(InsufficientBalance) as caught:
        ann.hold("h2", "ann", 7 * ROS, request_id="r2", terms=TERMS)
    said = str(caught.value)
    assert "7 ROS" in said
    assert "0.000000000000000006 ROS available" in said
    assert "deposit at least 6.999999999999999994 ROS" in said
    assert ann.hold_of("h2") is None
    assert _has(ann) == (5, 1, 9)


def test_holds_of_one_list_are_placed_all_or_none(ann: Ledger) -> None:
    six = [Wanted(f"h{place}", "ann", 6, request_id=f"r{place}", terms=TERMS) for place in range(3)]
    with pytest.raises(InsufficientBalance):
        ann.hold_all(six)
    assert [ann.hold_of(one.id) for one in six] == [None] * 3
    assert _has(ann) == (5, 10, 0)
    assert [found.left_wei for found in ann.hold_all(six[:2])] == [6, 6]
    assert _has(ann) == (3, 0, 12)


def test_the_same_hold_again_is_the_same(ann: Ledger) -> None:
    first = hold(ann, 6)
    assert hold(ann, 6) == first
    assert _has(ann) == (5, 4, 6)
    for change in ({"amount_wei": 7}, {"request_id": "other"}, {"user": "bob"}):
        wanted = {"id": "h1", "user": "ann", "amount_wei": 6, "request_id": "r1", **change}
        with pytest.raises(LedgerConflict, match="h1"):
            ann.hold(wanted.pop("id"), wanted.pop("user"), wanted.pop("amount_wei"), terms=TERMS, **wanted)
    with pytest.raises(LedgerConflict):
        ann.hold("h1", "ann", 6, request_id="r1", terms=Terms.of(book(version=9)))
    ann.settle("h1", [charge(2)])
    assert hold(ann, 6).state == HoldState.POSTED
    assert _has(ann) == (5, 8, 0)


def test_nothing_can_be_held(ann: Ledger) -> None:
    assert hold(ann, 0).left_wei == 0
    assert ann.release("h1").state == HoldState.RELEASED
    for amount in (-1, 1.0, True):
        with pytest.raises(InvalidAmount):
            hold(ann, amount, id="h2")
    with pytest.raises(InvalidRequest):
        hold(ann, 1, id="h2", user="a:b")


def test_a_stream_extends_pauses_and_goes_on(ann: Ledger, clock: Clock) -> None:
    hold(ann, 8)
    assert ann.extend("h1", 1, 7).amount_wei == 15
    assert ann.extend("h1", 1, 7).amount_wei == 15
    with pytest.raises(LedgerConflict, match="step 1"):
        ann.extend("h1", 1, 6)
    with pytest.raises(InsufficientBalance):
        ann.extend("h1", 2, 1)
    paused = ann.pause("h1")
    assert (paused.state, paused.grace_until) == (HoldState.PAUSED, clock.now_us + HOUR_US)
    clock.now_us += HOUR_US // 2
    assert ann.pause("h1").grace_until == paused.grace_until, "pausing again gives no further hour"
    ann.deposit("d2", "ann", 3)
    found = ann.extend("h1", 2, 3)
    assert (found.state, found.grace_until, found.trial_wei) == (HoldState.OPEN, None, 10)
    assert found.expires_at == paused.expires_at + HOUR_US // 2, "a stream may go on for days"
    assert [(step.step, step.amount_wei, step.trial_wei) for step in ann.hold_steps("h1")] == [
        (0, 8, 8),
        (1, 7, 2),
        (2, 3, 0),
    ]
    ann.pause("h1")
    assert ann.resume("h1").state == HoldState.OPEN
    ann.settle("h1", [charge(11)], final=False)
    ann.settle("h1", [charge(1, step=2)])
    assert ann.hold_of("h1") == ann.release("h1")
    assert _has(ann) == (6, 0, 0)
    assert sum(entry.amount_wei for entry in ann.hold_entries("h1")) == 18 + 6


def test_what_has_ended_stays_so(ann: Ledger) -> None:
    hold(ann, 8)
    ann.release("h1")
    for verb in (
        lambda: ann.extend("h1", 1, 1),
        lambda: ann.pause("h1"),
        lambda: ann.resume("h1"),
        lambda: ann.settle("h1", [charge(1)]),
    ):
        with pytest.raises(LedgerConflict, match="released"):
            verb()
    assert ann.release("h1").released_wei == 8
    for verb in (lambda: ann.release("none"), lambda: ann.extend("none", 1, 1), lambda: ann.settle("none", [])):
        with pytest.raises(InvalidRequest, match="none"):
            verb()


def test_forgotten_holds_expire(ann: Ledger, clock: Clock) -> None:
    def ids(found: list[Hold]) -> list[str]:
        return [one.id for one in found]

    start = clock.now_us
    hold(ann, 2, id="a")
    ann.hold("b", "ann", 3, request_id="b", terms=TERMS, expires_at=start + SECOND_US)
    hold(ann, 4, id="c")
    ann.pause("c")
    assert ann.overdue(start) == ann.expire(start) == []
    assert ids(ann.overdue(start + SECOND_US)) == ["b"]
    assert ids(ann.overdue(start + HOUR_US)) == ["b", "c"]
    clock.now_us += HOUR_US
    assert ids(ann.expire()) == ["b", "c"]
    assert ann.expire() == []
    assert {one.id: one.state for one in ann.holds(user="ann")} == {
        "a": HoldState.OPEN,
        "b": HoldState.EXPIRED,
        "c": HoldState.EXPIRED,
    }
    assert ids(ann.holds(state=HoldState.OPEN)) == ["a"]
    assert ids(ann.expire(start + DAY_US)) == ["a"]
    assert _has(ann) == (5, 10, 0)


def test_the_terms_can_be_read_again(ann: Ledger) -> None:
    import json

    found = hold(ann, 1)
    pinned = ann.price_book(found.price_book)
    assert Terms.from_dict(json.loads(found.terms), {pinned.digest: pinned}) == TERMS
