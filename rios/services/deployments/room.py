"""Room on a host's disk: what images and root file systems leave free, and what is taken away so that it stays free.

A host removes what it fetched itself, when no instance stands on it: what nobody used for a long time, and, where the
disk has less room than is to stay free, what was used longest ago.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.runtimes.fetched import Fetched, Fetches, Mark
from rios.deploy.runtimes.watching import begun
from rios.words.errors import RiosError, SandboxFailed, UnsupportedRuntime

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Runtime
    from rios.words.config import Settings

log = logging.getLogger(__name__)

_LOOK_S = 60.0
"""A look reads the records of this host's instances, 500 of which take 25 ms of a thread."""
_JUST_S = 600.0
"""What was used so recently stays even where there is no room: it may have been fetched for a start that is to come."""
_TURN_S, _BRIEFLY_S, _ENDS_S = 120.0, 1.0, 10.0


def free_bytes(directory: Path) -> int:
    """What a user may still write to the disk of a directory, or of its nearest parent that is there."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long what nobody uses is kept, and what stays free of the disk."""

    kept_s: float = 7 * 86_400.0
    reserve_bytes: int = 2 << 30
    free: Callable[[Path], int] = free_bytes
    clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, options: Settings) -> Keeping:
        """As the settings say it."""
        return cls(kept_s=options.apps_images_kept_s, reserve_bytes=options.apps_reserve_bytes)


class Room:
    """That of one host. Close it: a look that is under way ends then."""

    def __init__(
        self, name: str, directory: Path, runtimes: Callable[[], Sequence[Runtime]], keeping: Keeping | None = None
    ) -> None:
        """name: the host's. directory: of its runtimes."""
        self._name, self._directory, self._runtimes = name, directory, runtimes
        self._keeping = keeping or Keeping()
        self.fetched = Fetched(directory, clock=self._keeping.clock)
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._every_s = min(_LOOK_S, max(self._keeping.kept_s, 1.0))
        self._next_at = time.monotonic() + self._every_s
        self._looking: Future[None] | None = None
        self._closing = threading.Event()

    def __repr__(self) -> str:
        return f"<Room of {self._name}>"

    def lacking(self, more_bytes: int = 0) -> str:
        """Why there is no room for so much more, and what to do; empty where there is."""
        free, keeps = self._keeping.free(self._directory), self._keeping.reserve_bytes
        if free >= keeps + more_bytes:
            return ""
        return (
            f"host {self._name} has {free} bytes free in {self._directory}, where {keeps} are to stay free "
            f"(RIOS_APPS_RESERVE_BYTES){f' and {more_bytes} more are needed' if more_bytes else ''}, and nothing else "
            "that it fetched can go: make room on that disk, or run elsewhere what needs more"
        )

    def make(self, more_bytes: int = 0, *, wait_s: float = _TURN_S) -> str:
        """Take away what is unused, from what was used longest ago on, until there is room. Why there is none then.

        wait_s: for who does that already.
        """
        if self.lacking(more_bytes):
            self._tidied(lambda mark: bool(self.lacking(more_bytes)), at_once=True, wait_s=wait_s)
        return self.lacking(more_bytes)

    def making(self) -> Callable[[], str]:
        """`make` for a pull, which asks before it begins, and then again and again: more comes meanwhile, so that is
        not held up by others."""
        waits = iter((_TURN_S,))
        return lambda: self.make(wait_s=next(waits, _BRIEFLY_S))

    def look_if_due(self) -> None:
        """Begin a look, once in a while, in a thread of its own."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_at or self._closing.is_set() or not (self._looking is None or self._looking.done()):
                return
            self._next_at = now + self._every_s
            self._looking = begun(self._look_alone, "rios-unused")

    def _look_alone(self) -> None:
        try:
            self.look()
        except Exception:
            log.exception("what nobody uses was not looked for", extra={"host": self._name})

    def look(self) -> None:
        """Take away what nobody has used for long, and more where there is no room."""
        before = self._keeping.clock() - self._keeping.kept_s
        self._tidied(lambda mark: mark.used_at < before or bool(self.lacking()), at_once=bool(self.lacking()))

    def sweep(self) -> None:
        """Take away what is left of a fetch for which there was no room."""
        self._sweep(at_once=True)

    def close(self) -> None:
        """End a look that is under way, before the runtimes are let go of."""
        self._closing.set()
        with self._lock:
            looking = self._looking
        try:
            if looking is not None:
                looking.result(_ENDS_S)
        except LateError:
            log.warning("a look for what is unused did not end", extra={"host": self._name})

    def _tidied(self, goes: Callable[[Mark], bool], *, at_once: bool, wait_s: float = _TURN_S) -> None:
        if not self._turn.acquire(timeout=wait_s):
            return  # whoever has it does the same
        try:
            self._tidied_alone(goes, at_once)
        finally:
            self._turn.release()

    def _tidied_alone(self, goes: Callable[[Mark], bool], at_once: bool) -> None:
        self._sweep(at_once=at_once)
        just = self._keeping.clock() - min(_JUST_S, self._keeping.kept_s)
        try:
            for mark in self.fetched.unused():
                if self._closing.is_set() or mark.used_at > just or not goes(mark):
                    return
                self._drop(mark)
        except OSError as error:
            log.warning("what is unused is not taken away", extra={"host": self._name, "reason": str(error)})

    def _sweep(self, *, at_once: bool) -> None:
        for runtime in self._fetching():
            if self._closing.is_set():
                return
            try:
                runtime.sweep(at_once=at_once)
            except (OSError, RiosError) as error:
                log.info("what is left of fetches stays", extra={"host": self._name, "reason": str(error)})

    def _drop(self, mark: Mark) -> None:
        what = {"host": self._name, "what": mark.base.digest}
        try:
            with self.fetched.taking(mark) as mine:
                if mine:
                    self._dropped(mark)
                    log.info("what nobody uses is taken away", extra={**what, "used_at": mark.used_at})
        except SandboxFailed as error:
            if not self._closing.is_set():  # nobody is asked any more then
                self.fetched.use(mark)  # by whom rios does not know
            log.info("what is unused stays", extra={**what, "reason": str(error)})
        except RiosError as error:
            log.info("what is unused stays for now", extra={**what, "reason": str(error)})

    def _dropped(self, mark: Mark) -> None:
        """Have the first runtime that works take it away."""
        why: RiosError = UnsupportedRuntime(f"no runtime of host {self._name} knows {mark.base}")
        for runtime in self._fetching():
            try:
                if runtime.drop(mark):
                    return
            except UnsupportedRuntime as error:
                why = error
        raise why

    def _fetching(self) -> list[Fetches]:
        return [one for one in self._runtimes() if isinstance(one, Fetches)]
