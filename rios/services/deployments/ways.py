"""Ways to replicas on other hosts: a loopback port of this process for each, whose connections go on through the agent.

Every connection proves that it knows the agent's key, over TLS 1.3 in a secured network, so that nobody reaches an
application but by a gateway. A port is opened when it is first asked for, and closed with the replica.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection

from rios.dmoe.greeting import connect
from rios.dmoe.peer import Peer
from rios.dmoe.tls import TlsSocket
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Connection
from rios.services.deployments.agent_wire import WAY
from rios.words.config import Settings
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_BACKLOG = 128
_NEW_S = 30.0


class Ways:
    """The ways to one host's replicas. Close it."""

    def __init__(self, peer: Callable[[], Peer], network_id: str, settings: Settings) -> None:
        """peer: where the agent is now."""
        self._peer, self._network_id, self._settings = peer, network_id, settings
        self._lock = threading.Lock()
        self._listeners: dict[str, tuple[socket.socket, float]] = {}
        """By replica: where its connections come in, and since when."""
        self._under_way: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Ways to {len(self._listeners)} replicas>"

    def to(self, replica_id: str) -> tuple[str, int]:
        """Host and port that lead to a replica from this process."""
        with self._lock:
            known = self._listeners.get(replica_id)
            if known is not None:
                listener = known[0]
            else:
                listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
                self._listeners[replica_id] = (listener, time.monotonic())
                threading.Thread(
                    target=self._accept, args=(replica_id, listener), name=f"rios-way-{replica_id}", daemon=True
                ).start()
            name = listener.getsockname()
        return str(name[0]), int(name[1])

    def end(self, replica_id: str) -> None:
        """A replica is not there any more, or is not to be reached; connections under way end by themselves."""
        with self._lock:
            known = self._listeners.pop(replica_id, None)
        if known is not None:
            _shut(known[0])

    def cut(self) -> None:
        """End connections under way: nobody at their other end is heard of. Who waits for an answer knows it then."""
        with self._lock:
            found = list(self._under_way)
        for connection in found:
            connection.close()

    def keep(self, replicas: Collection[str]) -> None:
        """These are what is there; one that has just come may not be among them yet."""
        now = time.monotonic()
        with self._lock:
            gone = [
                name for name, (_, since) in self._listeners.items() if name not in replicas and now - since > _NEW_S
            ]
        for replica_id in gone:
            self.end(replica_id)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            found = list(self._listeners)
        for replica_id in found:
            self.end(replica_id)

    def _accept(self, replica_id: str, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(replica_id, here), name="rios-way", daemon=True).start()

    def _carry(self, replica_id: str, here: socket.socket) -> None:
        """One connection. Where the replica cannot be reached it is closed, as a port that nobody listens at."""
        settings, peer = self._settings, self._peer()
        hello = {"role": WAY, "key": peer.key, "session": self._network_id, "replica": replica_id}
        try:
            there, welcome = connect(
                peer.address, hello, timeout_s=settings.connect_timeout_s,
                max_bytes=settings.greeting_frame_bytes, trust=trust_of(settings),
            )  # fmt: skip
        except RiosError as error:
            log.info("a replica is not reached", extra={"replica": replica_id, "reason": str(error)})
            _shut(here)
            return
        if welcome.get("reached"):
            with self._lock:
                self._under_way.add(there)
            try:
                carry(there, here)
            finally:
                with self._lock:
                    self._under_way.discard(there)
            return
        log.info("a replica is not reached", extra={"replica": replica_id, "reason": welcome.get("why")})
        there.close()
        _shut(here)
        if welcome.get("gone"):
            self.end(replica_id)


def carry(one: Connection, other: socket.socket) -> None:
    """Bytes from each to the other until both have ended; both are closed then. Blocks."""
    back = threading.Thread(target=_copy, args=(other, one.sock), name="rios-way-back", daemon=True)
    other.settimeout(None)
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back.start()
    _copy(one.sock, other)
    back.join()
    one.close()
    other.close()


def _copy(source: socket.socket | TlsSocket, target: socket.socket | TlsSocket) -> None:
    """Until the source ends: then the target is told so. Where the target has gone, the source is ended."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    try:
        while True:
            try:
                count = source.recv_into(buffer)
            except ssl.SSLWantReadError:
                continue
            if not count:
                break
            target.sendall(bytes(buffer[:count]))
    except (OSError, ValueError):  # one of them was closed or reset: what comes cannot be carried on
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected, or disconnected by now
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
