"""The way to a Dask scheduler, found again after it was away.

Dask's own client closes itself for good where a scheduler stays away for longer than its timeout.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from distributed import Client

from rios.dmoe.comms import keep_fresh, security_of
from rios.words.config import Settings
from rios.words.errors import NetworkClosed

log = logging.getLogger(__name__)


class _Client(Client):
    """One that leaves no thread: Dask's keeps its loop where it could not connect, and where it closed by itself."""

    def __init__(self, *args: Any, **more: Any) -> None:
        try:
            super().__init__(*args, **more)  # type: ignore[no-untyped-call]
        except OSError:
            self.end_loop()
            raise

    def end_loop(self) -> None:
        """To be called once it is closed; again is fine."""
        self._loop_runner.stop()  # type: ignore[no-untyped-call]
        # One whose closing ran out of time would be closed again when it is collected, by a loop that is no more.
        self.status = "closed"


class Scheduler:
    """Calling it gives a Dask client; a new one where the last has closed itself."""

    def __init__(self, address: str, options: Settings) -> None:
        """Raises OSError where no scheduler answers at `address`."""
        self._address = address
        self._options = options
        self._lock = threading.Lock()
        self._closed = False
        self._client = self._made()

    def __call__(self) -> Any:
        """The client. Raises OSError where the scheduler does not answer, NetworkClosed after `close`."""
        with self._lock:
            if self._closed:
                raise NetworkClosed("the network was closed")
            if self._client.status == "closed":
                self._client.end_loop()
                self._client = self._made()
                log.info("the scheduler is back", extra={"address": self._address})
            return self._client

    def _made(self) -> Any:
        made: Any = _Client(
            self._address,
            timeout=self._options.connect_timeout_s,
            set_as_default=False,
            security=security_of(self._options, address=self._address),
        )
        made.loop.add_callback(keep_fresh, made, self._options)
        return made

    def close(self) -> None:
        """End it; the scheduler may have gone."""
        with self._lock:
            self._closed = True
        try:
            self._client.close(timeout=1)
        except (OSError, TimeoutError, RuntimeError) as error:
            log.info("the Dask client did not close cleanly", extra={"reason": repr(error)})
        self._client.end_loop()
