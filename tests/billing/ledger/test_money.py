"""Deposits, and who they belong to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from rios.billing.ledger import ChainCursor, Ledger
from rios.words.errors import InvalidAmount, InvalidRequest, LedgerConflict
from tests.billing.ledger.work import ROS, event, use
from tests.billing.make import OWNERS

ADDRESS = OWNERS[3]


def test_a_deposit_counts_once(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.deposit("d1", "ann", 25 * ROS, reference="0xabc")
    found = ledger.balance("ann")
    assert (found.wei, found.available_wei, found.deposited_wei, found.held_wei) == (25 * ROS, 25 * ROS, 25 * ROS, 0)
    assert str(found) == "25 ROS"
    assert ledger.accounts()["chain:escrow"] == -25 * ROS
    for change in ({"amount_wei": 1}, {"user": "bob"}, {"reference": "0xdef"}):
        with pytest.raises(LedgerConflict, match="d1"):
            ledger.deposit(**{"id": "d1", "user": "ann", "amount_wei": 25 * ROS, "reference": "0xabc", **change})


def test_only_whole_amounts_are_money(ledger: Ledger) -> None:
    amounts: list[Any] = [0, -1, 1.0, True, 10**18 / 2, "1", None, 2**256]
    for amount in amounts:
        with pytest.raises(InvalidAmount):
            ledger.deposit("d1", "ann", amount)
        with pytest.raises(InvalidAmount):
            ledger.grant_trial("ann", amount)
    assert ledger.head()[0] == 0


def test_only_names_are_users(ledger: Ledger) -> None:
    verbs: list[Callable[[Any], object]] = [
        lambda user: ledger.deposit("d", user, 1),
        lambda user: ledger.grant_trial(user, 1),
        ledger.balance,
        lambda user: ledger.set_budget(user, 1, period="day"),
        lambda user: ledger.link_address(user, ADDRESS),
        lambda user: ledger.invoice(user, "2026-11", since=0, until=1),
    ]
    for verb, user in itertools.product(verbs, ["", "a:b", "a b", "-a", "ä", "x" * 129, None]):
        with pytest.raises(InvalidRequest):
            verb(user)


def test_only_microseconds_are_moments(ledger: Ledger) -> None:
    moments: list[Any] = [-1, 1.5, True, 2**53]
    for at in moments:
        with pytest.raises(InvalidRequest, match="microseconds"):
            ledger.deposit("d", "ann", 1, at=at)


def test_a_deposit_repays_what_was_overdrawn(ledger: Ledger) -> None:
    ledger.link_address("ann", ADDRESS)
    ledger.apply_chain([event("Deposited", 1, user=ADDRESS, amount=100)])
    use(ledger, 70)
    # The contract paid out what had been spent already.
    ledger.apply_chain([event("Withdrawn", 2, user=ADDRESS, amount=100)])
    found = ledger.balance("ann")
    assert (found.wei, found.overdrawn_wei) == (0, 70)
    ledger.deposit("d2", "ann", 50)
    assert (ledger.balance("ann").wei, ledger.balance("ann").overdrawn_wei) == (0, 20)
    ledger.deposit("d3", "ann", 50)
    assert (ledger.balance("ann").wei, ledger.balance("ann").overdrawn_wei) == (30, 0)
    ledger.deposit("d3", "ann", 50)
    assert ledger.balance("ann").wei == 30


def test_an_address_has_one_user_and_a_user_one_address(ledger: Ledger) -> None:
    ledger.link_address("ann", ADDRESS)
    ledger.link_address("ann", ADDRESS.lower())
    assert (ledger.address_of("ann"), ledger.user_of(ADDRESS), ledger.address_of("bob")) == (ADDRESS, "ann", None)
    with pytest.raises(LedgerConflict, match="belongs to user ann"):
        ledger.link_address("bob", ADDRESS)
    with pytest.raises(LedgerConflict, match="has the address"):
        ledger.link_address("ann", OWNERS[4])
    with pytest.raises(InvalidRequest, match="no address"):
        ledger.link_address("eve", "0x12")


def test_what_came_before_the_link_is_the_users(ledger: Ledger) -> None:
    # The contract pays out more than this ledger knows of: the address owes it.
    ledger.apply_chain(
        [event("Deposited", 1, user=ADDRESS, amount=100), event("Deposited", 2, user=OWNERS[4], amount=9)]
    )
    ledger.apply_chain([event("WithdrawalRequested", 3, user=ADDRESS, amount=30, total=30)])
    assert ledger.balance(ADDRESS).deposited_wei == 70
    ledger.link_address("ann", ADDRESS)
    found = ledger.balance("ann")
    assert (found.deposited_wei, found.withdrawing_wei, found.overdrawn_wei) == (70, 30, 0)
    assert ledger.balance(ADDRESS).wei == 0
    ledger.apply_chain([event("Withdrawn", 4, user=OWNERS[4], amount=10)])
    ledger.link_address("bob", OWNERS[4])
    assert ledger.balance("bob").overdrawn_wei == 1
    ledger.apply_chain([event("Deposited", 5, user=ADDRESS, amount=5)])
    assert ledger.balance("ann").deposited_wei == 75


def test_a_deposit_that_comes_with_the_link_reaches_the_user(ledger: Ledger) -> None:
    """Both wait while the writer is busy, and would be one batch."""
    import threading

    entered, go = threading.Event(), threading.Event()

    def block(_batch: object) -> None:
        entered.set()
        assert go.wait(30)

    deposit = event("Deposited", 1, user=ADDRESS, amount=100)
    threads = [
        threading.Thread(target=ledger.transact, args=(block,)),
        threading.Thread(target=ledger.link_address, args=("ann", ADDRESS)),
        threading.Thread(target=ledger.apply_chain, args=([deposit], ChainCursor(name="x", block=1, block_hash="0x"))),
    ]
    for thread in threads:
        thread.start()
        assert entered.wait(30)
    go.set()
    for thread in threads:
        thread.join()
    assert ledger.balance("ann").wei == 100
