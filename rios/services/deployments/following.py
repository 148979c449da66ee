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
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    readers: dict[str, threading.Thread] = {}
    left = threading.Event()

    def read(host: Host, name: str) -> None:
        # What went wrong with one replica's log ends that one alone.
        try:
            for line in host.logs(name, follow=True):
                if left.is_set():
                    return
                lines.put(line.text)
        except NotFound:
            return  # nothing of it is kept any more
        except RiosError as error:
            lines.put(f"(the log of {name} ends: {error})")

    def look() -> None:
        hosts = platform.hosts.now()
        for one in platform.store.replicas(app_id, ended=True):
            if one.id in readers or not one.started_at or replica not in (None, one.id) or one.host not in hosts:
                continue
            thread = threading.Thread(target=read, args=(hosts[one.host], one.id), name="rios-logs", daemon=True)
            readers[one.id] = thread
            thread.start()

    try:
        while True:
            last = not alive()
            look()
            try:
                while True:
                    yield lines.get(timeout=_LOOK_S)
            except queue.Empty:
                if last and not any(thread.is_alive() for thread in readers.values()):
                    return
    finally:
        left.set()
