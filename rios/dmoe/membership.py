"""Who is there: hosts as Dask workers announce them, seen through the scheduler while it lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from rios.dmoe.peer import Peer
from rios.storage.breaker import Breaker
from rios.words.config import Settings

log = logging.getLogger(__name__)


def peers_of(workers: dict[str, Any]) -> dict[str, tuple[Peer, dict[str, Any]]]:
    """Hosts by name from a scheduler's `workers`, with what each announced."""
    found: dict[str, tuple[Peer, dict[str, Any]]] = {}
    for dask_address, worker in workers.items():
        said = (worker.get("metrics") or {}).get("rios")
        if not said or not said.get("port"):
            continue
        peer = Peer(
            str(said["name"]),
            (str(said["address"]), int(said["port"])),
            str(said["key"]),
            str(said["machine"]),
        )
        found[peer.name] = (
            peer,
            {**said, "dask_address": dask_address, "worker_pid": said.get("worker_pid")},
        )
    return found


def agents_of(workers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What agents of hosts that run applications announce, by their names, from a scheduler's `workers`."""
    found = [(worker.get("metrics") or {}).get("rios_apps") for worker in workers.values()]
    return {str(said["name"]): said for said in found if said and said.get("port")}


class Membership:
    """Asks the scheduler at intervals. While it cannot be reached, the last answer stands."""

    def __init__(self, scheduler: Callable[[], Any], settings: Settings) -> None:
        """scheduler: gives a Dask client, or raises OSError."""
        self._scheduler = scheduler
        self._settings = settings
        self._listeners: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self.hosts: dict[str, tuple[Peer, dict[str, Any]]] = {}
        self.agents: dict[str, dict[str, Any]] = {}
        self.breaker = Breaker("scheduler")
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="rios-membership", daemon=True)
        self._thread.start()

    @property
    def scheduler_alive(self) -> bool:
        """Whether the scheduler answered when it was asked last."""
        return self.breaker.why is None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever hosts have come, gone or moved."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """The end of `subscribe`."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def refresh(self) -> bool:
        """Ask now, unless it is known that nobody answers. True when something changed."""
        if not self.breaker.allows():
            return False
        try:
            client = self._scheduler()
            answer = client.sync(
                client.scheduler.identity,
                n_workers=-1,
                callback_timeout=self._settings.connect_timeout_s,
            )
        except (
            OSError,
            RuntimeError,
            AttributeError,
            ValueError,
        ) as error:  # TimeoutError and CommClosedError are OSError
            self.breaker.failed(error)  # it says so; we go on with the hosts known
            return False
        self.breaker.succeeded()
        self.agents = agents_of(answer["workers"])
        hosts = peers_of(answer["workers"])
        changed = {name: peer for name, (peer, _) in hosts.items()} != {
            name: peer for name, (peer, _) in self.hosts.items()
        }
        self.hosts = hosts
        return changed

    def _watch(self) -> None:
        while not self._stop.wait(self._settings.membership_interval_s):
            try:
                if self.refresh():
                    for listener in list(self._listeners):
                        listener()
            except Exception:
                # Whatever it is, the next answer may be better, and without this thread nobody would join again.
                log.exception("looking for hosts failed; trying again")

    def close(self) -> None:
        """End the watching."""
        self._stop.set()
        self._thread.join(timeout=2 * self._settings.connect_timeout_s)
