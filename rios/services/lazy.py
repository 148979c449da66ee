"""A part of a network that is made when somebody first needs it: most notebooks deploy no application."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from rios.words.errors import NetworkClosed


class Closes(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """End it."""


T = TypeVar("T", bound=Closes)


class Lazy(Generic[T]):
    """Makes it once. Close it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Lazy {self._made!r}>"

    @property
    def is_made(self) -> bool:
        """Whether somebody has needed it, and it has not been closed."""
        return self._made is not None

    def __call__(self) -> T:
        """It. Raises NetworkClosed after `close`, and as what makes it."""
        with self._lock:
            if self._closed:
                raise NetworkClosed("this network was closed; make another one")
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        """Close it where it was made. Nothing happens to it twice."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, None
        if made is not None:
            made.close()
