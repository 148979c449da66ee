"""Epochs on their own schedule: closed at intervals, posted, and owners paid, for as long as a network is open."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from rios.services.books import Books
from rios.services.settlement import Settlement
from rios.words.errors import NetworkClosed, RiosError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rios.billing.ledger.ledger import Ledger
    from rios.services.settlement import Settled

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""Closing waits no longer for what is under way. It is finished by the next schedule, or by hand."""
_PAUSE_S, _PAUSE_S_MAX = 1.0, 300.0  # after a failure, doubled after each further one
_LOOK_S = 60.0  # a machine that slept, or whose clock was set, is late by no more


class EpochSchedule:
    """Settles at intervals, counted from the last epoch's end whoever closed it, so a restart delays nothing.

    Nothing ends it but `close`: whatever fails is logged and tried again.
    """

    def __init__(
        self,
        books: Books,
        settlement: Settlement,
        settle: Callable[[], Settled | None],
        *,
        interval_s: float | None,
        pause_s: float = _PAUSE_S,
        look_s: float = _LOOK_S,
    ) -> None:
        """settle: closes an epoch. interval_s: unless a vote has set another; None: only as a vote has set it.

        pause_s: after a first failure. look_s: how often it is seen whether one is due.
        """
        self._books = books
        self._settlement = settlement
        self._settle = settle
        self._interval_s = interval_s
        self._pause_s = pause_s
        self._look_s = look_s
        self._since = time.monotonic()
        self._tried_at = 0
        self._owing = False
        """Whether owners may be due something by a root that was not final, or that they were not paid by yet."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rios-epochs", daemon=True)

    def __repr__(self) -> str:
        every = "as a vote says" if self._interval_s is None else f"every {self._interval_s:g} s"
        return f"<EpochSchedule {every}>"

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """End it. What is under way is waited for `timeout_s` seconds at most: it is kept, and goes on later."""
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("an epoch is left as it is: the next schedule, or settle(), goes on with it")

    def _run(self) -> None:
        # A vote is no hurry, and most networks have none.
        wait_s, pause_s = self._look_s if self._interval_s is None else 0.0, self._pause_s
        while not self._stop.wait(wait_s):
            try:
                wait_s = self.step()
            except NetworkClosed:
                return
            except Exception as error:
                if self._stop.is_set():  # what it needs was closed meanwhile
                    return
                if isinstance(error, RiosError):
                    reason = {"reason": str(error), "pause_s": pause_s}
                    log.warning("an epoch could not be settled now; it is tried again", extra=reason)
                else:
                    log.exception("an epoch could not be settled; it is tried again", extra={"pause_s": pause_s})
                wait_s, pause_s = pause_s, min(2 * pause_s, _PAUSE_S_MAX)
            else:
                pause_s = self._pause_s

    def step(self) -> float:
        """Do what is due now; after how many seconds to look again. Raises whatever settling raises."""
        ledger = self._books.ledger
        now = ledger.now()
        voted = ledger.parameters().get("epoch_interval_s")
        interval_s = self._interval_s if voted is None else float(voted)
        if interval_s is None:
            return self._look_s
        left_s = self._left_s(ledger, now, interval_s)
        if left_s <= 0:
            self._close_epoch()
            self._since, self._tried_at, self._owing = time.monotonic(), now, True
            left_s = interval_s
        if self._owing:
            done = self._settlement.pay_out()
            if done.paid:
                log.info("owners were paid", extra={"epoch": done.epoch, "wei": str(done.total_wei)})
            self._owing = self._settlement.pending
        return min(left_s, self._look_s)

    def _close_epoch(self) -> None:
        self._settlement.sync()
        if self._settlement.challenged:
            log.error("the last root was challenged: look at it, then settle() posts it again; use is kept until then")
            return
        settled = self._settle()
        if settled is not None:
            log.info("settled", extra={"epoch": settled.epoch, "root": settled.root, "wei": str(settled.total_wei)})

    def _left_s(self, ledger: Ledger, now: int, interval_s: float) -> float:
        """Seconds until an epoch is due by the ledger's clock; where that was set back, in two intervals at most."""
        epochs = ledger.epochs()
        if epochs:
            begun_at = epochs[-1].closed_at
        else:
            first = next(iter(ledger.entries(up_to=1)), None)
            begun_at = now if first is None else first.at
        by_clock_s = (max(begun_at, self._tried_at) - now) / 1e6 + interval_s
        return min(by_clock_s, 2 * interval_s - (time.monotonic() - self._since))
