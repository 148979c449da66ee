"""The platform of a network, made when somebody first needs it: most notebooks deploy no application."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rios.words.errors import NetworkClosed

if TYPE_CHECKING:
    from rios.services.deployments.platform import Platform


class LazyPlatform:
    """Makes the platform once. Close it."""

    def __init__(self, make: Callable[[], Platform]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Platform | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<LazyPlatform {self._made!r}>"

    def __call__(self) -> Platform:
        """The platform. Raises NetworkClosed after `close`, LedgerUnavailable."""
        with self._lock:
            if self._closed:
                raise NetworkClosed("this network was closed; make another one")
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        """Close it where it was made."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, None
        if made is not None:
            made.close()
