"""Alerts as they come from a gateway: asked for at intervals, and told to callbacks, in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rios.words.errors import NetworkClosed, RiosError

if TYPE_CHECKING:
    from rios.services.alerts import Alert

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_END_S = 10.0


class Listener:
    """Tells each alert to come to each callback once; one that raises is called again. Close it."""

    def __init__(self, ask: Callable[[], list[Alert]], *, look_s: float = _LOOK_S) -> None:
        """ask: all alerts so far."""
        self._ask = ask
        self._look_s = look_s
        self._lock = threading.Lock()
        self._told: list[tuple[Callable[[Alert], None], set[str]]] = []
        """With each callback the keys of the alerts that it knows or that came before it."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, callback: Callable[[Alert], None]) -> None:
        """Have `callback` called with each alert to come. Raises as `ask`."""
        known = {alert.key for alert in self._ask()}
        with self._lock:
            self._told.append((callback, known))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rios-alerts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            try:
                alerts = self._ask()
            except NetworkClosed:
                return
            except RiosError as error:
                log.info("alerts are asked for again", extra={"reason": str(error)})
                continue
            with self._lock:
                told = list(self._told)
            for callback, known in told:
                for alert in alerts:
                    if alert.key not in known and self._tell(callback, alert):
                        known.add(alert.key)

    @staticmethod
    def _tell(callback: Callable[[Alert], None], alert: Alert) -> bool:
        try:
            callback(alert)
        except Exception as error:  # noqa: BLE001  somebody else's; it is called again
            log.warning("an alert was not taken", extra={"alert": alert.key, "reason": repr(error)})
            return False
        return True
