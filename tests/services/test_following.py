"""The chain is followed though nobody asks for money: what others do on it is seen, and no money outruns a charge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from rios.billing.ledger import Ledger, withdrawals
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.values import Epoch, EpochState
from rios.billing.ledger.withdrawals import Asked
from rios.services.books import LOCAL_USER
from rios.services.network_chain import NetworkChain
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable, LedgerUnavailable
from rios.words.money import WEI_PER_ROS
from tests import waiting
from tests.billing.ledger.work import TERMS
from tests.services.earning import earn, owner, purse_of
from tests.services.places import PLACES, Place, place_of

GUEST, ADDRESS = "guest", owner(0xC3)
until = partial(waiting.until, deadline_s=60.0)


def give(purse: Purse, wei: int) -> None:
    """A deposit for somebody else, which nobody here waits for."""
    chain = purse.settlement.chain
    chain.as_wallet(f"approve {wei}", "RosToken", "approve", chain.addresses.escrow, wei)
    chain.as_wallet(f"give {wei}", "RiosEscrow", "depositFor", ADDRESS, wei)


def test_deposits_of_others_are_seen_and_no_chain_is_begun_for_it(tmp_path: Path) -> None:
    with purse_of(home=tmp_path, background=True, chain_look_s=0.01) as purse:
        purse.follower.look()
        assert purse.books.started_chain is None
        ledger = purse.books.ledger
        ledger.link_address(GUEST, ADDRESS)
        give(purse, 3)
        until(lambda: ledger.balance(GUEST).deposited_wei == 3, "the deposit")


def test_a_root_that_was_challenged_is_not_posted_again_for_a_withdrawal(caplog: pytest.LogCaptureFixture) -> None:
    with purse_of(challenge_window_s=60) as purse:
        chain, ledger = purse.settlement.chain, purse.books.ledger
        ledger.hold("saved", LOCAL_USER, ledger.balance(LOCAL_USER).trial_wei, request_id="saved", terms=TERMS)
        purse.wallet.deposit("10 ROS")
        earn(purse, "first", {owner(1): 4 * WEI_PER_ROS})
        purse.billing.settle()
        chain.as_operator("challenge", "RiosSettlement", "challenge", 1, b"it looks odd")
        earn(purse, "second", {owner(1): WEI_PER_ROS})
        chain.as_wallet("straight", "RiosEscrow", "requestWithdrawal", 6 * WEI_PER_ROS)
        for _ in range(2):
            purse.follower.look()
        assert [epoch.state for epoch in ledger.epochs()] == [EpochState.CHALLENGED]
        assert sum("the last root was challenged" in one.message for one in caplog.records) == 1
        purse.billing.settle()  # whoever does has looked at it
        assert [epoch.state for epoch in ledger.epochs()] == [EpochState.POSTED]


def fails_at_the_next_span(purse: Purse, patch: pytest.MonkeyPatch) -> None:
    """The node goes away after events were taken."""
    follow = NetworkChain.follow

    def fails(chain: NetworkChain, ledger: Ledger) -> int:
        follow(chain, ledger)
        raise ChainUnavailable("the node went away")

    with patch.context() as away:
        away.setattr(NetworkChain, "follow", fails)
        purse.follower.look()


def fails_in_the_ledger(purse: Purse, patch: pytest.MonkeyPatch) -> None:
    """The database goes away after events were taken."""

    def fails(ledger: Ledger) -> list[Asked]:
        raise LedgerUnavailable("it is away")

    with patch.context() as away:
        away.setattr(Ledger, "set_aside", fails)
        purse.follower.look()


def is_taken_by_another(purse: Purse, _: pytest.MonkeyPatch) -> None:
    """Another gateway has taken the events, and is no more."""
    purse.settlement.chain.follow(purse.books.ledger)


@pytest.mark.parametrize("missed", [fails_at_the_next_span, fails_in_the_ledger, is_taken_by_another])
def test_a_withdrawal_whose_event_was_taken_elsewhere_is_set_aside(
    missed: Callable[[Purse, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with purse_of() as purse:
        chain, ledger = purse.settlement.chain, purse.books.ledger
        trial = ledger.balance(LOCAL_USER).trial_wei
        purse.wallet.deposit("3 ROS")
        purse.follower.look()  # no withdrawal waits
        ledger.hold("short", LOCAL_USER, trial + 2 * WEI_PER_ROS, request_id="short", terms=TERMS)
        chain.as_wallet("straight", "RiosEscrow", "requestWithdrawal", 3 * WEI_PER_ROS)
        missed(purse, monkeypatch)
        assert ledger.balance(LOCAL_USER).withdrawing_wei == WEI_PER_ROS
        looked = ledger.set_aside()
        assert [(one.user, one.total_wei, one.short_wei) for one in looked] == [
            (LOCAL_USER, 3 * WEI_PER_ROS, 2 * WEI_PER_ROS)
        ]
        ledger.release("short")
        purse.follower.look()
        assert ledger.balance(LOCAL_USER).withdrawing_wei == 3 * WEI_PER_ROS


def test_who_posts_does_not_wait_for_withdrawals_of_which_nothing_can_be_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with purse_of() as purse:
        chain, ledger = purse.settlement.chain, purse.books.ledger
        trial = ledger.balance(LOCAL_USER).trial_wei
        purse.wallet.deposit("3 ROS")
        ledger.hold("short", LOCAL_USER, trial + 2 * WEI_PER_ROS, request_id="short", terms=TERMS)
        chain.as_wallet("straight", "RiosEscrow", "requestWithdrawal", 3 * WEI_PER_ROS)
        purse.follower.look()
        written: list[int] = []
        set_aside = withdrawals.set_aside

        def writes(batch: Batch, *, at: int) -> list[Asked]:
            written.append(at)
            return set_aside(batch, at=at)

        monkeypatch.setattr(withdrawals, "set_aside", writes)
        for _ in range(2):
            purse.follower.look()
        assert not written
        ledger.release("short")
        for _ in range(2):
            purse.follower.look()
        assert len(written) == 1
        assert ledger.balance(LOCAL_USER).withdrawing_wei == 3 * WEI_PER_ROS


def test_a_root_is_not_taken_for_lost_before_the_chain_is_followed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with purse_of(challenge_window_s=60) as purse:
        settlement, ledger = purse.settlement, purse.books.ledger
        settlement.sync()
        earn(purse, "used", {owner(1): 5})
        mark = Ledger.mark_epoch
        seen: list[EpochState] = []

        def marked(self: Ledger, number: int, state: EpochState, *, tx: str | None = None) -> Epoch:
            found = mark(self, number, state, tx=tx)
            if state is EpochState.POSTED:
                settlement._mature()  # as another gateway does, which has not followed the chain so far
                seen.extend(epoch.state for epoch in ledger.epochs())
            return found

        monkeypatch.setattr(Ledger, "mark_epoch", marked)
        purse.billing.settle()
        assert seen == [EpochState.POSTED]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_of("anvil", tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def purse(place: Place, home: Path) -> Iterator[Purse]:
    """With no trial credit to live on."""
    with place.purse(home) as found:
        found.settlement.sync()  # it begins
        ledger = found.books.ledger
        ledger.hold("saved", LOCAL_USER, ledger.balance(LOCAL_USER).trial_wei, request_id="saved", terms=TERMS)
        yield found


class TestOnANode:
    """One whose escrow delays withdrawals."""

    pytestmark = PLACES[1].marks  # type: ignore[attr-defined]

    def test_a_node_with_the_contracts_is_followed_from_the_start(self, place: Place, purse: Purse, home: Path) -> None:
        purse.books.ledger.link_address(GUEST, ADDRESS)
        give(purse, 5)
        with purse_of(home=home, background=True, chain_look_s=0.05, **place.options) as other:
            until(lambda: other.books.ledger.balance(GUEST).deposited_wei == 5, "the deposit")

    def test_events_are_taken_while_somebody_else_has_the_turn(self, purse: Purse) -> None:
        ledger = purse.books.ledger
        before = ledger.balance(GUEST).deposited_wei
        give(purse, 9)
        with purse.settlement.turn(), ThreadPoolExecutor(1) as pool:
            pool.submit(purse.follower.look).result(60)
            assert ledger.balance(GUEST).deposited_wei == before + 9

    def test_tokens_that_nobody_asked_for_are_no_difference(self, purse: Purse) -> None:
        chain = purse.settlement.chain
        for name, holder in (("escrow", chain.addresses.escrow), ("settlement", chain.addresses.settlement)):
            chain.as_wallet(f"dust for the {name}", "RosToken", "transfer", holder, 7)
        found = purse.billing.reconcile()
        assert (found.difference_wei, found.sound) == (0, True)

    def test_a_node_without_contracts_gets_none(self, place: Place, tmp_path: Path) -> None:
        with purse_of(home=tmp_path, **place.options) as purse:
            purse.follower.look()
            assert purse.books.started_chain is None

    def test_what_was_used_is_charged_before_a_withdrawal_from_elsewhere_is_paid(
        self, place: Place, purse: Purse
    ) -> None:
        chain, ledger = purse.settlement.chain, purse.books.ledger
        purse.wallet.deposit("10 ROS")
        earn(purse, "used", {owner(1): 4 * WEI_PER_ROS})
        ledger.hold("running", LOCAL_USER, 2 * WEI_PER_ROS, request_id="running", terms=TERMS)
        on_chain = purse.wallet.on_chain
        chain.as_wallet("straight", "RiosEscrow", "requestWithdrawal", 10 * WEI_PER_ROS)
        purse.follower.look()
        balance = ledger.balance(LOCAL_USER)
        assert (balance.deposited_wei, balance.withdrawing_wei) == (0, 4 * WEI_PER_ROS)
        assert ledger.epochs()[-1].total_wei == 4 * WEI_PER_ROS
        asked, _ = chain.read("RiosEscrow", "pendingWithdrawal", purse.wallet.address)
        assert asked == 6 * WEI_PER_ROS
        ledger.release("running")
        purse.follower.look()
        balance = ledger.balance(LOCAL_USER)
        assert (balance.deposited_wei, balance.withdrawing_wei) == (0, 6 * WEI_PER_ROS)  # nobody can spend it any more
        place.advance(purse, chain.withdrawal_delay_s)
        purse.wallet.finish_withdrawal()
        assert purse.wallet.on_chain == on_chain + 6 * WEI_PER_ROS
        assert ledger.balance(LOCAL_USER).overdrawn_wei == 0
        assert purse.billing.reconcile().sound

    def test_what_waits_is_free_again_when_the_request_is_taken_back(self, purse: Purse) -> None:
        chain, ledger = purse.settlement.chain, purse.books.ledger
        purse.wallet.deposit("3 ROS")
        ledger.hold("short", LOCAL_USER, 2 * WEI_PER_ROS, request_id="short", terms=TERMS)
        chain.as_wallet("once more", "RiosEscrow", "requestWithdrawal", 3 * WEI_PER_ROS)
        purse.follower.look()
        ledger.release("short")
        purse.follower.look()
        assert ledger.balance(LOCAL_USER).withdrawing_wei == 3 * WEI_PER_ROS
        purse.wallet.cancel_withdrawal()
        assert ledger.balance(LOCAL_USER).deposited_wei == 3 * WEI_PER_ROS
        purse.follower.look()
        assert ledger.balance(LOCAL_USER).deposited_wei == 3 * WEI_PER_ROS
