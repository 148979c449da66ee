"""A network with injected delay: a relay in front of each host's port that hands every byte on so much later."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from rios.dmoe import membership

_CHUNK_BYTES = 1 << 16


class Relay:
    """Listens on loopback and passes on to `target`, each way `delay_s` later. Order and bytes stay as they are.

    Threads and `time.sleep` rather than asyncio, whose timers round up to whole milliseconds.
    """

    def __init__(self, target: tuple[str, int], delay_s: float) -> None:
        self._target = target
        self._delay_s = delay_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more; what is open ends with its two sides."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                threading.Thread(target=self._read, args=(source, line), name="relay-in", daemon=True).start()
                threading.Thread(target=self._write, args=(sink, line), name="relay-out", daemon=True).start()

    def _read(self, source: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_CHUNK_BYTES)
            except OSError:
                data = b""
            line.put((time.perf_counter() + self._delay_s, data))

    def _write(self, sink: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            due, data = line.get()
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                sink.close()
                return


@contextmanager
def delayed(delay_s: float) -> Iterator[None]:
    """Networks that are made inside see every host behind a relay of `delay_s` seconds each way."""
    relays: dict[tuple[str, int], Relay] = {}
    peers_of = membership.peers_of

    def behind_relays(workers: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, (peer, said) in peers_of(workers).items():
            if peer.address not in relays:
                relays[peer.address] = Relay(peer.address, delay_s)
            found[name] = (replace(peer, address=relays[peer.address].address), said)
        return found

    with mock.patch.object(membership, "peers_of", behind_relays):
        try:
            yield
        finally:
            for relay in relays.values():
                relay.close()
