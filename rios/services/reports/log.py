"""What an attempt says while it is made; whoever may see the report reads it, in any process of the ledger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rios.reporting.runner import LINES_MAX
from rios.services.reports.values import Line
from rios.words.errors import RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.services.reports.store import Store
    from rios.services.reports.values import Run

log = logging.getLogger(__name__)


class Log:
    """The lines of one attempt."""

    def __init__(self, ledger: Ledger, store: Store, run: Run, holder: str) -> None:
        self._ledger, self._store, self._run, self._holder = ledger, store, run, holder
        self._said, self._last_at = 0, 0

    def say(self, texts: Sequence[str]) -> None:
        """Keep them, up to LINES_MAX in all. A report is not lost for want of a line: what cannot be kept is not."""
        wanted = texts[: LINES_MAX - self._said]
        if not wanted:
            return
        # Who looks asks for what is later than the last line there was: no two may be of one moment.
        first = max(self._ledger.now(), self._last_at + 1)
        lines = [Line(attempt=self._run.attempts, at=first + place, text=text) for place, text in enumerate(wanted)]
        number = self._said
        # Also where they are not kept: whether they are is not always known, and a number comes once.
        self._said += len(lines)
        self._last_at = lines[-1].at
        try:
            self._store.say(self._run, self._holder, number, lines)
        except RiosError as error:
            log.info("a line of a report was not kept", extra={"run": self._run.id, "reason": str(error)})
