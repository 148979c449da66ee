"""A thread that looks at something again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Looker:
    """Calls `look` every so often from `start` to `close`. What it raises ends it."""

    def __init__(self, look: Callable[[], None], *, name: str, look_s: float, end_s: float) -> None:
        """name: of the thread. look_s: between two looks, and before the first. end_s: how long a look may take."""
        self._look = look
        self._look_s = look_s
        self._end_s = end_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, if it was started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(self._end_s)

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            self._look()
