"""The directory of a host's sandboxes, which one agent has at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from pathlib import Path

from rios.deploy.runtimes.durable import read_json, write_json

_LOOK_S = 0.2


class Place:
    """Held as long as the process lives, however that ends."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._state = directory / "agent.json"
        self._fd = os.open(directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, *, unless: threading.Event) -> None:
        """Wait until it is this process's. An agent without a worker is asked to leave; one with a worker stays.

        unless: ends the wait, and this process.
        """
        while not self._taken():
            held = read_json(self._state) or {}
            if held.get("orphan"):
                # Who holds the lock lives, and wrote its own number: no other process can have it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(held["pid"]), signal.SIGTERM)
            if unless.wait(_LOOK_S):
                raise SystemExit(0)
        self.say(orphan=False)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def say(self, *, orphan: bool) -> None:
        """What the next agent reads."""
        write_json(self._state, {"pid": os.getpid(), "orphan": orphan})
