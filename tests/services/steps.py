"""Requests that go on for as long as a test wants: none has ended before it was looked at, however quick it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import rios
from rios.billing.estimate import hold_step
from tests.waiting import until

WAIT_S = 60.0


def limit(net: rios.Network, model: Any, prompt: str, *, max_new_tokens: int) -> None:
    """Set a budget for the first step of one such request, which pauses there; it asks for more tokens than that."""
    charging = net._purse.charging
    until(lambda: net.billing.balance.held_wei == 0, "the end of those before", deadline_s=WAIT_S)
    step = hold_step(
        model.work, charging.terms(model.hosts()), prompt_tokens=len(model.tokens(prompt)),
        max_new_tokens=max_new_tokens, step_tokens=charging.step_tokens,
    )  # fmt: skip
    assert step is not None
    assert step.tokens < max_new_tokens
    # What was spent in all is seen once there is a budget.
    spent = net.billing.budget("9 ROS", period="total").spent_wei
    net.billing.budget(spent + step.hold_wei, period="total")


@contextlib.contextmanager
def one_step(net: rios.Network, model: Any, prompt: str, *, max_new_tokens: int) -> Iterator[None]:
    """The same meanwhile."""
    limit(net, model, prompt, max_new_tokens=max_new_tokens)
    try:
        yield
    finally:
        net.billing.budget(None, period="total")
