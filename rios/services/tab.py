"""The tab of one request: what is held for it, step by step, and what it has cost when it has ended.

A short request is held for as a whole. A long one holds for the prompt and the first new tokens, and for the next ones
before these are there; where that is refused it stands still, with the hold marked as paused, until there is money or
its time of grace is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rios.billing.estimate import HoldStep, hold_step
from rios.billing.ledger.values import Wanted
from rios.billing.pricing import Host, Terms
from rios.billing.rating import Charge, rate_request
from rios.billing.usage import Request, Work
from rios.words.errors import BudgetExceeded, InsufficientBalance, LedgerUnavailable, RiosError
from rios.words.events import Ended, Stream

if TYPE_CHECKING:
    from rios.services.charging import Charging

log = logging.getLogger(__name__)

BALANCE = "balance"
"""The finish reason of a request for which no money came in time."""
# The ledger's own grace, after which others may release the hold as forgotten, ends so much later than that of the
# request: until then whoever runs it has posted what was done.
_SLACK_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The size of a request to be."""

    request_id: str
    prompt_tokens: int
    max_new_tokens: int
    max_price_wei: int | None = None
    """The most that it pays; no bound without."""

    @property
    def tokens(self) -> int:
        """The most that it reads and writes."""
        return self.prompt_tokens + self.max_new_tokens


class RequestTab:
    """The tab of one request (`rios.words.events.Tab`)."""

    def __init__(
        self,
        charging: Charging,
        asked: Asked,
        work: Work,
        hosts: Callable[[], Mapping[str, Host]],
        *,
        known: Mapping[str, Host],
        terms: Terms,
    ) -> None:
        """hosts: who could serve, by the names in usage events; asked again when the request has ended.

        known: who can now; terms: theirs.
        """
        self.hold_id = f"hold-{asked.request_id}"
        self._charging = charging
        self._work = work
        self._hosts = hosts
        self._known = known
        self._terms = terms
        self._asked = asked
        self._lock = threading.Lock()  # nothing is held for a request that is being posted
        self._closed = False
        self._steps: list[int] = []  # new tokens covered at the end of each step that is held
        self._unsure: HoldStep | None = None  # the ledger did not say whether it is held
        self._marked = False  # as paused, in the ledger
        self._why: RiosError | None = None

    @property
    def covered(self) -> int:
        """New tokens that are held for."""
        return self._steps[-1]

    def first(self, user: str) -> Wanted:
        """The first step, which must be held before the request is sent."""
        step = self._step()
        assert step is not None, "a request without new tokens costs nothing and needs no tab"
        self._steps.append(step.tokens)
        return Wanted(self.hold_id, user, step.hold_wei, request_id=self._asked.request_id, terms=self._terms)

    def extend(self, stream: Stream) -> None:
        """Hold the next step and let the request go on; where that cannot be, see again until it can."""
        if self._goes_on(stream):
            return
        stream.pause()
        grace_s = self._charging.grace_now_s()
        log.warning(
            "request %s pauses at %d tokens: %s; it goes on by itself when this has changed, and ends with what it has "
            "after %g s",
            self.hold_id.removeprefix("hold-"),
            self.covered,
            self._why,
            grace_s,
        )
        over = time.monotonic() + grace_s
        self._charging.again.add(lambda: self._waited(stream, over))

    def abandon(self) -> None:
        """The request was never sent: release all of it."""
        self._charging.settle(self.hold_id, (), deployment=self._work.model)()
        self._charging.unused(self._asked.tokens)

    def close(self, ended: Ended) -> Callable[[], None]:
        """Rate what was measured, post it and release the rest. Who received nothing pays nothing.

        What is returned waits for the ledger: those that end together are one transaction of it.
        """
        with self._lock:
            self._closed = True
        charges: tuple[Charge, ...] = ()
        if ended.tokens_out and ended.events:
            request = Request(
                request_id=ended.request_id,
                model=self._work.model,
                trunk=ended.trunk,
                tokens_in=ended.tokens_in,
                tokens_out=ended.tokens_out,
                hold_tokens=tuple(self._steps),
            )
            hosts = {**self._hosts(), **self._known}
            done = ended.outcome == "done"
            charges = rate_request(request, ended.events, work=self._work, hosts=hosts, terms=self._terms, ended=done)
        posted = self._charging.settle(self.hold_id, charges, deployment=self._work.model)
        self._charging.unused(max(0, self._asked.tokens - ended.tokens_in - ended.tokens_out))
        self._charging.faults.add(ended, self._charging.user)
        return posted

    def _waited(self, stream: Stream, over: float) -> bool:
        """Whether a paused request need not wait any longer, because it goes on or has ended."""
        if stream.ended:
            return True
        if stream.paused and time.monotonic() >= over:
            stream.finish(BALANCE)
            return True
        try:
            return self._goes_on(stream)
        except RiosError as error:
            stream.abort(error)
            return True

    def _goes_on(self, stream: Stream) -> bool:
        """Whether the next step is held, or none is needed any more. Raises LedgerConflict where the hold is gone."""
        with self._lock:
            if self._closed:
                return True
            try:
                held = self._hold_next()
                if not held and not self._marked:
                    grace_us = int((self._charging.grace_now_s() + _SLACK_S) * 1e6)
                    self._charging.ledger().pause(self.hold_id, grace_us=grace_us)
                    self._marked = True
            except LedgerUnavailable as error:
                self._why = error
                return False
            if not held:
                return False
            self._marked = False
        stream.allow(self.covered)
        return True

    def _hold_next(self) -> bool:
        """Hold the next step: a long one, else the shortest that there is."""
        shortest = self.covered + self._charging.step_tokens
        # What was asked before comes first: if it is held, no other step of this number can be.
        for step in dict.fromkeys((self._unsure, self._step(), self._step(shortest))):
            if step is None:
                continue
            self._unsure = step
            try:
                self._charging.ledger().extend(self.hold_id, len(self._steps), step.hold_wei)
            except (InsufficientBalance, BudgetExceeded) as error:
                self._why = error
                self._unsure = None
            else:
                self._unsure = None
                self._steps.append(step.tokens)
                return True
        return False

    def _step(self, until: int | None = None) -> HoldStep | None:
        """The next step, not beyond `until` new tokens."""
        asked = self._asked
        return hold_step(
            self._work,
            self._terms,
            prompt_tokens=asked.prompt_tokens,
            max_new_tokens=asked.max_new_tokens if until is None else min(until, asked.max_new_tokens),
            covered=self._steps[-1] if self._steps else 0,
            step_tokens=self._charging.step_tokens,
        )
