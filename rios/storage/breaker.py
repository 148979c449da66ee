"""A circuit breaker: what does not answer is not waited for by everybody, but tried by one from time to time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rios.words.display import Shown

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""So soon is a broken part tried again, and so late at most is it noticed that it is back."""


class Breaker(Shown):
    """Of one part that others depend on. Safe for threads."""

    def __init__(self, name: str, *, retry_s: float = RETRY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._again_at: float | None = None
        self._why = ""

    def __repr__(self) -> str:
        return f"<Breaker {self.name}: {self.why or 'works'}>"

    @property
    def why(self) -> str | None:
        """What the part failed of; None while it is thought to work."""
        with self._lock:
            return None if self._again_at is None else self._why

    def allows(self) -> bool:
        """Whether to try now: always while it works, else one caller in `retry_s` seconds."""
        with self._lock:
            if self._again_at is None:
                return True
            now = self._clock()
            if now < self._again_at:
                return False
            self._again_at = now + self.retry_s
            return True

    def failed(self, error: BaseException) -> None:
        """The part did not answer."""
        with self._lock:
            first = self._again_at is None
            self._again_at = self._clock() + self.retry_s
            self._why = f"{type(error).__name__}: {error}"
        if first:
            log.warning("%s does not answer", self.name, extra={"reason": self._why})

    def succeeded(self) -> None:
        """The part answered."""
        with self._lock:
            was_broken, self._again_at = self._again_at is not None, None
        if was_broken:
            log.info("%s answers again", self.name)
