"""One process beside this one at all times: told its orders, listened to, and started again whatever ends it."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

log = logging.getLogger(__name__)

_PAUSE_S = 0.25  # between the end of one process and the next, doubled up to
_PAUSE_S_MAX = 30.0  # while they end before
_STEADY_S = 60.0
_SHOWN = 200  # bytes of a line that cannot be read


class Process(Protocol):
    """As far as its keeper deals with it."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> IO[bytes] | None:
        """Its orders; at its end whoever it stands beside has gone."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """What it announces."""

    def wait(self) -> int | None:
        """Until it ends. Its exit code, where that is known."""


class Keeper:
    """Close it: the process is left alone then, and may end."""

    def __init__(self, what: str, start: Callable[[], Process], orders: Mapping[str, Any]) -> None:
        """what: is kept, in words. start: it, with pipes for both streams. orders: it reads them as a line of JSON.

        It answers with lines of JSON: what it announces, or its "last_words".
        """
        self.said: dict[str, Any] = {}
        """What it announced last; empty while there is none that has."""
        self._what, self._start, self._orders = what, start, orders
        self._last_words = ""
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._process: Process | None = None
        threading.Thread(target=self._keep, name=f"rios-keeper {what}", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Keeper of {self._what}{'' if self.said else ', which does not serve'}>"

    def _keep(self) -> None:
        pause_s = _PAUSE_S
        while True:
            born = time.monotonic()
            with self._lock:
                if self._ending.is_set():
                    return
                process = self._begun(pause_s)
            if process is not None:
                code = self._served(process)
                if self._ending.is_set():
                    return
                if time.monotonic() - born > _STEADY_S:
                    pause_s = _PAUSE_S
                said = {"pid": process.pid, "exit_code": code, "last_words": self._last_words, "pause_s": pause_s}
                log.error("%s ended; starting it again", self._what, extra=said)
            if self._ending.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def _begun(self, pause_s: float) -> Process | None:
        """One; None where the machine has no process, memory or descriptor to spare for it just now."""
        try:
            self._process = self._start()
        except OSError as error:
            said = {"reason": repr(error), "pause_s": pause_s}
            log.error("%s cannot be started; trying again", self._what, extra=said)
            return None
        return self._process

    def _served(self, process: Process) -> int | None:
        """From its orders to its end: its exit code."""
        self._tell(process)
        self._listen(process)
        code = process.wait()
        _let_go(process)
        return code

    def _tell(self, process: Process) -> None:
        assert process.stdin is not None
        orders = json.dumps(self._orders).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError, ValueError):  # it ended at once, as it says, or `close` closed this
            process.stdin.write(orders)
            process.stdin.flush()

    def _listen(self, process: Process) -> None:
        """Until it ends."""
        self._last_words = ""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                said = _object(line)
                if said is None:
                    log.warning("%s said what is no JSON object", self._what, extra={"line": repr(line[:_SHOWN])})
                elif "last_words" in said:
                    self._last_words = str(said["last_words"])
                else:
                    self.said = said
        self.said = {}

    def close(self) -> None:
        """Tell it, by the end of its orders, that whoever it stands beside has gone."""
        with self._lock:
            self._ending.set()
            if self._process is not None:
                _let_go(self._process)


def _object(line: bytes) -> dict[str, Any] | None:
    """None where it is no JSON object."""
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        return said if isinstance(said, dict) else None
    return None


def _let_go(process: Process) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
