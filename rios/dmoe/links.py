"""All links of one trunk: who holds what, kept connected by a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

from rios.dmoe.link import Link, State
from rios.dmoe.peer import Peer
from rios.words.config import Settings
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

Table = list[list[tuple[Link, ...]]]


class Links:
    """The links of a trunk. `table[layer][expert]` are the connected links that hold an expert.

    The table is replaced as a whole whenever something changes, so the trunk's thread reads it without a lock.
    """

    def __init__(
        self,
        deployment: str,
        experts_per_layer: Sequence[int],
        settings: Settings,
        *,
        machine: str,
        area_bytes: int,
    ) -> None:
        self.table: Table = [[() for _ in range(count)] for count in experts_per_layer]
        self.links: tuple[Link, ...] = ()
        self.changed = threading.Event()
        self._deployment = deployment
        self._settings = settings
        self._machine = machine
        self._area_bytes = area_bytes
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name="rios-links", daemon=True)
        self._thread.start()

    def route(self, peers: Sequence[Peer], held: dict[str, dict[int, frozenset[int]]]) -> None:
        """The hosts of the deployment as the controller sees them now, and what each holds."""
        with self._lock:
            known = {link.name: link for link in self.links}
            kept: list[Link] = []
            for peer in peers:
                link = known.pop(peer.name, None)
                if link is not None and link.peer != peer:
                    link.down("the host has moved")
                    link = None
                if link is None:
                    link = Link(peer, self._settings)
                elif link.state is not State.DOWN and peer.name in held:
                    link.held = held[peer.name]
                elif link.state is State.DOWN:
                    link.retry_at = 0.0
                kept.append(link)
            for link in known.values():
                link.down("no longer part of the deployment")
            self.links = tuple(kept)
            self._rebuild()
        self._wake.set()

    def lose(self, link: Link, reason: str) -> None:
        """A link failed: nothing goes to it until it is connected again."""
        log.warning("host lost", extra={"host": link.name, "reason": reason, "deployment": self._deployment})
        with self._lock:
            link.down(reason)
            self._rebuild()
        self._wake.set()

    def forget(self, link: Link, layer: int, experts: Sequence[int]) -> None:
        """A host said that it does not hold these experts (any more)."""
        with self._lock:
            link.held[layer] = link.held.get(layer, frozenset()) - frozenset(experts)
            self._rebuild()

    @property
    def spin_us(self) -> int:
        """Polling pays only while every process that polls has a core of its own."""
        local = sum(link.peer.machine == self._machine for link in self.links)
        return self._settings.spin_us if local + 1 <= (os.cpu_count() or 1) else 0

    def _rebuild(self) -> None:
        table: list[list[list[Link]]] = [[[] for _ in row] for row in self.table]
        for link in self.links:
            if link.state is State.DOWN:
                continue
            for layer, experts in link.held.items():
                for expert in experts:
                    if layer < len(table) and expert < len(table[layer]):
                        table[layer][expert].append(link)
        self.table = [[tuple(holders) for holders in row] for row in table]
        self.changed.set()

    def _keep(self) -> None:
        while not self._closed:
            now = time.monotonic()
            for link in self.links:
                if link.state is State.DOWN and not link.connecting and link.retry_at <= now and not self._closed:
                    # A thread each: a frozen host takes the whole deadline, and must not keep the others waiting.
                    link.connecting = True
                    threading.Thread(target=self._connect, args=(link,), name="rios-connect", daemon=True).start()
            self._wake.wait(self._settings.reconnect_s / 2)
            self._wake.clear()

    def _connect(self, link: Link) -> None:
        try:
            self._open(link)
        finally:
            link.connecting = False

    def _open(self, link: Link) -> None:
        try:
            link.open(
                self._deployment,
                machine=self._machine,
                area_bytes=self._area_bytes,
                spin_us=self.spin_us,
            )
        except RiosError as error:
            link.last_error = str(error)
            link.retry_at = time.monotonic() + self._settings.reconnect_s
            return
        log.info("host connected", extra={"host": link.name, "shared_memory": link.shares_memory})
        with self._lock:
            if link not in self.links or self._closed:
                link.down("no longer part of the deployment")
            self._rebuild()

    def close(self) -> None:
        """Close all links and end the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=2 * self._settings.connect_timeout_s)
        with self._lock:
            for link in self.links:
                link.down("the trunk was closed")
            self.links = ()
            self._rebuild()
