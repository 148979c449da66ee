"""Holding the highest price before a request is sent, and posting what it cost when it has ended."""

from __future__ import annotations

import copy
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rios.billing.estimate import STEP_TOKENS, Estimate, estimate
from rios.billing.ledger.values import HoldState
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.rating import Charge, rate
from rios.billing.usage import Work
from rios.services.accounting import pinned_terms
from rios.services.again import Again
from rios.services.faults import Faults
from rios.services.late import Late, Posting
from rios.services.living import Living
from rios.services.tab import Asked, RequestTab
from rios.words.errors import BudgetExceeded, LedgerConflict, LedgerUnavailable, NetworkClosed, RiosError
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.billing.ledger.values import Hold
    from rios.dmoe.manifest import Manifest

log = logging.getLogger(__name__)

GRACE_S = 3600.0
# Holds of processes that died are looked for with a request, no more often than this.
_EXPIRE_S = 60.0


def work_of(name: str, manifest: Manifest) -> Work:
    """What a model asks of hosts, from its manifest: the largest expert of each layer bounds the layer."""
    layers = [
        (layer.top_k, max(layer.expert_values(expert) for expert in range(layer.num_experts)))
        for layer in manifest.layers
    ]
    return Work.of(name, manifest.hidden_size, layers)


def terms_of(ledger: Ledger, user: str, hosts: Iterable[Host]) -> Terms:
    """The terms under which `hosts` could serve `user` now: the price book in force, its discount, its month so far."""
    standing = ledger.standing(user, ledger.now())
    return Terms.of(standing.book or DEFAULT_BOOK, hosts, discount=standing.discount, before=standing.used)


class TokenQuota(Protocol):
    """What bounds the tokens of users by day."""

    def take(self, user_id: str, tokens: int) -> None:
        """Take tokens, or raise TooManyRequests."""

    def give_back(self, user_id: str, tokens: int) -> None:
        """What was taken and not needed."""


def _check_price(asked: Asked, work: Work, terms: Terms) -> None:
    """Raise BudgetExceeded where a request can cost more, all steps of its hold together, than it pays at most."""
    if asked.max_price_wei is None:
        return
    most = estimate(work, terms, prompt_tokens=asked.prompt_tokens, max_new_tokens=asked.max_new_tokens)
    highest = most.highest_wei
    if highest > asked.max_price_wei:
        raise BudgetExceeded(
            f"a request of {asked.prompt_tokens} prompt tokens and up to {asked.max_new_tokens} new ones can cost "
            f"{format_ros(highest)}, where its workers ask up to {terms.ask_max_bp / 100:g} % of the price book's "
            f"prices, and it pays {format_ros(asked.max_price_wei)} at most (max_price): ask for fewer tokens, or pay "
            "more"
        )


class Charging:
    """Opens a tab for each request of one user. Close it."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        *,
        user: str,
        home: Path | None = None,
        step_tokens: int = STEP_TOKENS,
        grace_s: float = GRACE_S,
    ) -> None:
        """ledger: the open ledger; it may take a moment the first time.

        home: where prices that cannot be posted yet outlive the process. step_tokens: a request of more new tokens is
        held for in steps. grace_s: how long a paused request waits for money, unless
        a vote has set that.
        """
        self.user = user
        self.ledger = ledger
        self.step_tokens = step_tokens
        self.grace_s = grace_s
        self.quota: TokenQuota | None = None
        self.again = Again()
        self.faults = Faults(ledger, self.again)
        self._home = home
        self._living: list[Living] = []  # one, while the ledger is open, where there is a home; of all accounts
        self._ending = threading.Lock()
        self._ended = False
        self._late = Late(None if home is None else home / "late")
        self._expire_at = 0.0
        if self._late:
            self.again.add(self._is_posted)

    def grace_now_s(self) -> float:
        """How long a request that pauses now waits for money: by a vote, else `grace_s`."""
        try:
            voted = self.ledger().parameters().get("hold_grace_s")
        except LedgerUnavailable:  # which may be why it pauses
            return self.grace_s
        return self.grace_s if voted is None else float(voted)

    def of(self, user: str) -> Charging:
        """The same for another account of this ledger. It ends with this one."""
        other = copy.copy(self)
        other.user = user
        return other

    def opened(self, ledger: Ledger) -> None:
        """The ledger is open: post and release what processes of this home that died have left. Raises nothing."""
        try:
            with self._ending:
                if self._home is None or self._ended:
                    return
                self._living.append(Living(self._home))
            self._post_late(ledger)
            self._living[0].bury(ledger, functools.partial(self._post_kept, ledger))
        except (RiosError, OSError) as error:
            log.warning("what was held by processes that died stays held", extra={"reason": str(error)})

    def request_id(self) -> str:
        """What a new request is called. Raises as the ledger does that cannot be opened."""
        self.ledger()
        return self._living[0].request_id() if self._living else uuid.uuid4().hex

    def terms(self, hosts: Mapping[str, Host], *, user: str | None = None) -> Terms:
        """The terms of a request that `hosts` could serve now; see `terms_of`. user: who pays; this account without."""
        return terms_of(self.ledger(), self.user if user is None else user, hosts.values())

    def estimate(self, work: Work, hosts: Mapping[str, Host], *, prompt_tokens: int, max_new_tokens: int) -> Estimate:
        """The lowest, expected and highest price of a request, before it is made."""
        return estimate(
            work,
            self.terms(hosts),
            prompt_tokens=prompt_tokens,
            max_new_tokens=max_new_tokens,
            hosts=hosts.values(),
        )

    def open(self, asked: Sequence[Asked], work: Work, hosts: Callable[[], Mapping[str, Host]]) -> list[RequestTab]:
        """Hold the highest price of each request, or of its first step where it is long: all of them or none.

        Raises InsufficientBalance or BudgetExceeded: then nothing starts. So it is where one could cost more than it
        pays at most. Raises LedgerConflict for a request that is made again when its hold has come back to its owner.

        hosts: who could serve, by the names in usage events; asked again when the requests have ended.
        """
        self.post_late()
        self._expire()
        known = dict(hosts())
        terms = self.terms(known)
        for one in asked:
            _check_price(one, work, terms)
        tabs = [RequestTab(self, one, work, hosts, known=known, terms=terms) for one in asked]
        tokens = sum(one.tokens for one in asked)
        if self.quota is not None:
            self.quota.take(self.user, tokens)
        try:
            held = self.ledger().hold_all([tab.first(self.user) for tab in tabs])
            self._refuse_ended(held)
        except BaseException:
            self.unused(tokens)
            raise
        return tabs

    def _refuse_ended(self, held: Sequence[Hold]) -> None:
        """A request that is made again under its old id, when its hold is no more, could be paid by nobody.

        Of one that was posted, the same usage is posted again, which costs nothing.
        """
        over = [one for one in held if one.state in (HoldState.EXPIRED, HoldState.RELEASED)]
        if not over:
            return
        for one in held:
            if one.is_live:
                self.ledger().release(one.id)
        was = "has expired" if over[0].state is HoldState.EXPIRED else "was released"
        raise LedgerConflict(f"hold {over[0].id} of {over[0].request_id} {was}; ask again under another id")

    def unused(self, tokens: int) -> None:
        """Tokens that were asked for, and not needed."""
        if self.quota is not None:
            self.quota.give_back(self.user, tokens)

    def settle(self, hold_id: str, charges: Sequence[Charge], *, deployment: str) -> Callable[[], None]:
        """Post what a request cost and release the rest; where the database does not answer, later again.

        What is returned waits for it.
        """

        def later(error: RiosError) -> None:
            log.warning("a price is posted later", extra={"hold": hold_id, "reason": str(error)})
            self._late.keep(Posting(hold_id, deployment, tuple(charge.record for charge in charges)))
            self.again.add(self._is_posted)

        try:
            posted = self.ledger().begin_settle(hold_id, charges, deployment=deployment)
        except (LedgerUnavailable, NetworkClosed) as error:
            later(error)
            return lambda: None

        def wait() -> None:
            try:
                posted()
            except (LedgerUnavailable, NetworkClosed) as error:
                later(error)

        return wait

    def post_late(self) -> None:
        """Post what could not be posted before. The ids are the same, so nothing is posted twice.

        Raises LedgerUnavailable where the database still does not answer.
        """
        if self._late:
            self._post_late(self.ledger())

    def _post_kept(self, ledger: Ledger) -> None:
        """As `_post_late`, with what other processes of the home have kept by now."""
        self._late.look()
        self._post_late(ledger)

    def _post_late(self, ledger: Ledger) -> None:
        for posting in self._late.waiting():
            try:
                terms = pinned_terms(ledger, posting.hold_id) if posting.records else None
                charges = [rate(record, terms) for record in posting.records] if terms is not None else []
                ledger.settle(posting.hold_id, charges, deployment=posting.deployment)
            except LedgerUnavailable:
                raise
            except RiosError:
                log.exception("a late price will never be posted", extra={"hold": posting.hold_id})
                self._late.refuse(posting.hold_id)
            else:
                self._late.drop(posting.hold_id)

    def close(self) -> None:
        """Post what is late, if that can be done now, and try nothing any more."""
        self.again.close()
        self.faults.close()
        if self._late and not self._is_posted():
            log.warning("%d prices are not posted: the ledger does not answer", len(self._late))
        with self._ending:
            self._ended = True
            while self._living:
                self._living.pop().close(owing=bool(self._late))

    def _is_posted(self) -> bool:
        try:
            self.post_late()
        except LedgerUnavailable:
            return False
        return True

    def _expire(self) -> None:
        """Release what was held by processes that died."""
        now = time.monotonic()
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRE_S
            self.ledger().expire()
