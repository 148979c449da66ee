"""The lines of a deployment as they come, from replicas that come and go."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rios.words.errors import NotFound, RiosError

if TYPE_CHECKING:
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.platform import Platform

_LOOK_S = 0.2


def follow(platform: Platform, app_id: str, replica: str | None, alive: Callable[[], bool]) -> Iterator[str]:
    """Lines of all replicas, or of one, until `alive` says that there is nothing more to come."""
    readers = _Readers(platform, app_id, replica)
    try:
        while True:
            last = not alive()
            readers.look()
            yield from readers.lines()
            if last and not readers.read_on():
                return
    finally:
        readers.left.set()


class _Readers:
    """A thread for each replica's log."""

    def __init__(self, platform: Platform, app_id: str, replica: str | None) -> None:
        self._platform, self._app_id, self._replica = platform, app_id, replica
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self.left = threading.Event()

    def look(self) -> None:
        """Read the logs of replicas that are new."""
        hosts = self._platform.hosts.now()
        logged = self._platform.store.logged(self._app_id)
        known = {one.id for one in logged}  # others never come again
        self._threads = {name: one for name, one in self._threads.items() if name in known or one.is_alive()}
        for one in logged:
            if one.id in self._threads or not one.started_at or one.host not in hosts:
                continue
            if self._replica in (None, one.id):
                thread = threading.Thread(
                    target=self._read, args=(hosts[one.host], one.id), name="rios-logs", daemon=True
                )
                self._threads[one.id] = thread
                thread.start()

    def lines(self) -> Iterator[str]:
        """What has come, until nothing comes for a while."""
        while True:
            try:
                yield self._lines.get(timeout=_LOOK_S)
            except queue.Empty:
                return

    def read_on(self) -> bool:
        """Whether a log is still being read."""
        return any(thread.is_alive() for thread in self._threads.values())

    def _read(self, host: Host, name: str) -> None:
        # What went wrong with one replica's log ends that one alone.
        try:
            for line in host.logs(name, follow=True):
                if self.left.is_set():
                    return
                self._lines.put(line.text)
        except NotFound:
            return  # nothing of it is kept any more
        except RiosError as error:
            self._lines.put(f"(the log of {name} ends: {error})")
