"""What could not be done yet is tried again, by one thread that is there while something waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

INTERVAL_S = 0.5
# An attempt waits for a ledger that does not answer, and no longer.
_CLOSE_S = 15.0


class Again:
    """Attempts that are repeated until they say that they are done. Close it."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._attempts: list[Callable[[], bool]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, attempt: Callable[[], bool]) -> None:
        """Call `attempt` every `interval_s` seconds until it returns True or raises; what it raises is logged.

        The same one twice is one.
        """
        with self._changed:
            if self._closed or attempt in self._attempts:
                return
            self._attempts.append(attempt)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rios-again", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Try nothing any more."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._attempts:
                    self._thread = None
                    return
                self._changed.wait_for(lambda: self._closed, self._interval_s)
                # One that is added again while it runs is not done with that.
                waiting, self._attempts = self._attempts, []
            for attempt in waiting:
                if self._closed:
                    return
                if not _done(attempt):
                    self.add(attempt)


def _done(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except Exception:
        log.exception("something that was tried again failed for good")
        return True
