"""From use to payout on the embedded chain and on a node, and after a restart: everything agrees to the wei."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.billing.books import Line, PriceBook, Tier
from rios.billing.parameters import Change
from rios.billing.pricing import DEFAULT_BOOK
from rios.services.accounting import pinned_terms
from rios.services.moments import moment_of
from rios.services.stranger import check_file
from rios.words.config import settings
from rios.words.errors import (
    ChainMismatch,
    InvalidAmount,
    InvalidRequest,
    LedgerConflict,
    NotProvable,
    TransactionFailed,
)
from rios.words.money import WEI_PER_ROS, Wei, parse_ros
from tests.billing.chain.anvil import Anvil
from tests.services.earning import purse_of
from tests.services.places import PLACES, Place, place_of

PROMPT = "It was a fine morning,"


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture(scope="module")
def home(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def net(place: Place, home: Path) -> Iterator[rios.Network]:
    with rios.local(workers=2, threads=1, home=home, **place.options) as net:
        place.fund(net._purse, home)
        yield net


@pytest.fixture(scope="module")
def model(net: rios.Network) -> Any:
    return net.dmoe.deploy("demo", replicas=2, progress=False)


def states(proof: Any) -> dict[str, str]:
    return {link.name: link.state for link in proof.links}


def test_who_has_used_nothing_settles_nothing(tmp_path: Path) -> None:
    with purse_of(home=tmp_path) as purse:
        assert purse.billing.settle() is None
        assert purse.billing.reconcile().sound


def test_the_whole_way(net: rios.Network, model: Any, tmp_path: Path) -> None:
    assert net.wallet.on_chain == 1000 * WEI_PER_ROS
    net.wallet.deposit("25 ROS")
    assert (net.wallet.deposited, net.wallet.on_chain) == (25 * WEI_PER_ROS, 975 * WEI_PER_ROS)
    answer = model.generate(PROMPT, max_new_tokens=20)
    rows = net.billing.usage(request_id=answer.request_id)
    usage_id = rows.usage_id[0]
    early = net.billing.prove(usage_id)
    assert early.verified
    assert states(early) == {
        "usage": "ok", "price": "ok", "posting": "ok", "leaf": "pending", "root": "pending", "payout": "pending",
    }  # fmt: skip
    with pytest.raises(NotProvable, match="settle"):
        net.billing.export(usage_id, tmp_path / "early.json")
    settled = net.billing.settle()
    assert settled is not None
    assert net.billing.settle() == settled
    assert settled.total_wei == sum(rows.amount_wei)
    assert net.billing.reconcile().sound
    proof = net.billing.prove(usage_id)
    assert proof.verified
    assert states(proof)["payout"] == "pending"
    earned = net.earnings.now
    assert earned.claimable_wei == earned.earned_wei > 0
    before = net.wallet.on_chain
    assert net.earnings.claim() == earned.claimable_wei
    assert net.wallet.on_chain == before + earned.claimable_wei
    assert net.earnings.claim() == 0
    assert net.earnings.now.claimed_wei == earned.earned_wei
    assert set(states(net.billing.prove(usage_id)).values()) == {"ok"}
    assert net.billing.reconcile().difference_wei == 0
    # Nine tenths are the workers', each record rounded down in the user's favour.
    assert abs(settled.total_wei * 9 - earned.earned_wei * 10) <= 10 * len(rows)


def test_a_stranger_verifies_with_file_and_chain_alone(
    place: Place, net: rios.Network, model: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = None if place.node is None else place.node.url
    answer = model.generate(PROMPT, max_new_tokens=5)
    net.billing.settle()
    file = net.billing.export(net.billing.usage(request_id=answer.request_id).usage_id[0], tmp_path / "proof.json")
    monkeypatch.setenv("RIOS_HOME", str(home))
    settings.cache_clear()
    try:
        assert {link.state for link in check_file(file, url)} <= {"ok", "pending"}
        document = json.loads(file.read_text())
        document["charges"][0]["record"]["quantity"] = "999999"
        file.write_text(json.dumps(document))
        assert "failed" in {link.state for link in check_file(file, url)}
        file.write_text("[]")
        assert [link.state for link in check_file(file, url)] == ["failed"]
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_what_was_deposited_comes_back_and_trial_credit_does_not(place: Place, net: rios.Network, model: Any) -> None:
    net.wallet.deposit("3 ROS")
    deposited, on_chain = net.wallet.deposited, net.wallet.on_chain
    model.generate(PROMPT, max_new_tokens=3)
    net.wallet.withdraw("2 ROS")
    delay_s = net._purse.settlement.chain.withdrawal_delay_s
    assert (delay_s > 0) is (place.node is not None)
    if delay_s:
        assert net.wallet.on_chain == on_chain
        with pytest.raises(TransactionFailed):
            net.wallet.finish_withdrawal()
        place.advance(net._purse, delay_s)
        net.wallet.finish_withdrawal()
    assert net.wallet.on_chain == on_chain + 2 * WEI_PER_ROS
    assert net.wallet.deposited == deposited - 2 * WEI_PER_ROS
    with pytest.raises(InvalidRequest, match="can be withdrawn"):
        net.wallet.withdraw(net.wallet.deposited + 1)
    assert net.billing.reconcile().sound


def test_what_is_moved_again_by_its_key_is_moved_once(net: rios.Network) -> None:
    before = net.wallet.on_chain
    for _ in range(2):
        net.wallet.deposit("2 ROS", key="cell 7")
        assert net.wallet.on_chain == before - 2 * WEI_PER_ROS
    with pytest.raises(LedgerConflict):
        net.wallet.deposit("3 ROS", key="cell 7")
    assert net.wallet.on_chain == before - 2 * WEI_PER_ROS


@pytest.mark.parametrize("amount", ["0 ROS", "2000 ROS", "-1", "nothing", 1.5, True])
def test_bad_amounts_move_nothing(net: rios.Network, amount: Any) -> None:
    before = net.wallet.on_chain, net.wallet.deposited
    with pytest.raises((InvalidAmount, InvalidRequest)):
        net.wallet.deposit(amount)
    assert (net.wallet.on_chain, net.wallet.deposited) == before


def test_a_refund_after_its_epoch_lowers_no_cumulative_sum(net: rios.Network, model: Any) -> None:
    answer = model.generate(PROMPT, max_new_tokens=10)
    settled = net.billing.settle()
    assert settled is not None
    usage = net.billing.usage(request_id=answer.request_id)
    leaves = net._purse.books.ledger.leaves(settled.epoch)
    before = net.billing.balance.wei
    note = net.billing.refund(usage.usage_id[0], "wrong model")
    assert net.billing.balance.wei == before + note.amount_wei
    model.generate(PROMPT, max_new_tokens=20)
    again = net.billing.settle()
    assert again is not None
    after = net._purse.books.ledger.leaves(again.epoch)
    assert all(after[account] >= amount for account, amount in leaves.items())
    assert net.billing.reconcile().sound


def test_the_use_of_deposits_is_charged_to_the_escrow(net: rios.Network, model: Any) -> None:
    """With the trial credit used up, the escrow's own balance of the user pays."""
    ledger = net._purse.books.ledger
    chain = net._purse.settlement.chain
    trial = net.billing.balance.trial_wei
    hold = ledger.hold("all-of-it", "local", trial, request_id="all", terms=net._purse.charging.terms({}))
    net.wallet.deposit("1 ROS")
    answer = model.generate(PROMPT, max_new_tokens=5)
    spent = sum(net.billing.usage(request_id=answer.request_id).amount_wei)
    before = chain.read("RiosEscrow", "balanceOf", net.wallet.address)
    net.billing.settle()
    assert chain.read("RiosEscrow", "balanceOf", net.wallet.address) == before - spent
    assert net.billing.reconcile().sound
    ledger.release(hold.id)


def test_another_process_with_the_same_home_finds_everything(place: Place, net: rios.Network, home: Path) -> None:
    found = net.wallet.address, net.wallet.on_chain, net.wallet.deposited
    with purse_of(home=home, **place.options) as purse:
        assert (purse.wallet.address, purse.wallet.on_chain, purse.wallet.deposited) == found
        assert purse.billing.reconcile().sound


@pytest.fixture(scope="module")
def book(place: Place, net: rios.Network) -> PriceBook:
    """Of tiers and a minimum, in force by a vote."""
    governance = net.governance
    tiered = Line("token", 1, (Tier(30, Wei(10**11)), Tier(None, Wei(10**10))))
    found = dataclasses.replace(
        DEFAULT_BOOK,
        version=1,
        minimum_wei=parse_ros("0.0001 ROS"),
        lines={**DEFAULT_BOOK.lines, "tokens_in": tiered, "tokens_out": tiered},
    )
    with pytest.raises(InvalidRequest, match="next one"):
        governance.propose(dataclasses.replace(found, version=7))
    governance.propose(found)
    place.mine(2)
    governance.vote(found)
    assert net.billing.price_book.version == DEFAULT_BOOK.version
    place.mine(11)
    assert governance.execute(found).state == "executed"
    return found


def test_votes_change_the_price_book(place: Place, net: rios.Network, book: PriceBook) -> None:
    governance = net.governance
    assert net.billing.price_book == book
    lost = dataclasses.replace(book, version=2)
    governance.propose(lost)
    place.mine(2)
    governance.vote(lost, "against")
    place.mine(11)
    with pytest.raises(TransactionFailed, match="is defeated"):
        governance.execute(lost)
    assert net.billing.price_book == book


def test_tiers_and_discounts_hold_all_the_way(
    place: Place,
    net: rios.Network,
    model: Any,
    book: PriceBook,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the book that was voted on: in the proof, in the sum of all books, and for a stranger."""
    ledger = net._purse.books.ledger
    model.generate(PROMPT, max_new_tokens=40)
    now = ledger.now()
    net.billing.grant_discount("research", since=moment_of(now))
    answer = model.generate(PROMPT, max_new_tokens=20)
    rows = {row.line: row for row in ledger.usage(request_id=answer.request_id)}
    (hold,) = {row.hold_id for row in rows.values()}
    terms = pinned_terms(ledger, hold)
    assert (terms.book, terms.discount) == (book, "research")
    assert terms.before["tokens_out"] >= 40
    token = rows["tokens_out"]
    assert token.amount_wei == 20 * 10**10 * 8 // 10
    assert (token.discount, token.discount_wei) == ("research", 20 * 10**10 * 2 // 10)
    net.billing.grant_discount("research", since=moment_of(now), until=moment_of(now))
    net.billing.settle()
    assert net.billing.reconcile().difference_wei == 0
    proof = net.billing.prove(token.usage_id)
    assert proof.verified
    assert "less by discount research" in {link.name: link.reason for link in proof.links}["price"]
    file = net.billing.export(token.usage_id, tmp_path / "proof.json")
    monkeypatch.setenv("RIOS_HOME", str(home))
    settings.cache_clear()
    try:
        url = None if place.node is None else place.node.url
        assert {link.state for link in check_file(file, url)} <= {"ok", "pending"}
        document = json.loads(file.read_text())
        for terms_said in document["terms"]:
            terms_said["discount"] = None
        file.write_text(json.dumps(document))
        assert "failed" in {link.state for link in check_file(file, url)}
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_votes_set_parameters(place: Place, net: rios.Network) -> None:
    """Of the network, which all processes follow and which wins over what they are set to, and of voting."""
    governance = net.governance
    before = {one.name: one for one in governance.parameters()}
    assert (before["payout_min_wei"].value, before["payout_min_wei"].by) == (WEI_PER_ROS, "setting")
    assert (before["voting_period_blocks"].value, before["voting_period_blocks"].by) == (10, "contract")
    assert {name for name, one in before.items() if one.by == "fixed"} == {
        "challenge_window_s", "withdrawal_delay_s", "unbonding_delay_s", "cap_wei",
    }  # fmt: skip
    with pytest.raises(TransactionFailed, match="never proposed"):
        governance.vote(Change("payout_min_wei", 5))

    changes = {
        "payout_min_wei": 5, "hold_grace_s": 77, "voting_period_blocks": 9, "proposal_threshold_wei": 3,
    }  # fmt: skip
    for name, value in changes.items():
        assert {one.name: one.by for one in net.billing.parameters}.get(name, "setting") == "setting"
        _voted(place, net, Change(name, value))
    now = {one.name: one for one in governance.parameters()}
    assert {name: now[name].value for name in changes} == changes
    assert {one.name: (one.value, one.by) for one in net.billing.parameters} == {
        "payout_min_wei": (5, "vote"), "epoch_interval_s": (None, "setting"), "hold_grace_s": (77, "vote"),
    }  # fmt: skip
    assert net._purse.books.payout_min_wei == 5
    assert net._purse.charging.grace_now_s() == 77.0

    # A vote that is over can be held again, and 0 leaves it to each process.
    for change in (Change("hold_grace_s", 0), Change("hold_grace_s", 77), Change("hold_grace_s", 0)):
        _voted(place, net, change)
    assert net._purse.charging.grace_now_s() == 3600.0
    assert {one.name: (one.value, one.by) for one in net.billing.parameters}["hold_grace_s"] == (3600.0, "setting")


def _voted(place: Place, net: rios.Network, change: Change) -> None:
    """Propose, vote, execute."""
    governance = net.governance
    begun = governance.propose(change)
    assert governance.propose(change).id == begun.id, "the same again is the same one while it is voted on"
    place.mine(2)
    assert governance.vote(change).id == begun.id
    place.mine(11)
    done = governance.execute(change)
    assert (done.id, done.state) == (begun.id, "executed")


def test_the_timelock_keeps_what_has_won(place: Place, net: rios.Network) -> None:
    governance = net.governance
    for change in (Change("timelock_delay_s", 3000), Change("quorum_percent", 3)):
        governance.propose(change)
        place.mine(2)
        governance.vote(change)
        place.mine(11)
        if change.name == "quorum_percent" and place.node is not None:
            with pytest.raises(TransactionFailed, match="the timelock keeps proposal"):
                governance.execute(change)
            assert governance.proposal(change).state == "queued"
            place.advance(net._purse, 3001)
        assert governance.execute(change).state == "executed"
    assert {one.name: one.value for one in governance.parameters()}["quorum_percent"] == 3


def test_another_chain_is_refused(place: Place, home: Path, tmp_path: Path) -> None:
    """The home says which contracts are the network's, and the chain that it finds has none."""
    copy = tmp_path / "home"
    copy.mkdir()
    shutil.copy(home / "contracts.json", copy)
    options = dict(place.options)
    with contextlib.ExitStack() as stack:
        if place.node is not None:
            other = Anvil(tmp_path / "anvil.json")
            stack.callback(other.kill)
            options["chain"] = other.url
        purse = stack.enter_context(purse_of(home=copy, **options))
        with pytest.raises(ChainMismatch, match=r"no \w+ at"):
            purse.billing.reconcile()


def test_a_restart_finds_everything_as_it_was(tmp_path: Path) -> None:
    with purse_of(home=tmp_path) as purse:
        purse.wallet.deposit("7 ROS")
        found = purse.wallet.address, purse.wallet.on_chain, purse.wallet.deposited
    with purse_of(home=tmp_path) as purse:
        assert (purse.wallet.address, purse.wallet.on_chain, purse.wallet.deposited) == found
        assert purse.billing.reconcile().sound
