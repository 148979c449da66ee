"""What a `Network` promises of money, in this process and through a gateway: each case runs on all ways."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rios.billing.books import PriceBook
from rios.billing.parameters import Change
from rios.billing.verify import verified, verify
from rios.words.errors import (
    BudgetExceeded,
    InvalidAmount,
    InvalidRequest,
    LedgerConflict,
    NotProvable,
    PriceBookError,
    TransactionFailed,
)
from rios.words.money import WEI_PER_ROS
from tests.client.conftest import Both
from tests.waiting import until

PROMPT = "It was a fine morning,"


@pytest.fixture(scope="module")
def used(model: Any) -> Any:
    """A request of the network, in each way its own."""
    return model.generate(PROMPT, max_new_tokens=5)


def test_deposits_and_withdrawals(network: Any) -> None:
    before, outside = network.wallet.balance, network.wallet.on_chain
    found = network.wallet.deposit("3 ROS")
    assert found.deposited_wei - before.deposited_wei == 3 * WEI_PER_ROS
    assert network.wallet.deposited == found.deposited_wei
    assert outside - network.wallet.on_chain == 3 * WEI_PER_ROS
    back = network.wallet.withdraw("1 ROS")
    assert found.deposited_wei - back.deposited_wei == WEI_PER_ROS
    assert outside - network.wallet.on_chain == 2 * WEI_PER_ROS
    assert network.wallet.address.startswith("0x")
    for end in (network.wallet.finish_withdrawal, network.wallet.cancel_withdrawal):
        with pytest.raises(InvalidRequest, match="no withdrawal waits"):
            end()
    for amount in ("0 ROS", "1e9 ROS", 10**30):
        with pytest.raises((InvalidRequest, InvalidAmount)):
            network.wallet.deposit(amount)
        with pytest.raises((InvalidRequest, InvalidAmount)):
            network.wallet.withdraw(amount)
    for amount in (-1, 1.5, "1 USD", True):
        with pytest.raises(InvalidAmount):
            network.wallet.deposit(amount)


def test_an_estimate_bounds_the_price(network: Any, model: Any, used: Any) -> None:
    found = network.billing.estimate(model, prompt_tokens=used.usage.prompt_tokens, max_new_tokens=5)
    spent = sum(network.billing.usage(request_id=used.request_id)["amount_wei"])
    assert 0 < found.lowest_wei <= found.expected_wei <= found.highest_wei
    assert found.lowest_wei <= spent <= found.highest_wei
    assert found.lines[0].line.startswith("expert:")
    nothing = network.billing.estimate(model, prompt_tokens=1, max_new_tokens=0)
    assert nothing.highest_wei == 0
    for wrong in ({"prompt_tokens": 0}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}, {"prompt_tokens": True}):
        with pytest.raises(InvalidRequest):
            network.billing.estimate(model, **wrong)
    assert network.billing.price_book.lines["tokens_in"].price(10**6) > 0


def test_settle_prove_and_reconcile(network: Any, used: Any, both: Both, tmp_path: Path) -> None:
    usage = network.billing.usage(request_id=used.request_id)
    record = usage[usage["resource"] == "tokens_out"].iloc[0]["usage_id"]
    open_proof = network.billing.prove(record)
    assert {link.state for link in open_proof.links} == {"ok", "pending"}
    assert open_proof.export is None
    with pytest.raises(NotProvable):
        network.billing.export(record, tmp_path / "early.json")
    settled = network.billing.settle()
    assert settled == network.billing.settle(), "again is the same"
    assert settled.total_wei > 0
    assert settled.root.startswith("0x")
    assert settled.final
    proof = network.billing.prove(record)
    assert proof.verified
    assert proof.links[0].name == "document"
    file = network.billing.export(record, tmp_path / "export.json")
    chain = both.local.billing._settlement.chain
    assert verified(verify(json.loads(file.read_text()), chain_view=chain))
    reconciled = network.billing.reconcile()
    assert reconciled.sound
    assert reconciled.difference_wei == 0
    assert len(reconciled.checks) >= 6
    with pytest.raises(NotProvable):
        network.billing.prove("none")


def test_earnings_are_claimed(network: Any, used: Any) -> None:
    network.billing.settle()
    before = network.earnings.now
    assert before.owner == network.earnings.owner == network.wallet.address, "the worker is the wallet's own"
    assert before.earned_wei >= before.claimable_wei > 0
    outside = network.wallet.on_chain
    paid = network.earnings.claim()
    assert network.wallet.on_chain - outside == paid == before.claimable_wei
    assert network.earnings.claim() == 0, "nothing is paid twice"
    after = network.earnings.now
    assert (after.claimable_wei, after.claimed_wei) == (0, before.claimed_wei + paid)
    frame = network.earnings.of(before.owner).to_frame()
    assert sum(frame["wei"]) >= after.earned_wei, "refunds are taken off what was earned, not off the use"
    assert list(frame.columns) == ["worker", "model", "resource", "wei", "ros"]


def test_owners_are_paid_out(network: Any, model: Any) -> None:
    model.generate(PROMPT, max_new_tokens=2)
    network.billing.settle()
    nobody = network.billing.pay_out("1000000 ROS")
    assert dict(nobody.paid) == {}
    found = network.billing.pay_out(0)
    assert found.total_wei == sum(found.paid.values()) > 0
    assert found.paid[network.wallet.address] > 0
    assert found.txs
    assert network.billing.pay_out(0).total_wei == 0


def test_a_refund(network: Any, model: Any) -> None:
    found = model.generate(PROMPT, max_new_tokens=3)
    usage = network.billing.usage(request_id=found.request_id)
    row = usage.iloc[usage["amount_wei"].astype(object).argmax()]
    balance = network.billing.balance.wei
    parts = [network.billing.refund(row["usage_id"], "slow", amount="1 wei", key=key) for key in ("a", "b", "a")]
    assert len({part.id for part in parts}) == 2
    with pytest.raises(LedgerConflict):
        network.billing.refund(row["usage_id"], "slow", amount="2 wei", key="a")
    note = network.billing.refund(row["usage_id"], "it was wrong")
    assert note.amount_wei == row["amount_wei"] - 2
    assert row["amount_wei"] == network.billing.balance.wei - balance
    assert note == network.billing.refund(row["usage_id"], "it was wrong"), "one note, however often it is asked for"
    with pytest.raises(InvalidAmount):
        network.billing.refund(row["usage_id"], "another reason")
    with pytest.raises(InvalidRequest):
        network.billing.refund(row["usage_id"], "  ")
    with pytest.raises(InvalidRequest):
        network.billing.refund("none", "there is none")


def test_an_invoice_adds_up(network: Any, used: Any) -> None:
    period = f"{network.billing.usage(request_id=used.request_id)['time'].iloc[0]:%Y-%m}"
    found = network.billing.invoice(period)
    lines = sum(int(line["amount_wei"]) for line in found.document["lines"])
    assert lines - int(found.document["refunded_wei"]) == int(found.document["total_wei"]) > 0
    assert found.document == network.billing.invoice(period).document
    assert (found.period, found.number) == (period, None), "a draft, while more may come"
    for wrong in ("2026-13", "month", ""):
        with pytest.raises(InvalidRequest):
            network.billing.invoice(wrong)


def test_a_hard_budget_refuses(network: Any, model: Any) -> None:
    spent = network.billing.costs("day").total_wei
    network.billing.budget(spent + 1, period="total", alerts=("50%", 0.9))
    try:
        with pytest.raises(BudgetExceeded):
            model.generate(PROMPT, max_new_tokens=50)
        (found,) = network.billing.budgets
        assert (found.alerts_bp, found.hard, found.held_wei) == ((5_000, 9_000), True, 0)
    finally:
        network.billing.budget(None, period="total")
    assert isinstance(network.billing.alerts, list)
    with pytest.raises(InvalidRequest):
        network.billing.budget("1 ROS", alerts=("200%",))


def test_a_price_book_is_voted_in(network: Any) -> None:
    """By each way one more; the last is in force when it says."""
    book = network.billing.price_book
    with pytest.raises(InvalidRequest):
        network.governance.propose(replace(book, version=book.version + 7))
    for wrong in (lambda: network.governance.vote(book, "perhaps"), lambda: network.governance.proposal(_far(book))):
        with pytest.raises((InvalidRequest, TransactionFailed)):
            wrong()
    new = replace(book, version=book.version + 1)
    proposed = network.governance.propose(new)
    assert proposed.state in ("pending", "active")
    voted = network.governance.vote(new)
    assert (voted.id, voted.for_votes > 0, voted.against_votes) == (proposed.id, True, 0)
    done = network.governance.execute(new)
    assert (done.state, done.book.digest) == ("executed", new.digest)
    assert network.governance.proposal(new).state == "executed"
    assert network.billing.price_book.version == new.version


def test_votes_over_parameters(network: Any) -> None:
    """By each way another value; every process of the network follows it, and shows it."""
    before = {one.name: one for one in network.governance.parameters()}
    assert {"payout_min_wei", "voting_delay_blocks", "challenge_window_s"} <= before.keys()
    for wrong in (Change("payout_min_wei", 987), Change("quorum_percent", 99)):
        with pytest.raises(TransactionFailed, match="never proposed"):
            network.governance.vote(wrong)
    known = {one.name: one for one in network.billing.parameters}["payout_min_wei"].value
    change = Change("payout_min_wei", known - 1)
    assert network.governance.propose(change).state in ("pending", "active")
    assert network.governance.vote(change, "for").for_votes > 0
    done = network.governance.execute(change)
    assert (done.state, done.subject) == ("executed", change)
    found = {one.name: one for one in network.billing.parameters}
    assert (found["payout_min_wei"].value, found["payout_min_wei"].by) == (known - 1, "vote")
    assert found["hold_grace_s"].by == "setting"
    with pytest.raises(InvalidRequest, match="about payout_min_wei, not about a price book"):
        _ = done.book


def test_a_discount_is_granted_and_ended(network: Any, model: Any) -> None:
    user = network.billing.balance.user_id
    since = datetime.now(UTC) - timedelta(hours=1)
    given = network.billing.grant_discount("research", user=user, since=since)
    assert (given.user, given.organisation, given.until) == (user, None, None)
    assert given in network.billing.discounts
    found = network.billing.estimate(model, prompt_tokens=9, max_new_tokens=5)
    assert (found.discount, found.discount_wei > 0) == ("research", True)
    used = network.billing.usage(request_id=model.generate(PROMPT, max_new_tokens=3).request_id)
    assert set(used["discount"]) == {"research"}
    assert all(
        off * 4 - amount in range(5) for off, amount in zip(used["discount_wei"], used["amount_wei"], strict=True)
    )
    ended = network.billing.grant_discount("research", user=user, since=since, until=since)
    assert ended.until == ended.since == given.since
    assert network.billing.estimate(model, prompt_tokens=9, max_new_tokens=5).discount is None
    with pytest.raises(PriceBookError, match="no discount"):
        network.billing.grant_discount("tea", user=user)
    with pytest.raises(InvalidRequest, match="one of the two"):
        network.billing.grant_discount("research", user=user, organisation="network")


def test_a_request_pays_no_more_than_it_says(network: Any, model: Any) -> None:
    before = network.billing.balance
    for ask in (model.generate, model.submit, model.stream):
        with pytest.raises(BudgetExceeded, match="max_price"):
            ask(PROMPT, max_new_tokens=20, max_price="1 wei")
    with pytest.raises(InvalidAmount, match="max_price"):
        model.generate(PROMPT, max_price=1.5)
    assert network.billing.balance == before
    assert len(model.generate(PROMPT, max_new_tokens=2, max_price="1 ROS").token_ids) == 2


def _far(book: PriceBook) -> PriceBook:
    return replace(book, version=book.version + 9)


def test_alerts_are_told_to_callbacks(network: Any, model: Any) -> None:
    """Each that comes, once, and none from before; who could not take one gets it again."""
    told: list[Any] = []
    failing = iter([ValueError("not now")])

    def take(alert: Any) -> None:
        for error in failing:
            raise error
        told.append(alert)

    known = {one.key for one in network.billing.alerts}
    network.billing.on_alert(take)
    before = network.billing.costs("day").total_wei
    model.generate(PROMPT, max_new_tokens=2)
    spent = network.billing.costs("day").total_wei
    # So that the next one, which costs as much, crosses nine tenths of it.
    network.billing.budget((spent + (spent - before) // 2) * 10 // 9, period="total", hard=False)
    model.generate(PROMPT, max_new_tokens=2)
    new = until(lambda: [one for one in network.billing.alerts if one.key not in known], "an alert", deadline_s=30)
    until(lambda: len(told) >= len(new), "it is told", deadline_s=60)
    network.billing.budget(None, period="total")
    assert sorted(one.key for one in told) == sorted({one.key for one in told}), "each once"
    assert {one.key for one in new} <= {one.key for one in told}


def test_placement_is_shown(model: Any) -> None:
    found = model.placement
    assert found.model == "demo"
    assert {name for row in found.holders for hosts in row for name in hosts} == {"worker-0"}
    assert found.trunk == "worker-0"
    assert found.trunk_pid > 0
    assert sum(map(sum, found.load)) > 0
    assert "The trunk runs on worker-0." in found.explain()
    assert len(found.to_frame()) == sum(len(row) for row in found.holders)
    assert "worker-0" in repr(found)
