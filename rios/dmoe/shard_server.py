"""A client's own port for shards: hosts that do not see the checkpoint's path read it through this."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading

from rios.dmoe.greeting import accept, accepted
from rios.dmoe.offer import Offer, serve_shards
from rios.dmoe.peer import Peer
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Connection
from rios.words.config import Settings
from rios.words.errors import HostLost, ProtocolError, RiosError

log = logging.getLogger(__name__)

_CONNECTIONS_MAX = 512  # a host keeps one for as long as it reads an expert


class ShardServer:
    """Serves one checkpoint for as long as its deployment lasts, with a key of its own.

    It listens on those addresses only by which hosts have been met, so a client on a laptop of several networks opens
    no port to the others.
    """

    def __init__(self, offer: Offer, settings: Settings) -> None:
        self._offer = offer
        self._settings = settings
        self._key = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._peers: dict[str, Peer] = {}
        self._listeners: list[socket.socket] = []
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        ports = ", ".join(f"{peer.address[0]}:{peer.address[1]}" for peer in self._peers.values())
        return f"<ShardServer {'closed' if self._stop.is_set() else ports or 'no port yet'}>"

    def peer(self, address: str) -> Peer:
        """This server as hosts reach it that see this machine at `address`. Raises HostLost when it cannot listen."""
        with self._lock:
            if self._stop.is_set():
                raise HostLost("the deployment was closed")
            if address not in self._peers:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                try:
                    listener = socket.create_server((address, 0), family=family, backlog=256)
                except OSError as error:
                    raise HostLost(f"cannot offer shards at {address}: {error.strerror or error}") from error
                self._listeners.append(listener)
                thread = threading.Thread(target=self._run, args=(listener,), name="rios-shards", daemon=True)
                self._threads.append(thread)
                thread.start()
                port = int(listener.getsockname()[1])
                self._peers[address] = Peer("client", (address, port), self._key, "")
                log.info("offering shards", extra={"address": address, "port": port})
            return self._peers[address]

    def close(self) -> None:
        """Close the ports and hang up on everybody."""
        with self._lock:
            self._stop.set()
            listeners, self._listeners = self._listeners, []
            connections = list(self._connections)
        for listener in listeners:
            with contextlib.suppress(OSError):  # wakes the thread that waits in `accept`, where the system does that
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            connection.close()
        for thread in self._threads:
            thread.join(self._settings.connect_timeout_s)

    def _run(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not self._stop.wait(0.1):  # out of descriptors: it would fail at once again
                    log.warning("accept failed", extra={"reason": str(error)})
                continue
            try:
                threading.Thread(target=self._serve, args=(sock,), name="rios-shards", daemon=True).start()
            except RuntimeError as error:  # out of threads
                log.warning("connection refused", extra={"reason": str(error)})
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        """One connection, from greeting to end. Its errors close it alone."""
        settings = self._settings
        try:
            connection = accepted(
                sock,
                trust_of(settings),
                timeout_s=settings.connect_timeout_s,
                max_bytes=settings.greeting_frame_bytes,
            )
        except (OSError, RiosError) as error:
            log.warning("connection refused", extra={"reason": str(error)})
            sock.close()
            return
        try:
            with self._lock:
                if self._stop.is_set() or len(self._connections) >= _CONNECTIONS_MAX:
                    return
                self._connections.add(connection)
            # A request is as short as a greeting: nothing longer is ever accepted here.
            hello = accept(
                connection,
                self._key,
                timeout_s=settings.connect_timeout_s,
                max_bytes=settings.greeting_frame_bytes,
            )
            if hello.get("role") != "shards":
                raise ProtocolError(f"a client serves shards only, not {str(hello.get('role'))[:100]!r}")
            serve_shards(connection, self._offer)
        except HostLost as error:
            log.debug("connection ended", extra={"reason": str(error)})
        except RiosError as error:
            log.warning("connection closed", extra={"reason": str(error)})
        except Exception:
            log.exception("connection failed")
        finally:
            connection.close()
            with self._lock:
                self._connections.discard(connection)
