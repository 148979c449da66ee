"""Events of the chain: each posted once, with the cursor that moves, and taken back by a reorganisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from rios.billing.books import PriceBook
from rios.billing.ledger import ChainCursor, ChainEvent, Ledger
from rios.words.errors import InvalidRequest, LedgerConflict
from tests.billing.ledger.work import PLATFORM, event, hold, use
from tests.billing.make import OWNERS, book

ADDRESS = OWNERS[3]


def at_block(number: int) -> ChainCursor:
    return ChainCursor(name="main", block=number, block_hash=f"0x{number:064x}")


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    """100 deposited in block 1."""
    ledger.link_address("ann", ADDRESS)
    ledger.apply_chain([event("Deposited", 1, user=ADDRESS, amount=100)], at_block(1))
    return ledger


def _has(ledger: Ledger) -> tuple[int, int, int]:
    found = ledger.balance("ann")
    return found.deposited_wei, found.withdrawing_wei, found.overdrawn_wei


def test_events_are_posted_once_and_the_cursor_moves_with_them(ann: Ledger) -> None:
    deposit = event("Deposited", 1, user=ADDRESS, amount=100)
    assert ann.cursor("main") == at_block(1)
    assert ann.apply_chain([deposit, event("Deposited", 2, block=2, user=ADDRESS, amount=5)], at_block(2)) == 1
    assert _has(ann) == (105, 0, 0)
    assert ann.cursor("main") == at_block(2)
    assert ann.cursor("other") is None
    assert [found.block for found in ann.chain_events()] == [1, 2]
    assert ann.chain_events(name="Deposited", from_block=2)[0].args == {"user": ADDRESS, "amount": "5"}
    entry = next(ann.entries())
    assert (entry.kind, entry.reference) == ("deposit", deposit.tx_hash)


def test_an_event_with_other_contents_is_an_error_and_posts_nothing(ann: Ledger) -> None:
    other = event("Deposited", 1, user=ADDRESS, amount=101)
    with pytest.raises(LedgerConflict, match="other contents"):
        ann.apply_chain([event("Deposited", 2, user=ADDRESS, amount=5), other], at_block(2))
    assert _has(ann) == (100, 0, 0)
    assert ann.cursor("main") == at_block(1)


def test_an_event_that_lacks_something_is_refused(ledger: Ledger) -> None:
    cases: list[tuple[str, dict[str, str | int], str]] = [
        ("Deposited", {"amount": 1}, "user"),
        ("Withdrawn", {"user": ADDRESS}, "amount"),
        ("WithdrawalRequested", {"user": ADDRESS, "amount": 1}, "total"),
        ("WithdrawalReduced", {"user": ADDRESS, "amount": 1}, "total"),
        ("Claimed", {"amount": 1}, "account"),
        ("Charged", {}, "amount"),
    ]
    for name, args, lacks in cases:
        with pytest.raises(InvalidRequest, match=f"{name} .* lacks {lacks}"):
            ledger.apply_chain([event(name, 1, **args)])


def test_events_that_move_no_money_are_kept(ledger: Ledger) -> None:
    assert ledger.apply_chain([event("Paused", 1, account=ADDRESS)]) == 1
    assert ledger.head()[0] == 0
    assert [found.name for found in ledger.chain_events()] == ["Paused"]


def test_a_withdrawal_cannot_outrun_a_hold(ann: Ledger) -> None:
    hold(ann, 30)
    ann.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=100, total=100)])
    assert _has(ann) == (0, 70, 0)
    ann.release("h1")
    assert _has(ann) == (30, 70, 0)
    # More was asked for than was free; the contract has it all, and pays it.
    ann.apply_chain([event("Withdrawn", 3, user=ADDRESS, amount=100)])
    assert _has(ann) == (0, 0, 0)
    assert ann.accounts()["chain:escrow"] == 0


def test_a_withdrawal_is_reduced_by_a_charge_and_cancelled(ann: Ledger) -> None:
    ann.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=80, total=80)])
    ann.apply_chain([event("WithdrawalRequested", 3, user=ADDRESS, amount=10, total=90)])
    assert _has(ann) == (10, 90, 0)
    ann.apply_chain(
        [event("Charged", 4, user=ADDRESS, amount=40), event("WithdrawalReduced", 5, user=ADDRESS, amount=30, total=60)]
    )
    assert _has(ann) == (40, 60, 0)
    ann.apply_chain([event("WithdrawalCancelled", 6, user=ADDRESS, amount=60)])
    assert _has(ann) == (100, 0, 0)
    accounts = ann.accounts()
    assert (accounts["chain:escrow"], accounts["chain:settlement"]) == (-60, -40)


def test_the_contract_pays_what_is_there_and_forgets_the_rest(ann: Ledger) -> None:
    ann.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=100, total=100)])
    ann.apply_chain([event("Withdrawn", 3, user=ADDRESS, amount=70)])
    assert _has(ann) == (30, 0, 0)


def test_a_low_balance_is_told_when_money_leaves(ann: Ledger) -> None:
    from rios.billing.outbox import messages

    ann.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=85, total=85)])
    assert [message.payload["share_bp"] for message in messages(ann)] == [2_000]


def test_tokens_between_the_contracts(ann: Ledger) -> None:
    use(ann, 100)
    ann.close_epoch(PLATFORM)
    ann.apply_chain(
        [event("Charged", 2, user=ADDRESS, amount=100), event("Funded", 3, amount=7), event("Credited", 4, amount=5)]
    )
    ann.apply_chain([event("Claimed", 5, account=OWNERS[0].lower(), amount=90, cumulative=90)])
    ann.apply_chain([event("Claimed", 6, account=PLATFORM, amount=10, cumulative=10)])
    assert {name: wei for name, wei in ann.accounts().items() if wei} == {
        "chain:escrow": -5,
        "chain:settlement": -7,
        "treasury": 12,
    }
    assert ann.claimable() == {}


def test_more_claimed_than_promised_is_another_ledgers_contract(ann: Ledger) -> None:
    use(ann, 100)
    ann.close_epoch(PLATFORM)
    with pytest.raises(LedgerConflict, match="another ledger"):
        ann.apply_chain([event("Claimed", 2, account=OWNERS[0], amount=101, cumulative=101)], at_block(9))
    assert ann.cursor("main") == at_block(1)


def _state(ledger: Ledger) -> tuple[dict[str, int], dict[str, int]]:
    return {name: wei for name, wei in ledger.accounts().items() if wei}, ledger.claimable()


# What happened in block 5, and before it.
CASES: dict[str, tuple[Callable[[Ledger], object], ChainEvent]] = {
    "deposit": (lambda ledger: None, event("Deposited", 5, block=5, user=ADDRESS, amount=7)),
    "deposit, overdrawn": (
        lambda ledger: (use(ledger, 60), ledger.apply_chain([event("Withdrawn", 2, user=ADDRESS, amount=90)])),
        event("Deposited", 5, block=5, user=ADDRESS, amount=7),
    ),
    "request": (lambda ledger: None, event("WithdrawalRequested", 5, block=5, user=ADDRESS, amount=7, total=7)),
    "request, not all free": (
        lambda ledger: (
            hold(ledger, 60),
            ledger.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=30, total=30)]),
        ),
        event("WithdrawalRequested", 5, block=5, user=ADDRESS, amount=70, total=100),
    ),
    "reduction": (
        lambda ledger: ledger.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=90, total=90)]),
        event("WithdrawalReduced", 5, block=5, user=ADDRESS, amount=30, total=60),
    ),
    "cancel": (
        lambda ledger: ledger.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=90, total=90)]),
        event("WithdrawalCancelled", 5, block=5, user=ADDRESS, amount=90),
    ),
    "withdrawal": (
        lambda ledger: ledger.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=90, total=90)]),
        event("Withdrawn", 5, block=5, user=ADDRESS, amount=90),
    ),
    "withdrawal, overdrawn": (
        lambda ledger: (
            use(ledger, 60),
            ledger.apply_chain([event("WithdrawalRequested", 2, user=ADDRESS, amount=90, total=90)]),
        ),
        event("Withdrawn", 5, block=5, user=ADDRESS, amount=40),
    ),
    "charge": (lambda ledger: None, event("Charged", 5, block=5, user=ADDRESS, amount=7)),
    "credit": (lambda ledger: None, event("Credited", 5, block=5, user=ADDRESS, amount=7)),
    "funds": (lambda ledger: None, event("Funded", 5, block=5, amount=7)),
    "claim": (
        lambda ledger: (use(ledger, 60), ledger.close_epoch(PLATFORM)),
        event("Claimed", 5, block=5, account=OWNERS[0], amount=54),
    ),
    "claim of the platform": (
        lambda ledger: (use(ledger, 60, owner=PLATFORM), ledger.close_epoch(PLATFORM)),
        event("Claimed", 5, block=5, account=PLATFORM, amount=57),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reorganisation_takes_it_back_and_it_may_come_again(ann: Ledger, case: str) -> None:
    prepare, happened = CASES[case]
    prepare(ann)
    before = _state(ann)
    ann.apply_chain([happened], at_block(5))
    after = _state(ann)
    assert after != before
    for block in (6, 7):
        assert ann.revert_chain(5, at_block(4)) == 1
        assert _state(ann) == before
        assert ann.cursor("main") == at_block(4)
        assert ann.revert_chain(5, at_block(4)) == 0
        # The same log in another block.
        again = dataclasses.replace(happened, block=block, block_hash="0xother")
        assert ann.apply_chain([again], at_block(block)) == 1
        assert _state(ann) == after
        assert ann.apply_chain([again], at_block(block)) == 0
    assert [found.block for found in ann.chain_events(name=happened.name, from_block=5)] == [7]


def test_a_lost_deposit_that_was_spent_is_overdrawn(ann: Ledger) -> None:
    use(ann, 70)
    assert ann.revert_chain(1, at_block(0)) == 1
    assert _has(ann) == (0, 0, 70)
    ann.apply_chain([event("Deposited", 1, block=2, user=ADDRESS, amount=100)], at_block(2))
    assert _has(ann) == (30, 0, 0)


def _published(number: int, block: int, one: PriceBook, **said: str | int) -> ChainEvent:
    args: dict[str, str | int] = {"version": one.version, "digest": f"0x{one.digest}", "document": one.to_json()}
    return dataclasses.replace(event("PriceBookPublished", number, block=block), args=args | said)


def test_a_price_book_is_in_force_as_long_as_its_event_is_there(ann: Ledger) -> None:
    first, second = book(version=1, minimum_wei=7), book(version=1, minimum_wei=8)
    assert ann.price_book_at(ann.now()) is None
    ann.apply_chain([_published(11, 2, first)], at_block(2))
    assert ann.price_book_at(ann.now()) == first
    ann.revert_chain(2, at_block(1))
    assert ann.price_book_at(ann.now()) is None
    assert ann.price_book(first.digest) == first  # for what was rated by it
    ann.apply_chain([_published(12, 2, second)], at_block(2))
    assert ann.price_book_at(ann.now()) == second
    ann.revert_chain(2, at_block(1))
    ann.apply_chain([_published(11, 3, first)], at_block(3))
    assert ann.price_book_at(ann.now()) == first


@pytest.mark.parametrize("said", [{"version": 2}, {"digest": "0x12"}, {"document": "{}"}])
def test_an_event_that_says_another_thing_than_its_price_book_puts_nothing_in_force(
    ann: Ledger, said: dict[str, str | int], caplog: pytest.LogCaptureFixture
) -> None:
    assert ann.apply_chain([_published(11, 2, book(version=1), **said)], at_block(2)) == 1
    assert ann.price_book_at(ann.now()) is None
    assert "a published price book is not taken" in caplog.text
    assert ann.revert_chain(2, at_block(1)) == 1


def test_blocks_are_taken_back_newest_first(ann: Ledger) -> None:
    for number in range(2, 14):
        ann.apply_chain(
            [
                event("WithdrawalRequested", 2 * number, block=number, user=ADDRESS, amount=3, total=3),
                dataclasses.replace(event("Withdrawn", 2 * number, block=number, user=ADDRESS, amount=3), log_index=1),
            ],
            at_block(number),
        )
    assert _has(ann) == (64, 0, 0)
    assert ann.revert_chain(2, at_block(1)) == 24
    assert _has(ann) == (100, 0, 0)
