"""Owners are paid once enough is due: in chunks, by final roots alone, and once whatever happens between."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.billing.chain.sender import Sender
from rios.billing.ledger.values import EpochState
from rios.services import settlement
from rios.services.network_chain import NetworkChain
from rios.services.payouts import CLAIMS_PER_CALL, chunks_of
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable, InvalidAmount
from rios.words.ids import Address
from rios.words.money import WEI_PER_ROS
from tests.billing.ledger.work import TERMS, charge
from tests.services.earning import earn, owner, purse_of
from tests.services.places import PLACES, Place, place_of

ANN, BOB, CAROL, DAVE = (owner(number) for number in range(0xA1, 0xA5))
HALF = WEI_PER_ROS // 2
WINDOW_S = 600


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture(scope="module")
def purse(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purse]:
    with place.purse(tmp_path_factory.mktemp("home")) as purse:
        yield purse


def state_of(purse: Purse, number: int) -> EpochState:
    epoch = purse.books.ledger.epoch(number)
    assert epoch is not None
    return epoch.state


def has(purse: Purse, who: Address) -> int:
    return purse.settlement.chain.tokens_of(who)


def test_nothing_is_due_before_anything_was_earned(purse: Purse) -> None:
    assert not purse.billing.pay_out().paid


def test_who_is_due_enough_is_paid_and_who_is_not_may_claim(purse: Purse) -> None:
    earn(purse, "first", {ANN: WEI_PER_ROS, BOB: WEI_PER_ROS - 1, CAROL: HALF})
    purse.billing.settle()
    done = purse.billing.pay_out()
    assert (dict(done.paid), done.total_wei, len(done.txs)) == ({ANN: WEI_PER_ROS}, WEI_PER_ROS, 1)
    assert not purse.billing.pay_out().paid
    assert purse.earnings.of(CAROL).claim() == HALF == has(purse, CAROL)
    earn(purse, "second", {BOB: 1, CAROL: HALF})
    assert not purse.billing.pay_out().paid  # no root promises it yet
    purse.billing.settle()
    assert dict(purse.billing.pay_out().paid) == {BOB: WEI_PER_ROS}
    assert dict(purse.billing.pay_out("0.5 ROS").paid) == {CAROL: HALF}
    assert [has(purse, who) for who in (ANN, BOB, CAROL)] == [WEI_PER_ROS] * 3
    assert purse.billing.reconcile().sound


def test_gifts_to_the_contracts_disturb_no_reconciliation(purse: Purse) -> None:
    chain = purse.settlement.chain
    for name, holder in (("escrow", chain.addresses.escrow), ("settlement", chain.addresses.settlement)):
        chain.as_wallet(f"gift:{name}", "RosToken", "transfer", holder, 7)
    chain.confirm()
    # Owners who announce a contract of ours earn for it: their tokens come back to where no user's deposit is.
    earn(purse, "contracts", {chain.addresses.escrow: 30, chain.addresses.settlement: 40})
    purse.billing.settle()
    assert purse.earnings.of(chain.addresses.escrow).claim() == 30
    assert purse.earnings.of(chain.addresses.settlement).claim() == 40
    found = purse.billing.reconcile()
    assert found.sound, found


def test_the_platform_is_paid_like_an_owner(purse: Purse) -> None:
    ledger = purse.books.ledger
    ledger.hold("shared", "local", 100, request_id="shared", terms=TERMS)
    ledger.settle("shared", [charge(100, request_id="shared", owner=DAVE)])
    purse.billing.settle()
    assert dict(purse.billing.pay_out(1).paid) == {DAVE: 90, purse.settlement.chain.platform: 10}
    assert not purse.billing.pay_out(1).paid
    assert purse.billing.reconcile().sound


def test_nobody_is_not_paid_and_holds_up_none(purse: Purse) -> None:
    """The token refuses transfers to the zero address: a chunk with it in would pay none of its owners."""
    earn(purse, "nobodys", {owner(0): 7, owner(0xB1): 5})
    purse.billing.settle()
    assert dict(purse.billing.pay_out(1).paid) == {owner(0xB1): 5}


@pytest.mark.parametrize("least", ["-1", "much", 0.5, True])
def test_a_threshold_is_an_amount(purse: Purse, least: Any) -> None:
    with pytest.raises(InvalidAmount):
        purse.billing.pay_out(least)


def test_a_threshold_is_a_setting() -> None:
    with purse_of(payout_min="2 wei") as purse:
        assert purse.books.payout_min_wei == 2
    with purse_of(payout_min="some") as purse, pytest.raises(InvalidAmount, match="RIOS_PAYOUT_MIN"):
        purse.billing.pay_out()


def test_many_owners_are_paid_in_chunks(purse: Purse) -> None:
    many = {owner(0x10_0000 + number): 100 + number for number in range(CLAIMS_PER_CALL + 1)}
    earn(purse, "many", many)
    purse.billing.settle()
    done = purse.billing.pay_out(1)
    assert dict(done.paid) == many
    assert len(done.txs) == 2
    assert all(has(purse, who) == wei for who, wei in list(many.items())[::50])
    assert purse.billing.reconcile().sound


class Killed(BaseException):
    """The end of a process."""


def killed_at(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process between two chunks, or between keeping the intent of one and sending it."""
    chunks = 0
    act, pump = NetworkChain.as_operator, Sender.pump

    def as_operator(self: NetworkChain, key: str, *arguments: Any, **more: Any) -> Any:
        nonlocal chunks
        chunks += key.startswith("payout:")
        if chunks == 2 and which == "between":
            raise Killed
        return act(self, key, *arguments, **more)

    def pumped(self: Sender) -> Any:
        if chunks == 2:
            raise Killed
        return pump(self)

    monkeypatch.setattr(NetworkChain, "as_operator", as_operator)
    if which == "kept":
        monkeypatch.setattr(Sender, "pump", pumped)


@pytest.mark.parametrize("which", ["between", "kept"])
def test_a_process_that_ends_between_chunks_repeats_and_forgets_nothing(
    which: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "chunks_of", functools.partial(chunks_of, size=2))
    owners = {owner(0xC0 + number): 1000 + number for number in range(5)}
    with place.purse(tmp_path) as purse:
        earn(purse, "first", owners)
        purse.billing.settle()
        with monkeypatch.context() as patched:
            killed_at(which, patched)
            with pytest.raises(Killed):
                purse.billing.pay_out(1)
        assert sum(has(purse, who) for who in owners) == purse.settlement.chain.total_claimed() > 0
    with place.purse(tmp_path) as purse:
        purse.billing.pay_out(1)
        assert {who: has(purse, who) for who in owners} == owners
        assert not purse.billing.pay_out(1).paid
        assert purse.settlement.chain.total_claimed() == sum(owners.values())
        assert purse.billing.reconcile().sound


def test_a_claim_that_was_kept_and_not_sent_is_made_once(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain goes away after the intent was kept; once it is back, the next epoch has another proof of the sum."""
    late = owner(0xD1)
    earn(purse, "late", {late: 11})
    purse.billing.settle()

    def away(self: Sender) -> Any:
        raise ChainUnavailable("the node is away")

    with monkeypatch.context() as patched:
        patched.setattr(Sender, "pump", away)
        with pytest.raises(ChainUnavailable):
            purse.earnings.of(late).claim()
    earn(purse, "meanwhile", {owner(0xD2): 13})
    purse.billing.settle()
    purse.earnings.of(late).claim()
    assert has(purse, late) == 11
    assert purse.earnings.of(late).claim() == 0
    assert purse.billing.reconcile().sound


def test_while_a_root_can_be_challenged_nothing_is_paid_by_it_and_use_waits(place: Place, tmp_path: Path) -> None:
    with place.purse(tmp_path, challenge_window_s=WINDOW_S) as purse:
        earn(purse, "first", {ANN: 100})
        settled = purse.billing.settle()
        assert settled is not None
        assert (settled.epoch, settled.final, state_of(purse, 1)) == (1, False, EpochState.POSTED)
        earn(purse, "second", {ANN: 10, BOB: 20})
        assert purse.billing.settle() == settled
        assert not purse.billing.pay_out(1).paid
        assert purse.earnings.of(ANN).claim() == 0
        now = purse.earnings.of(ANN).now
        assert (now.earned_wei, now.claimable_wei, now.pending_wei) == (110, 0, 110)
        assert purse.billing.reconcile().sound
        place.advance(purse, WINDOW_S)
        purse.settlement.sync()
        assert state_of(purse, 1) == EpochState.FINAL
        assert purse.earnings.of(ANN).now.claimable_wei == 100
        second = purse.billing.settle()
        assert second is not None
        assert (second.epoch, second.total_wei, second.final) == (2, 130, False)
        # The root before is still good for what it promises.
        assert purse.earnings.of(ANN).now.claimable_wei == 100
        assert dict(purse.billing.pay_out(1).paid) == {ANN: 100}
        assert not purse.billing.pay_out(1).paid
        place.advance(purse, WINDOW_S)
        third = purse.billing.settle()
        assert third is not None
        assert (third.epoch, third.root, third.final) == (2, second.root, True)
        assert dict(purse.billing.pay_out(1).paid) == {ANN: 10, BOB: 20}
        assert purse.billing.reconcile().sound


def test_a_root_that_was_challenged_is_posted_again_by_who_settles(place: Place, tmp_path: Path) -> None:
    with place.purse(tmp_path, challenge_window_s=WINDOW_S) as purse:
        chain = purse.settlement.chain
        earn(purse, "first", {ANN: 100})
        first = purse.billing.settle()
        chain.as_operator("challenge", "RiosSettlement", "challenge", 1, b"it looks odd")
        purse.settlement.sync()
        assert state_of(purse, 1) == EpochState.CHALLENGED
        assert purse.settlement.challenged
        again = purse.billing.settle()
        assert first is not None
        assert again is not None
        assert (again.epoch, again.root) == (1, first.root)
        assert again.tx != first.tx
        assert state_of(purse, 1) == EpochState.POSTED
        place.advance(purse, WINDOW_S)
        assert dict(purse.billing.pay_out(1).paid) == {ANN: 100}
        assert state_of(purse, 1) == EpochState.FINAL
        assert purse.billing.reconcile().sound
