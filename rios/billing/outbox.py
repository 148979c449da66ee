"""The outbox: messages that were decided on with the entries that made them true, delivered afterwards.

A message is written in the transaction of its cause, so it is neither sent for what was rolled back nor lost when the
process dies. Delivery is at least once: a process may die between a handler's return and the mark of it. The key of a
message is unique, so who receives one twice can tell. Several processes may deliver from one outbox; a message is
leased to one of them at a time.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from rios.billing.ledger.batch import Batch
from rios.billing.ledger.ledger import Ledger
from rios.storage.models import OutboxRow
from rios.words.errors import RiosError

_log = logging.getLogger(__name__)
LEASE_US = 60 * 10**6
"""Another process takes a message over when it was not marked this long after it was taken."""
RETRY_US, RETRY_MAX_US = 10**6, 3600 * 10**6
"""After a failed delivery: one second, twice as long after each further one, one hour at most."""
_PAGE = 100
_ERROR_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message."""

    id: int
    topic: str
    """What it is about: "budget.used", "balance.low", "epoch.closed"."""
    key: str
    """Unique for what it says."""
    payload: Mapping[str, Any]
    created_at: int
    """Microseconds of UTC since 1970."""
    attempts: int
    delivered_at: int | None
    error: str | None
    """What the last delivery failed of."""


Handler = Callable[[Message], None]
"""Delivers a message, or raises."""


def messages(ledger: Ledger, *, topic: str | None = None, delivered: bool | None = None) -> Iterator[Message]:
    """The messages of the outbox, oldest first; of one topic, or only those that were (not) delivered."""
    wanted = select(OutboxRow.__table__).order_by(OutboxRow.id)
    if topic is not None:
        wanted = wanted.where(OutboxRow.topic == topic)
    if delivered is not None:
        done = OutboxRow.delivered_at
        wanted = wanted.where(done.is_not(None) if delivered else done.is_(None))
    with ledger.database.reading() as connection, connection.execute(wanted) as result:
        for row in result.mappings():
            yield _message(dict(row))


class Dispatcher:
    """Delivers messages to the handlers of their topics; those of other topics wait for a dispatcher with a handler."""

    def __init__(
        self,
        ledger: Ledger,
        handlers: Mapping[str, Handler],
        *,
        retry_max_us: int = RETRY_MAX_US,
        page: int = _PAGE,
        senders: int = 1,
    ) -> None:
        """handlers: by topic. retry_max_us: the longest pause after a failure. page: messages leased at once.

        senders: threads that deliver, so that a slow receiver holds up one of them.
        """
        self._retry_max_us = retry_max_us
        self._page = page
        self._senders = senders
        self._ledger = ledger
        self._handlers = dict(handlers)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._found = threading.Condition()
        self._rounds = 0
        """How often something was found due."""

    def run_once(self, *, at: int | None = None) -> int:
        """Deliver all that is due at `at` (microseconds; the ledger's clock without); how many were delivered.

        A handler that raises has its message tried again later; the others are not held up.
        """
        done = 0
        while taken := self._take(self._now(at)):
            for message in taken:
                error = self._deliver(message)
                self._mark(message, error, at=self._now(at))
                done += error is None
        return done

    def start(self, *, interval_s: float = 1.0) -> None:
        """Look every `interval_s` seconds for what is due, and deliver it, in threads, until `close`."""
        if self._threads:
            return
        self._threads = [threading.Thread(target=self._look, args=(interval_s,), name="rios-outbox", daemon=True)]
        self._threads += [
            threading.Thread(target=self._send, name="rios-sender", daemon=True) for _ in range(self._senders)
        ]
        for one in self._threads:
            one.start()

    def close(self, *, timeout_s: float = 10.0) -> None:
        """End the threads after the deliveries that are under way."""
        self._stop.set()
        with self._found:
            self._found.notify_all()
        until = time.monotonic() + timeout_s
        for one in self._threads:
            one.join(max(0.0, until - time.monotonic()))

    def _look(self, interval_s: float) -> None:
        """One looks for all: most often there is nothing."""
        while not self._stop.wait(interval_s):
            try:
                due = self._is_due(self._now(None))
            except RiosError as error:
                # The database may come back; what is not delivered stays in it.
                _log.warning("messages could not be delivered now: %s", error)
                continue
            if due:
                with self._found:
                    self._rounds += 1
                    self._found.notify_all()

    def _send(self) -> None:
        seen = 0
        while True:
            with self._found:
                self._found.wait_for(lambda: self._stop.is_set() or self._rounds != seen)  # noqa: B023
                seen = self._rounds
            if self._stop.is_set():
                return
            try:
                self.run_once()
            except RiosError as error:
                _log.warning("messages could not be delivered now: %s", error)

    def _now(self, at: int | None) -> int:
        return self._ledger.now() if at is None else at

    def _take(self, now: int) -> list[Message]:
        topics = list(self._handlers)

        def run(batch: Batch) -> list[Message]:
            wanted = select(OutboxRow.key).where(*_due(now, topics)).order_by(OutboxRow.id).limit(self._page)
            rows = batch.rows(OutboxRow, key=("key",))
            taken = []
            for key in batch.connection.scalars(wanted).all():
                row = rows.get(key)
                assert row is not None
                row = rows.change(row, attempts=row["attempts"] + 1, next_attempt_at=now + LEASE_US)
                taken.append(_message(row))
            return taken

        # Most often there is nothing, and then nobody need wait for a transaction that writes.
        return self._ledger.transact(run, alone=True) if self._is_due(now) else []

    def _is_due(self, now: int) -> bool:
        due = select(OutboxRow.id).where(*_due(now, list(self._handlers))).limit(1)
        with self._ledger.database.reading() as connection:
            return connection.scalar(due) is not None

    def _deliver(self, message: Message) -> str | None:
        try:
            self._handlers[message.topic](message)
        except Exception as error:  # noqa: BLE001 (a handler may raise anything; it is kept with the message)
            _log.warning("message %s was not delivered, attempt %d: %s", message.key, message.attempts, error)
            return f"{type(error).__name__}: {error}"[:_ERROR_MAX]
        return None

    def _mark(self, message: Message, error: str | None, *, at: int) -> None:
        def run(batch: Batch) -> None:
            rows = batch.rows(OutboxRow, key=("key",))
            row = rows.get(message.key)
            assert row is not None
            if error is None:
                rows.change(row, delivered_at=at, error=None)
            elif row["delivered_at"] is None:
                pause = min(RETRY_US << min(message.attempts - 1, 32), self._retry_max_us)
                rows.change(row, next_attempt_at=at + pause, error=error)

        self._ledger.transact(run)


def _due(now: int, topics: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    # Nothing waits longer than the longest pause: what seems to was written before the clock was set back.
    soon = or_(OutboxRow.next_attempt_at <= now, OutboxRow.next_attempt_at > now + RETRY_MAX_US)
    return OutboxRow.delivered_at.is_(None), soon, OutboxRow.topic.in_(topics)


def _message(row: Mapping[str, Any]) -> Message:
    fields = {name: row[name] for name in ("id", "topic", "key", "created_at", "attempts", "delivered_at", "error")}
    return Message(**fields, payload=json.loads(row["payload"]))
