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
from rios.billing.pricing import DEFAULT_BOOK
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
from rios.words.money import WEI_PER_ROS, parse_ros
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


def test_votes_change_the_price_book(place: Place, net: rios.Network) -> None:
    governance = net.governance
    book = dataclasses.replace(DEFAULT_BOOK, version=1, minimum_wei=parse_ros("0.0001 ROS"))
    with pytest.raises(InvalidRequest, match="next one"):
        governance.propose(dataclasses.replace(book, version=7))
    governance.propose(book)
    place.mine(2)
    governance.vote(book)
    assert net.billing.price_book.version == DEFAULT_BOOK.version
    place.mine(11)
    assert governance.execute(book).state == "executed"
    assert net.billing.price_book == book
    lost = dataclasses.replace(book, version=2)
    governance.propose(lost)
    place.mine(2)
    governance.vote(lost, "against")
    place.mine(11)
    with pytest.raises(TransactionFailed, match="is defeated"):
        governance.execute(lost)
    assert net.billing.price_book == book


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
