"""Alerts about budgets and low balances: each is told once, to the log and to whoever asked to be called.

They are messages of the outbox, written with the entries that caused them: none is lost when the process ends before it
is told, and none is told for what was rolled back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rios.services.books import Books
from rios.services.moments import moment_of
from rios.words.display import Shown
from rios.words.errors import RiosError
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.billing.outbox import Dispatcher, Message

log = logging.getLogger(__name__)

# What is told late by a second is told in time; the question costs a read of an index.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Shown):
    """Somebody should know: a share of a budget is spent, or the balance has fallen to a share of what it was."""

    key: str
    """Unique for what it says."""
    about: str
    """ "budget" or "balance"."""
    user: str
    share_bp: int
    """In basis points: 7,500 are 75 %."""
    amount_wei: Wei
    """What is spent, or left."""
    whole_wei: Wei
    """The budget, or the balance after the last deposit."""
    at: datetime
    period: str | None
    """Of a budget: "day", "week", "month" or "total"."""

    @property
    def percent(self) -> str:
        """The share, such as "75 %"."""
        return f"{self.share_bp / 100:g} %"

    def __str__(self) -> str:
        amount, whole = format_ros(self.amount_wei), format_ros(self.whole_wei)
        if self.about == "budget":
            which = "in total" if self.period == "total" else f"a {self.period}"
            return f"{self.percent} of the budget of {whole} {which} are spent: {amount}"
        return f"the balance is below {self.percent} of what it was after the last deposit: {amount} of {whole}"


Callback = Callable[[Alert], None]


class Alerts:
    """Tells alerts, in a thread from `start` to `close`, or when `deliver` is called."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._lock = threading.Lock()
        self._callbacks: list[Callback] = []
        self._told: dict[str, list[Callback]] = {}
        """By the key of a message of which somebody could not be told: who was."""
        self._dispatcher: Dispatcher | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Alerts to the log and {len(self._callbacks)} callbacks>"

    def on_alert(self, callback: Callback) -> None:
        """Have `callback` called with each alert to come, in another thread. One that raises is called again later."""
        with self._lock:
            self._callbacks.append(callback)

    def all(self, user: str) -> list[Alert]:
        """Every alert about a user so far, told or not, oldest first."""
        from rios.billing.outbox import messages

        found = [_alert(message) for topic in _topics() for message in messages(self._books.ledger, topic=topic)]
        return sorted((alert for alert in found if alert.user == user), key=lambda alert: (alert.at, alert.key))

    def deliver(self) -> int:
        """Tell what is due now; how many messages that were. Raises LedgerUnavailable."""
        return self._made(self._books.ledger).run_once()

    def start(self) -> None:
        """Tell alerts as they come, as soon as the ledger is open."""
        self._books.when_open(self._begin)

    def close(self) -> None:
        """End the thread, and tell what is due. Waits no longer than for a transaction of the ledger, and callbacks."""
        with self._lock:
            dispatcher = None if self._closed else self._dispatcher
            self._closed = True
        if dispatcher is None:
            return
        dispatcher.close()
        try:
            dispatcher.run_once()
        except RiosError as error:
            log.warning("alerts are told when this ledger is next used", extra={"reason": str(error)})

    def _begin(self, ledger: Ledger) -> None:
        dispatcher = self._made(ledger)
        with self._lock:
            if not self._closed:
                dispatcher.start(interval_s=_LOOK_S)

    def _made(self, ledger: Ledger) -> Dispatcher:
        from rios.billing.ledger.epochs import CLOSED_TOPIC
        from rios.billing.outbox import Dispatcher

        with self._lock:
            if self._dispatcher is None:
                handlers = {**dict.fromkeys(_topics(), self._tell), CLOSED_TOPIC: _log_epoch}
                self._dispatcher = Dispatcher(ledger, handlers)
            return self._dispatcher

    def _tell(self, message: Message) -> None:
        """Log it once, and call whoever was not called with it yet. Raises what a callback raised last."""
        alert = _alert(message)
        if message.attempts == 1:
            log.warning("%s", alert, extra={"user": alert.user, "share_bp": alert.share_bp})
        with self._lock:
            callbacks = list(self._callbacks)
            told = self._told.pop(message.key, [])
        failed: Exception | None = None
        for callback in callbacks:
            if callback in told:
                continue
            try:
                callback(alert)
            except Exception as error:  # noqa: BLE001  somebody else's; it is raised once the others were told
                failed = error
            else:
                told.append(callback)
        if failed is not None:
            with self._lock:
                self._told[message.key] = told
            raise failed


def _topics() -> tuple[str, str]:
    from rios.billing.ledger.money import LOW_TOPIC
    from rios.billing.ledger.spending import BUDGET_TOPIC

    return BUDGET_TOPIC, LOW_TOPIC


def _alert(message: Message) -> Alert:
    said, low = message.payload, "balance_wei" in message.payload
    return Alert(
        key=message.key,
        about="balance" if low else "budget",
        user=said["user"],
        share_bp=said["share_bp"],
        amount_wei=Wei(int(said["balance_wei" if low else "spent_wei"])),
        whole_wei=Wei(int(said["full_wei" if low else "limit_wei"])),
        at=moment_of(message.created_at),
        period=None if low else said["period"],
    )


def _log_epoch(message: Message) -> None:
    log.info("an epoch was closed", extra=dict(message.payload))
