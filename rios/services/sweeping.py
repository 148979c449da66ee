"""Ending what gateways that have died left behind, and forgetting what ended long ago: once for every kind of row.

Whoever lives says so by a lease in the database. While that was away nobody could: so a lease that is over says nothing
until the database has been there for a lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rios.words.errors import LedgerUnavailable, RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping, Select

    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

LEASE_S = 6.0
LOSING_S = 1.0
"""Who ends what others left for longer at a time is taken for dead himself."""
_FORGET_S = 10.0
_PAGE = 100


class Sweeper:
    """One for each kind of row, used by one thread."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        gone: Callable[[int], Select[*tuple[Any, ...]]],
        lose: Callable[[RowMapping], None],
        forget: Callable[[Connection, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """gone: selects the rows, with an `id`, of gateways that had died by then. lose: ends one of them.

        forget: deletes what ended long before then, in a transaction. Moments are the ledger's.
        """
        self._ledger = ledger
        self._gone, self._lose, self._forget = gone, lose, forget
        self._clock = clock
        self._well_since: float | None = None
        self._forgot_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Sweeper of {self._ledger!r}>"

    def was_away(self) -> None:
        """The database did not answer: nobody is taken for dead until it has been there for a lease again."""
        self._well_since = None

    def sweep(self) -> None:
        """End what has no gateway any more, for a second at most, and forget. Raises LedgerUnavailable."""
        try:
            self._sweep()
        except RiosError:
            self.was_away()
            raise

    def _sweep(self) -> None:
        now = self._ledger.now()
        with self._ledger.database.reading() as connection:
            lost = connection.execute(self._gone(now).limit(_PAGE)).mappings().all()
        clock = self._clock()
        if self._well_since is None:
            self._well_since = clock
        if clock - self._well_since > LEASE_S:
            for row in lost:
                if self._clock() - clock > LOSING_S:
                    break
                self._lose_one(row)
        if clock - self._forgot_at > _FORGET_S:
            self._forgot_at = clock
            self._ledger.transact(lambda batch: self._forget(batch.connection, now), alone=True)

    def _lose_one(self, row: RowMapping) -> None:
        try:
            self._lose(row)
        except LedgerUnavailable:
            raise
        except RiosError as error:  # of this one alone
            log.warning("what a gateway left is not accounted for", extra={"job": row["id"], "reason": str(error)})
