"""Deeds with money in two steps: a plan says what will happen, and the one deed it allows makes it so.

A plan is used up by its deed, so a button pressed twice, or a request that is sent again, moves money once. That also
holds where nobody knows whether the deed was done: its transactions have the plan's id as their key, and the same plan
again goes on with them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rios.services.panel import Panel
from rios.words.errors import InvalidRequest, NotFound
from rios.words.money import parse_ros

PLAN_S = 600.0
"""A plan is forgotten after this: figures that old are not what one agreed to."""
_KEPT = 100
PERIODS = ("day", "week", "month", "total")

Deed = Callable[[str], Mapping[str, Any]]
"""Done with the id of its plan as the key."""
Said = tuple[dict[str, Any], Deed]
"""What an action says of itself, and its deed."""


@dataclass(slots=True)
class Planned:
    """A deed that waits for a yes."""

    id: str
    deed: Deed
    made_at: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: bool = False
    """From then on it stays, however old: who is not told how it ended must be able to ask for the same again."""
    done: Mapping[str, Any] | None = None


class Plans:
    """The plans of one panel. Safe for threads."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._lock = threading.Lock()
        self._planned: OrderedDict[str, Planned] = OrderedDict()
        self._actions: dict[str, Callable[..., Said]] = {
            "deposit": self._deposit,
            "withdraw": self._withdraw,
            "finish_withdrawal": self._finish,
            "settle": self._settle,
            "claim": self._claim,
            "budget": self._budget,
        }

    def plan(self, action: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `action` would do: its `changes` from one amount of wei to another, `notes` by name, and a plan's id.

        Raises InvalidRequest, InvalidAmount, and what reading the figures raises.
        """
        if action not in self._actions:
            raise InvalidRequest(f"there is no action {action!r}; there are {', '.join(self._actions)}")
        try:
            said, deed = self._actions[action](**given)
        except TypeError as error:
            raise InvalidRequest(f"{action} was given {sorted(given)}: {error}") from error
        planned = Planned(secrets.token_urlsafe(16), deed, time.monotonic())
        with self._lock:
            # What was begun, and ended nobody knows how, stays: its id is what finds its transactions again.
            spare = [one for one in self._planned.values() if not one.begun or one.done is not None]
            for old in spare[: max(len(self._planned) + 1 - _KEPT, 0)]:
                del self._planned[old.id]
            self._planned[planned.id] = planned
        return {"plan": planned.id, "action": action, **said}

    def act(self, plan_id: str) -> dict[str, Any]:
        """Do what a plan says, once; the same answer again for the same plan. Raises NotFound for one too old.

        After an error the same plan again does what is left of it.
        """
        with self._lock:
            planned = self._planned.get(plan_id)
        if planned is None or (not planned.begun and time.monotonic() - planned.made_at > PLAN_S):
            raise NotFound("this was planned too long ago, or by another process; look at it again, then confirm")
        with planned.lock:
            if planned.done is None:
                planned.begun = True
                planned.done = planned.deed(planned.id)
            return {"plan": plan_id, **planned.done}

    # --- actions ---------------------------------------------------------------------------------------------

    def _deposit(self, *, amount: str) -> Said:
        wei, wallet = _positive(amount, "the deposit"), self._panel.net.wallet
        on_chain, deposited = wallet.on_chain, wallet.deposited
        if wei > on_chain:
            raise InvalidRequest("this is more than the wallet has on the chain: deposit less, or send it ROS first")
        changes = [_change("on_chain", on_chain, on_chain - wei), _change("deposited", deposited, deposited + wei)]
        return {"changes": changes, "notes": ["transaction"]}, lambda key: _done(wallet.deposit(wei, key=key))

    def _withdraw(self, *, amount: str) -> Said:
        wei, wallet = _positive(amount, "the withdrawal"), self._panel.net.wallet
        on_chain, deposited = wallet.on_chain, wallet.deposited
        if wei > deposited:
            raise InvalidRequest("this is more than is deposited and free; trial credit cannot be withdrawn")
        changes = [_change("deposited", deposited, deposited - wei), _change("on_chain", on_chain, on_chain + wei)]
        return {"changes": changes, "notes": ["settles_first", "delay", "transaction"]}, lambda key: _done(
            wallet.withdraw(wei, key=key)
        )

    def _finish(self) -> Said:
        wallet = self._panel.net.wallet
        waiting, on_chain = wallet.balance.withdrawing_wei, wallet.on_chain
        if not waiting:
            raise InvalidRequest("no withdrawal waits; withdraw an amount first")
        changes = [_change("withdrawing", waiting, 0), _change("on_chain", on_chain, on_chain + waiting)]
        return {"changes": changes, "notes": ["delay", "transaction"]}, lambda key: _done(
            wallet.finish_withdrawal(key=key)
        )

    def _settle(self) -> Said:
        net = self._panel.net
        earned = net.earnings.now

        def deed(_: str) -> Mapping[str, Any]:
            settled = net.billing.settle()
            return {"said": "nothing_used" if settled is None else "settled"}

        changes = [_change("claimable", earned.claimable_wei, earned.claimable_wei + earned.pending_wei)]
        return {"changes": changes, "notes": ["epoch", "transaction"]}, deed

    def _claim(self) -> Said:
        net = self._panel.net
        earned = net.earnings.now
        if not earned.claimable_wei:
            raise InvalidRequest("nothing can be claimed now: an epoch has to be settled first")

        def deed(_: str) -> Mapping[str, Any]:
            return {"said": "claimed", "wei": str(net.earnings.claim())}

        changes = [
            _change("claimable", earned.claimable_wei, 0),
            _change("claimed", earned.claimed_wei, earned.claimed_wei + earned.claimable_wei),
        ]
        return {"changes": changes, "notes": ["transaction"]}, deed

    def _budget(self, *, amount: str | None, period: str, hard: bool = True) -> Said:
        if period not in PERIODS:
            raise InvalidRequest(f"the period is {period!r}; it is one of {', '.join(PERIODS)}")
        billing = self._panel.net.billing
        wei = None if amount is None else parse_ros(amount, name="the budget")
        before = next((one for one in billing.budgets if str(one.period) == period), None)
        change = {
            "what": f"budget_{period}",
            "before_wei": None if before is None else str(before.limit_wei),
            "after_wei": None if wei is None else str(wei),
        }
        notes = [] if wei is None else ["budget_hard" if hard else "budget_soft"]
        if before is not None and wei is not None and wei < before.spent_wei + before.held_wei:
            notes.append("budget_below_spent")

        def deed(_: str) -> Mapping[str, Any]:
            billing.budget(wei, period=period, hard=bool(hard))
            return {"said": "budget_set"}

        return {"changes": [change], "notes": notes}, deed


def _positive(amount: str, name: str) -> int:
    wei = parse_ros(amount, name=name)
    if wei == 0:
        raise InvalidRequest(f"{name} is 0 ROS; give more than that")
    return wei


def _change(what: str, before: int, after: int) -> dict[str, Any]:
    return {"what": what, "before_wei": str(before), "after_wei": str(after)}


def _done(_: object) -> Mapping[str, Any]:
    return {"said": "moved"}
