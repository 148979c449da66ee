"""What a request costs: held before, posted when its answer is there, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.services.moments import moment_of
from rios.words.errors import (
    BudgetExceeded,
    Cancelled,
    InsufficientBalance,
    InvalidAmount,
    InvalidRequest,
    PriceBookError,
    RiosError,
    TrunkLost,
)
from rios.words.money import WEI_PER_ROS, format_ros
from tests.services.steps import limit, one_step
from tests.waiting import stop, until

PROMPT = "It was a fine morning,"
TRIAL_WEI = 10 * WEI_PER_ROS


@pytest.fixture(scope="module")
def net() -> Iterator[rios.Network]:
    with rios.local(workers=2, threads=1) as net:
        yield net


@pytest.fixture(scope="module")
def model(net: rios.Network) -> Any:
    return net.dmoe.deploy("demo", replicas=2, progress=False)


@contextlib.contextmanager
def standing_still(net: rios.Network) -> Iterator[None]:
    """No host does anything meanwhile."""
    hosts = [worker.pid for worker in net.workers]
    for pid in hosts:
        stop(pid)
    try:
        yield
    finally:
        for pid in hosts:
            os.kill(pid, signal.SIGCONT)


def test_a_price_is_posted_before_the_answer_is_returned(net: rios.Network, model: Any) -> None:
    before = net.billing.balance
    answer = model.generate(PROMPT, max_new_tokens=20)
    after = net.billing.balance
    mine = [row for row in net.billing.usage().itertuples() if answer.usage.prompt_tokens]
    spent = sum(row.amount_wei for row in net.billing.usage(request_id=answer.request_id).itertuples())
    assert mine
    assert after.held_wei == 0
    assert before.wei - after.wei == spent > 0
    quantities = {row.resource: row.quantity for row in net.billing.usage(request_id=answer.request_id).itertuples()}
    assert (quantities["tokens_in"], quantities["tokens_out"]) == (answer.usage.prompt_tokens, len(answer.token_ids))


def test_who_only_generates_starts_no_chain(net: rios.Network, model: Any) -> None:
    """Its contracts take seconds to make, and its libraries one to import: neither is waited for, nor there."""
    assert len(model.generate(PROMPT, max_new_tokens=3).token_ids) == 3
    assert net.billing.costs().total_wei > 0
    assert net._purse.books.started_chain is None


def test_the_highest_price_is_held_while_it_runs(net: rios.Network, model: Any) -> None:
    with standing_still(net):
        job = model.submit(PROMPT, max_new_tokens=250, ignore_eos=True)
        estimate = net.billing.estimate(model, prompt_tokens=len(job.prompt), max_new_tokens=250)
        assert net.billing.balance.held_wei == estimate.highest_wei
        job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=30)
    assert net.billing.balance.held_wei == 0


def test_a_cancelled_request_pays_for_what_it_received(net: rios.Network, model: Any) -> None:
    before = net.billing.balance.wei
    with one_step(net, model, PROMPT, max_new_tokens=400):
        job = model.submit(PROMPT, max_new_tokens=400, ignore_eos=True)
        pieces = job.stream(30)
        for _ in range(5):
            next(pieces)
        held = net.billing.balance.held_wei
        job.cancel()
        with pytest.raises(Cancelled):
            job.result(timeout=30)
    spent = net.billing.usage(request_id=job.request_id)
    written = {row.resource: row.quantity for row in spent.itertuples()}["tokens_out"]
    assert 5 <= written < 400
    assert 0 < sum(spent["amount_wei"]) < held
    assert before - net.billing.balance.wei == sum(spent["amount_wei"])
    assert net.billing.balance.held_wei == 0


def test_costs_add_up_however_they_are_grouped(net: rios.Network, model: Any) -> None:
    model.generate(PROMPT, max_new_tokens=5)
    total = sum(row.amount_wei for row in net.billing.usage().itertuples())
    for by in ("worker", "user", "model", "deployment", "day", "resource"):
        costs = net.billing.costs(by)
        assert costs.total_wei == total
        assert list(costs.to_frame()["wei"]) == list(costs.wei.values())
        assert all(type(amount) is int for amount in costs.wei.values())


def test_whose_ledger_it_is_sees_what_all_users_spent(net: rios.Network, model: Any) -> None:
    net._purse.books.ledger.grant_trial("ann", TRIAL_WEI)
    model.charged_to(net._purse.charging.of("ann")).generate(PROMPT, max_new_tokens=5)
    model.generate(PROMPT, max_new_tokens=5)
    ann = net.billing.of("ann")
    found = net.billing.costs("user").wei
    assert found["ann"] == ann.costs("model").total_wei > 0
    assert found["local"] == net.billing.costs("model").total_wei > 0
    assert dict(ann.costs("user").wei) == {"ann": found["ann"]}, "nobody else does"
    assert dict(net.billing.costs("user", user="ann").wei) == {"ann": found["ann"]}


def test_a_hard_budget_refuses_before_anything_starts(net: rios.Network, model: Any) -> None:
    model.generate(PROMPT, max_new_tokens=5)
    running = model._deployment.trunk_stats()["running"]
    net.billing.budget(net.billing.budgets[0].spent_wei if net.billing.budgets else 1, period="total")
    try:
        with pytest.raises(BudgetExceeded, match="budget of"):
            model.generate(PROMPT, max_new_tokens=5)
        assert model._deployment.trunk_stats()["running"] == running
        assert net.billing.balance.held_wei == 0
    finally:
        net.billing.budget(None, period="total")
    model.generate(PROMPT, max_new_tokens=5)


def test_a_request_pays_no_more_than_it_says(net: rios.Network, model: Any) -> None:
    """Refused before anything is held, also where it would be held for in steps, and where it is a list."""
    before = net.billing.balance
    running = model._deployment.trunk_stats()["running"]
    asks: tuple[Any, ...] = (
        lambda: model.generate(PROMPT, max_new_tokens=50, max_price="1 wei"),
        lambda: model.generate([PROMPT, PROMPT], max_new_tokens=50, max_price="1 wei"),
        lambda: model.submit(PROMPT, max_new_tokens=400, max_price=1),
        lambda: model.stream(PROMPT, max_new_tokens=400, max_price=1),
    )
    for ask in asks:
        with pytest.raises(BudgetExceeded, match=r"pays 0\.000000000000000001 ROS at most \(max_price\)"):
            ask()
    assert (net.billing.balance, model._deployment.trunk_stats()["running"]) == (before, running)
    with pytest.raises(InvalidAmount, match="max_price"):
        model.generate(PROMPT, max_price=0.5)
    tokens = len(model.tokens(PROMPT))
    highest = net.billing.estimate(model, prompt_tokens=tokens, max_new_tokens=5).highest_wei
    answer = model.generate(PROMPT, max_new_tokens=5, max_price=f"{highest} wei")
    assert sum(net.billing.usage(request_id=answer.request_id)["amount_wei"]) <= highest


def test_a_discount_is_seen_all_the_way(net: rios.Network, model: Any) -> None:
    """In the estimate, on each record, in its proof and on the invoice; pinned, whatever is granted afterwards."""
    answer = model.generate(PROMPT, max_new_tokens=5)
    full = net.billing.usage(request_id=answer.request_id)
    assert set(full["discount_wei"]) == {0}
    assert set(full["discount"]) == {None}
    with pytest.raises(PriceBookError, match="no discount 'tea'"):
        net.billing.grant_discount("tea")
    given = net.billing.grant_discount("research")
    try:
        estimate = net.billing.estimate(model, prompt_tokens=answer.usage.prompt_tokens, max_new_tokens=5)
        assert (estimate.discount, estimate.discount_wei > 0) == ("research", True)
        job = model.submit(PROMPT, max_new_tokens=5)
        net.billing.grant_discount("research", since=moment_of(given.since), until=moment_of(given.since))
        found = net.billing.usage(request_id=job.result(30).request_id)
        assert set(found["discount"]) == {"research"}
        prices = {row.resource: row.amount_wei + row.discount_wei for row in found.itertuples()}
        assert prices["tokens_out"] == {row.resource: row.amount_wei for row in full.itertuples()}["tokens_out"]
        assert all(row.discount_wei * 4 - row.amount_wei in range(5) for row in found.itertuples())
        token = next(row for row in found.itertuples() if row.resource == "tokens_out")
        links = {link.name: link for link in net.billing.prove(token.usage_id).links}
        assert f"{format_ros(token.discount_wei)} less by discount research" in links["price"].reason
        period = found.time.iloc[-1].strftime("%Y-%m")
        (line,) = net.billing.invoice(period).document["discounts"]
        assert (line["discount"], int(line["off_wei"])) == ("research", sum(found["discount_wei"]))
    finally:
        net.billing.grant_discount("research", since=moment_of(given.since), until=moment_of(given.since))
    assert net.billing.estimate(model, prompt_tokens=9, max_new_tokens=5).discount is None
    assert [one.until for one in net.billing.discounts if one.since == given.since] == [given.since]


def test_a_refund_gives_the_price_back(net: rios.Network, model: Any) -> None:
    answer = model.generate(PROMPT, max_new_tokens=5)
    rows = list(net.billing.usage(request_id=answer.request_id).itertuples())
    before = net.billing.balance.wei
    note = net.billing.refund(rows[0].usage_id, "wrong model")
    assert net.billing.balance.wei == before + note.amount_wei
    assert note.amount_wei == rows[0].amount_wei
    with pytest.raises(InvalidRequest, match="reason"):
        net.billing.refund(rows[1].usage_id, " ")


def test_an_invoice_adds_up(net: rios.Network, model: Any) -> None:
    model.generate(PROMPT, max_new_tokens=5)
    period = net.billing.usage().time.iloc[-1].strftime("%Y-%m")
    invoice = net.billing.invoice(period)
    lines = sum(int(line["amount_wei"]) for line in invoice.document["lines"])
    assert int(invoice.document["total_wei"]) == lines - int(invoice.document["refunded_wei"])
    assert invoice.number is None, "a draft: more may come"
    model.generate(PROMPT, max_new_tokens=5)
    assert int(net.billing.invoice(period).document["total_wei"]) > int(invoice.document["total_wei"])


def test_a_home_keeps_the_ledger(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with rios.local(workers=1, threads=1, home=home, hold_step_tokens=8) as net:
        model = net.dmoe.deploy("demo", progress=False)
        model.generate(PROMPT, max_new_tokens=3)
        spent = TRIAL_WEI - net.billing.balance.wei
        # One that is paused when the network is closed.
        limit(net, model, PROMPT, max_new_tokens=100)
        job = model.submit(PROMPT, max_new_tokens=100, ignore_eos=True)
        until(lambda: job.status == "paused", deadline_s=30)
    assert job.status == "cancelled"
    with rios.local(workers=1, threads=1, home=home) as net:
        assert net.billing.balance.held_wei == 0
        spent += sum(row.amount_wei for row in net.billing.usage(request_id=job.request_id).itertuples())
        assert spent == TRIAL_WEI - net.billing.balance.wei > 0
        net.billing.budget(None, period="total")
        with pytest.raises(InsufficientBalance, match="available"):
            net._purse.books.ledger.hold("h", "local", TRIAL_WEI, request_id="r", terms=net._purse.charging.terms({}))


def test_a_request_that_fails_pays_for_what_it_received(
    net: rios.Network, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hosts stop in the midst of it, and none goes on in time."""
    generator = model._deployment.generator
    monkeypatch.setattr(generator, "_settings", generator._settings.model_copy(update={"trunk_timeout_s": 5}))
    before = net.billing.balance.wei
    with one_step(net, model, PROMPT, max_new_tokens=450):
        job = model.submit(PROMPT, max_new_tokens=450, ignore_eos=True)
        held = net.billing.balance.held_wei
        pieces = job.stream(60)
        for _ in range(5):
            next(pieces)
        with standing_still(net), pytest.raises(TrunkLost):
            job.result(timeout=120)
    assert job.status == "failed"
    usage = net.billing.usage(request_id=job.request_id)
    assert {row.resource: row.quantity for row in usage.itertuples()}["tokens_out"] == len(job.token_ids) >= 5
    assert 0 < sum(usage["amount_wei"]) < held
    assert before - net.billing.balance.wei == sum(usage["amount_wei"])
    assert net.billing.balance.held_wei == 0

    def serves_again() -> bool:
        try:
            return bool(model.generate(PROMPT, max_new_tokens=1, timeout=10).token_ids)
        except RiosError:
            return False

    until(serves_again, "an answer of hosts that go on", deadline_s=60)
