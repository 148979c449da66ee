"""Threads that many owners share, none of whom gets more than a part of them: who is slow delays himself alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Shares:
    """A pool of threads. Close it."""

    def __init__(self, threads: int, share: int, *, name: str) -> None:
        """share: calls of one owner that are under way or wait, at most. name: of its threads."""
        self._share = share
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Shares of {len(self._taken)} owners>"

    def begin(self, owner: str, call: Callable[[], None]) -> bool:
        """Have a thread make a call, which raises nothing; False where its owner has as many as it may."""
        with self._lock:
            if self._taken[owner] >= self._share:
                return False
            self._taken[owner] += 1
        try:
            self._pool.submit(self._run, owner, call)
        except RuntimeError:  # it is closed
            self._give_back(owner)
            return False
        return True

    def close(self, *, wait: bool) -> None:
        """Begin nothing more. wait: for what has begun."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _run(self, owner: str, call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            self._give_back(owner)

    def _give_back(self, owner: str) -> None:
        with self._lock:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
