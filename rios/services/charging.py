"""Holding the highest price before a request is sent, and posting what it cost when it has ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rios.billing.estimate import Estimate, estimate
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.rating import Charge, rate_request
from rios.billing.usage import Request, Work
from rios.words.errors import LedgerUnavailable
from rios.words.events import Ended

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.dmoe.manifest import Manifest

log = logging.getLogger(__name__)


def work_of(name: str, manifest: Manifest) -> Work:
    """What a model asks of hosts, from its manifest: the largest expert of each layer bounds the layer."""
    layers = [
        (layer.top_k, max(layer.expert_values(expert) for expert in range(layer.num_experts)))
        for layer in manifest.layers
    ]
    return Work.of(name, manifest.hidden_size, layers)


class Charging:
    """Opens a tab for each request of one user."""

    def __init__(self, ledger: Callable[[], Ledger], *, user: str) -> None:
        """ledger: the open ledger; it may take a moment the first time."""
        self.user = user
        self._ledger = ledger
        self._lock = threading.Lock()
        self._late: list[Callable[[], None]] = []

    def terms(self, hosts: Mapping[str, Host]) -> Terms:
        """The terms of a request that `hosts` could serve now, under the price book in force."""
        ledger = self._ledger()
        return Terms.of(ledger.price_book_at(ledger.now()) or DEFAULT_BOOK, hosts.values())

    def estimate(self, work: Work, hosts: Mapping[str, Host], *, prompt_tokens: int, max_new_tokens: int) -> Estimate:
        """The lowest, expected and highest price of a request, before it is made."""
        return estimate(
            work,
            self.terms(hosts),
            prompt_tokens=prompt_tokens,
            max_new_tokens=max_new_tokens,
            hosts=hosts.values(),
        )

    def open(
        self,
        request_id: str,
        work: Work,
        hosts: Callable[[], Mapping[str, Host]],
        *,
        prompt_tokens: int,
        max_new_tokens: int,
    ) -> RequestTab:
        """Hold the highest price of a request, or raise InsufficientBalance or BudgetExceeded: then nothing starts.

        hosts: who could serve, by the names in usage events; asked again when the request has ended.
        """
        self.post_late()
        terms = self.terms(hosts())
        highest = estimate(work, terms, prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens).highest_wei
        tab = RequestTab(self, f"hold-{request_id}", work, hosts, terms)
        self._ledger().hold(tab.hold_id, self.user, highest, request_id=request_id, terms=terms)
        return tab

    def settle(self, hold_id: str, charges: tuple[Charge, ...], *, deployment: str) -> None:
        """Post what a request cost and release the rest; where the database does not answer, later again."""

        def post() -> None:
            self._ledger().settle(hold_id, charges, deployment=deployment)

        try:
            post()
        except LedgerUnavailable:
            log.warning("a price is posted later: the ledger does not answer", extra={"hold": hold_id})
            with self._lock:
                self._late.append(post)

    def post_late(self) -> None:
        """Post what could not be posted before. The ids are the same, so nothing is posted twice."""
        with self._lock:
            late, self._late = self._late, []
        while late:
            try:
                late[0]()
            except LedgerUnavailable:
                with self._lock:
                    self._late = late + self._late
                raise
            late.pop(0)


class RequestTab:
    """The tab of one request (`rios.words.events.Tab`)."""

    def __init__(
        self, charging: Charging, hold_id: str, work: Work, hosts: Callable[[], Mapping[str, Host]], terms: Terms
    ) -> None:
        self.hold_id = hold_id
        self._charging = charging
        self._work = work
        self._hosts = hosts
        self._known = dict(hosts())
        self._terms = terms

    def abandon(self) -> None:
        """The request was never sent: release all of it."""
        self._charging.settle(self.hold_id, (), deployment=self._work.model)

    def close(self, ended: Ended) -> None:
        """Rate what was measured, post it and release the rest. Who received nothing pays nothing."""
        charges: tuple[Charge, ...] = ()
        if ended.tokens_out and ended.events:
            request = Request(
                request_id=ended.request_id,
                model=self._work.model,
                trunk=ended.trunk,
                tokens_in=ended.tokens_in,
                tokens_out=ended.tokens_out,
            )
            hosts = {**self._hosts(), **self._known}
            done = ended.outcome == "done"
            charges = rate_request(request, ended.events, work=self._work, hosts=hosts, terms=self._terms, ended=done)
        self._charging.settle(self.hold_id, charges, deployment=self._work.model)
