"""A long request is held for in steps: without money it stands still, and goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import rios
from rios.billing.estimate import hold_step
from rios.billing.ledger.values import HoldState
from rios.services.tab import BALANCE
from rios.words.errors import BudgetExceeded, Cancelled, DeadlineExceeded, InsufficientBalance, RiosError
from tests import waiting
from tests.faults import wait_whole

PROMPT = "It was a fine morning,"
PROMPT_TOKENS = 6
STEP = 16
NEW = 100
PARAMS: dict[str, Any] = {"max_new_tokens": NEW, "ignore_eos": True}
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def net() -> Iterator[rios.Network]:
    with rios.local(workers=3, threads=1, hold_step_tokens=STEP) as net:
        yield net


@pytest.fixture(scope="module")
def model(net: rios.Network) -> Any:
    return net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)


@pytest.fixture(scope="module")
def undisturbed(model: Any) -> Any:
    answer = model.generate(PROMPT, **PARAMS)
    assert answer.usage.prompt_tokens == PROMPT_TOKENS
    return answer


until = partial(waiting.until, deadline_s=DEADLINE_S)


def cost(net: rios.Network, model: Any, tokens: int, *, covered: int = 0) -> int:
    """The highest price of the tokens after `covered` ones."""
    terms = net._purse.charging.terms(model.hosts())
    step = hold_step(
        model.work,
        terms,
        prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=covered + tokens,
        covered=covered,
        step_tokens=tokens,
    )
    assert step is not None
    return step.hold_wei


@contextlib.contextmanager
def only(net: rios.Network, wei: int) -> Iterator[Callable[[], None]]:
    """Nothing but `wei` is available, until what this yields is called; everything is again afterwards."""
    charging = net._purse.charging
    ledger = charging.ledger()
    name = f"aside-{time.monotonic_ns()}"
    until(lambda: ledger.balance("local").held_wei == 0)  # the price of a cancelled request is posted soon after
    rest = ledger.balance("local").available - wei
    ledger.hold(name, "local", rest, request_id=name, terms=charging.terms({}))
    try:
        yield lambda: ledger.release(name)
    finally:
        ledger.release(name)


def paused(model: Any, **params: Any) -> Any:
    """A request that has used up what is held and stands still."""
    job = model.submit(PROMPT, **{**PARAMS, **params})
    until(lambda: job.status == "paused")
    return job


def in_trunk(model: Any) -> int:
    """How many requests are paused in the trunk; -1 while nobody answers, after a kill."""
    try:
        return int(model._deployment.trunk_stats().get("paused", -1))
    except RiosError:
        return -1


def hold(net: rios.Network, job: Any) -> Any:
    return net._purse.books.ledger.hold_of(f"hold-{job.request_id}")


def rows(net: rios.Network, request_id: str) -> list[Any]:
    return list(net._purse.books.ledger.usage(request_id=request_id))


def test_a_long_request_is_held_for_step_by_step(net: rios.Network, model: Any, undisturbed: Any) -> None:
    answer = model.generate(PROMPT, **PARAMS)
    assert answer.token_ids == undisturbed.token_ids
    ledger = net._purse.books.ledger
    steps = ledger.hold_steps(f"hold-{answer.request_id}")
    ends = [16, 32, 64, 100]
    assert [step.amount_wei for step in steps] == [
        cost(net, model, end - before, covered=before) for before, end in zip([0, *ends], ends, strict=False)
    ]
    tokens = {row.step: row.quantity for row in rows(net, answer.request_id) if row.resource == "tokens_out"}
    assert tokens == {0: 16, 1: 16, 2: 32, 3: 36}
    # Each step has a record of each host's experts, whose events are those of its own positions.
    experts = [row for row in rows(net, answer.request_id) if row.resource == "expert"]
    per_position = model.work.rows_per_position
    for step, positions in enumerate((PROMPT_TOKENS + 15, 16, 32, 36)):
        assert sum(row.rows for row in experts if row.step == step) == positions * per_position
    assert net.billing.balance.held_wei == 0
    assert all(net.billing.prove(row.usage_id).verified for row in experts)


def test_without_money_it_pauses_and_a_deposit_lets_it_go_on(net: rios.Network, model: Any, undisturbed: Any) -> None:
    with only(net, cost(net, model, STEP) + cost(net, model, 4)):
        job = paused(model)
        assert job.token_ids == undisturbed.token_ids[:STEP]
        until(lambda: hold(net, job).state is HoldState.PAUSED)
        until(lambda: in_trunk(model) == 1)
        # Others go on meanwhile.
        assert model.generate(PROMPT, max_new_tokens=4, ignore_eos=True).token_ids == undisturbed.token_ids[:4]
        with pytest.raises(InsufficientBalance):
            model.submit(PROMPT, **PARAMS)
        assert job.status == "paused"
        net.wallet.deposit("1 ROS")
        answer = job.result(timeout=DEADLINE_S)
    assert answer.text == undisturbed.text
    assert answer.token_ids == undisturbed.token_ids
    assert answer.finish_reason == "length"
    assert hold(net, job).state is HoldState.POSTED
    assert net.billing.balance.held_wei == 0


def test_a_shorter_step_is_held_where_the_long_one_is_refused(net: rios.Network, model: Any) -> None:
    """The third step would be of 32 tokens, and there is money for 16."""
    wei = cost(net, model, STEP) + cost(net, model, STEP, covered=STEP) + cost(net, model, STEP, covered=2 * STEP)
    with only(net, wei):
        job = paused(model)
        assert len(job.token_ids) == 3 * STEP
        job.cancel()
        with pytest.raises(Cancelled):  # its price is posted then
            job.result(timeout=DEADLINE_S)


def test_after_the_grace_it_ends_with_what_was_done_billed(
    net: rios.Network, model: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net._purse.charging, "grace_s", 0.0)
    before = net.billing.balance.wei
    with only(net, cost(net, model, STEP)):
        job = model.submit(PROMPT, **PARAMS)
        answer = job.result(timeout=DEADLINE_S)
        assert job.status == "done"
        assert answer.finish_reason == BALANCE == "balance"
        assert answer.token_ids == undisturbed.token_ids[:STEP]
        assert hold(net, job).state is HoldState.POSTED
    spent = sum(row.amount_wei for row in rows(net, job.request_id))
    assert before - net.billing.balance.wei == spent > 0
    assert net.billing.balance.held_wei == 0
    until(lambda: in_trunk(model) == 0)
    assert not model._deployment.generator.jobs


def test_a_deadline_and_a_cancel_work_while_it_is_paused(net: rios.Network, model: Any) -> None:
    with only(net, cost(net, model, STEP)):
        job = paused(model)
        with pytest.raises(DeadlineExceeded):
            job.result(timeout=0.01)
        assert job.status == "paused"
        job.cancel()
        with pytest.raises(Cancelled):
            job.result(timeout=DEADLINE_S)
        assert job.status == "cancelled"
        assert sum(row.amount_wei for row in rows(net, job.request_id)) > 0
        until(lambda: in_trunk(model) == 0)
    with only(net, cost(net, model, STEP)), pytest.raises(DeadlineExceeded):
        model.generate(PROMPT, timeout=1.0, **PARAMS)
    with only(net, cost(net, model, STEP)), pytest.raises(DeadlineExceeded):
        list(model.stream(PROMPT, timeout=1.0, **PARAMS))
    until(lambda: net.billing.balance.held_wei == 0)


def test_a_hard_budget_pauses_it_and_a_larger_one_lets_it_go_on(
    net: rios.Network, model: Any, undisturbed: Any
) -> None:
    # What was spent in all is seen once there is a budget.
    spent = net.billing.budget("9 ROS", period="total").spent_wei
    net.billing.budget(spent + cost(net, model, STEP), period="total")
    try:
        job = paused(model)
        assert job.token_ids == undisturbed.token_ids[:STEP]
        with pytest.raises(BudgetExceeded):
            model.generate(PROMPT, max_new_tokens=4)
        net.billing.budget("9 ROS", period="total")
        assert job.result(timeout=DEADLINE_S).text == undisturbed.text
    finally:
        net.billing.budget(None, period="total")


def test_a_trunk_that_is_killed_meanwhile_changes_nothing(net: rios.Network, model: Any, undisturbed: Any) -> None:
    wait_whole(net, model, copies=2)
    with only(net, cost(net, model, STEP)) as more:
        job = paused(model)
        trunk = model._deployment.generator.active
        os.kill(next(worker.pid for worker in net.workers if worker.name == trunk), signal.SIGKILL)
        until(lambda: job.replays == 1)
        until(lambda: in_trunk(model) == 1)
        assert job.status == "paused"
        assert job.token_ids == undisturbed.token_ids[:STEP]
        more()
        answer = job.result(timeout=DEADLINE_S)
    assert answer.token_ids == undisturbed.token_ids
    # No position is paid for twice.
    mine, theirs = (
        sum(row.rows for row in rows(net, request_id) if row.resource == "expert")
        for request_id in (job.request_id, undisturbed.request_id)
    )
    assert mine == theirs
    wait_whole(net, model, copies=2)


def test_many_at_once_never_overshoot_a_balance(net: rios.Network, model: Any, undisturbed: Any) -> None:
    """Eight that want 100 tokens each, and money for the first steps of all and some of the second."""
    with only(net, 8 * cost(net, model, STEP) + 3 * cost(net, model, STEP, covered=STEP)) as more:
        jobs = [model.submit(PROMPT, **PARAMS) for _ in range(8)]
        until(lambda: all(job.status == "paused" for job in jobs))
        lengths = sorted(len(job.token_ids) for job in jobs)
        assert lengths == [STEP] * 5 + [2 * STEP] * 3
        assert net.billing.balance.available < cost(net, model, STEP, covered=STEP)
        more()
        assert {job.result(timeout=DEADLINE_S).token_ids for job in jobs} == {undisturbed.token_ids}
    assert net.billing.balance.held_wei == 0
    assert net.billing.reconcile().difference_wei == 0
