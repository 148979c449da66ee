"""What went wrong on the way of requests, written into the ledger's database for the reliability report.

No request waits for it, and no price depends on it: what cannot be written is tried again while the process lives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rios.words.errors import LedgerUnavailable, NetworkClosed, RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.again import Again
    from rios.words.events import Ended

log = logging.getLogger(__name__)

WAITING_MAX = 10_000
"""Rows in memory while the database does not answer."""


class Faults:
    """Those of requests that have ended. Safe for threads."""

    def __init__(self, ledger: Callable[[], Ledger], again: Again) -> None:
        """again: writes them, those of half a second at a time."""
        self._ledger, self._again = ledger, again
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[dict[str, Any]] = []

    def add(self, ended: Ended, user: str) -> None:
        """Keep those of a request. Raises nothing."""
        if not ended.faults:
            return
        try:
            at = self._ledger().now()
        except RiosError as error:
            log.warning("faults are not kept", extra={"request_id": ended.request_id, "reason": str(error)})
            return
        rows = [
            {
                "request_id": ended.request_id, "kind": one.kind, "about": one.about, "user_id": user,
                "model": ended.model, "at": at, "count": one.count, "longest_us": one.longest_us,
            }
            for one in ended.faults
        ]  # fmt: skip
        with self._lock:
            room = WAITING_MAX - len(self._waiting)
            self._waiting += rows[:room]
        if len(rows) > room:
            log.warning("faults are not kept", extra={"request_id": ended.request_id, "reason": "too many wait"})
        self._again.add(self.written)

    def written(self) -> bool:
        """Write them; whether none waits any more."""
        with self._writing:
            with self._lock:
                rows = list(self._waiting)
            if not rows:
                return True
            try:
                self._ledger().transact(lambda batch: _put(batch.connection, rows), alone=True)
            except (LedgerUnavailable, NetworkClosed):
                return False
            with self._lock:
                del self._waiting[: len(rows)]
                return not self._waiting

    def close(self) -> None:
        """Write what waits, if that can be done now. Raises nothing."""
        try:
            written = self.written()
        except RiosError:
            written = False
        if not written:
            with self._lock:
                requests = len({row["request_id"] for row in self._waiting})
            log.warning("what went wrong on the way of %d requests is not written", requests)


def _put(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert rows; what is there already was written by an attempt of which it was not known."""
    # Not with the module: what a first request imports, it waits for, and most often nothing goes wrong with it.
    from sqlalchemy.dialects.postgresql import insert as insert_postgres
    from sqlalchemy.dialects.sqlite import insert as insert_sqlite

    from rios.storage.report_models import RequestFaultRow

    make = insert_sqlite if connection.dialect.name == "sqlite" else insert_postgres
    connection.execute(make(RequestFaultRow).on_conflict_do_nothing(), rows)
