"""What was read, as long as nobody writes: asked for without a transaction, a wait, or another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rios.storage.engine import Database

T = TypeVar("T")


class Unchanged(Generic[T]):
    """What `read` found for each key. Stale after any commit to the database, of whichever process; not on PostgreSQL,
    which does not say so: there it is read each time."""

    def __init__(self, database: Database, read: Callable[[str], T], *, most: int) -> None:
        """most: so many keys are remembered."""
        self._database = database
        self._read = read
        self._most = most
        self._lock = threading.Lock()
        self._mark: int | None = None
        self._found: dict[str, T] = {}

    def known(self, key: str) -> T | None:
        """What was read for a key, if nothing was written since. It takes microseconds: an event loop may ask."""
        return self._known(key, self._database.mark())

    def __call__(self, key: str) -> T:
        """The same, read now if need be. Raises as `read` does."""
        mark = self._database.mark()  # before it is read: what is written meanwhile makes it stale
        found = self._known(key, mark)
        if found is None:
            found = self._read(key)
            self._keep(key, found, mark)
        return found

    def _known(self, key: str, mark: int | None) -> T | None:
        with self._lock:
            return self._found.get(key) if mark is not None and mark == self._mark else None

    def _keep(self, key: str, found: T, mark: int | None) -> None:
        with self._lock:
            if mark is None:
                return
            if mark != self._mark or len(self._found) >= self._most:
                self._mark, self._found = mark, {}
            self._found[key] = found
