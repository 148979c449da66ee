"""Connections of the data plane as they come in: each has a thread that greets and serves it, and errors of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from rios.dmoe.greeting import accept, accepted
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Connection
from rios.words.config import Settings
from rios.words.errors import HostLost, RiosError

log = logging.getLogger(__name__)

_LOOK_S = 0.5

Serve = Callable[[Connection, dict[str, Any]], None]


class Door:
    """A listening socket. `run` blocks until `stop`."""

    def __init__(self, listener: socket.socket, serve: Serve, *, key: str, settings: Settings, name: str) -> None:
        """serve: has a connection from its greeting to its end. key: what callers prove to know. name: of threads."""
        self._listener, self._serve, self._key = listener, serve, key
        self._settings, self._name = settings, name
        self.trust = trust_of(settings)  # what is wrong with its files is said before anybody connects
        self.stopped = threading.Event()
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Door of {len(self._connections)} connections>"

    def run(self, beat: Callable[[], None] | None = None) -> None:
        """Accept connections until `stop`. beat: called at each turn, and twice a second where nobody comes."""
        self._listener.settimeout(_LOOK_S)
        while not self.stopped.is_set():
            if beat is not None:
                beat()
            try:
                sock, peer = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Out of descriptors, or the peer has gone again: neither ends those who are being served.
                if not self.stopped.wait(0.1):
                    log.warning("accept failed", extra={"reason": str(error)})
                continue
            sock.settimeout(None)
            try:
                threading.Thread(target=self._greet, args=(sock, peer), name=self._name, daemon=True).start()
            except RuntimeError as error:  # out of threads
                log.warning("connection refused", extra={"peer": str(peer), "reason": str(error)})
                sock.close()

    def stop(self) -> None:
        """End `run` and close every connection."""
        self.stopped.set()
        for connection in list(self._connections):
            connection.close()

    def _greet(self, sock: socket.socket, peer: object) -> None:
        timeout_s, settings = self._settings.connect_timeout_s, self._settings
        try:
            connection = accepted(sock, self.trust, timeout_s=timeout_s, max_bytes=settings.greeting_frame_bytes)
        except (OSError, RiosError) as error:
            log.warning("connection refused", extra={"peer": str(peer), "reason": str(error)})
            sock.close()
            return
        self._connections.add(connection)
        try:
            hello = accept(connection, self._key, timeout_s=timeout_s, max_bytes=settings.max_frame_bytes)
            self._serve(connection, hello)
        except HostLost as error:
            log.debug("connection ended", extra={"peer": str(peer), "reason": str(error)})
        except RiosError as error:
            log.warning("connection closed", extra={"peer": str(peer), "reason": str(error)})
        except Exception:
            log.exception("connection failed", extra={"peer": str(peer)})
        finally:
            self._connections.discard(connection)
            connection.close()
