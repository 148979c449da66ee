"""Answers that everybody may have: each is asked for by one at a time, and the others get what is known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")
log = logging.getLogger(__name__)
_CLOSE_S = 10.0


class Remembered(Generic[T]):
    """What `ask` answered. Belongs to the event loop; `ask` is called in a thread, by one however many want to know."""

    def __init__(self, ask: Callable[[], T], *, fresh_s: float, served_s: float) -> None:
        """fresh_s: so long nobody asks again. served_s: so long it is served while it is asked for again."""
        self._ask = ask
        self._fresh_s = fresh_s
        self._served_s = served_s
        self._found: T | None = None
        self._found_at = 0.0
        self._asking: asyncio.Future[T] | None = None

    async def now(self) -> T:
        """The answer. Raises as `ask` does where there is none that could be served."""
        age_s = time.monotonic() - self._found_at
        if self._found is not None and age_s < self._fresh_s:
            return self._found
        if self._asking is None:
            self._asking = asyncio.ensure_future(run_in_threadpool(self._ask))
            self._asking.add_done_callback(self._heard)
        if self._found is not None and age_s < self._served_s:
            return self._found
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """Wait some seconds for a question that is under way."""
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=_CLOSE_S)

    def _heard(self, asked: asyncio.Future[T]) -> None:
        self._asking = None
        if asked.cancelled():
            return
        error = asked.exception()
        if error is not None:
            log.info("what everybody may know is not known", extra={"reason": repr(error)})
            return
        self._found, self._found_at = asked.result(), time.monotonic()
