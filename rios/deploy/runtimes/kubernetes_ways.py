"""Ways to Pods whose addresses are not reached from here: loopback ports of this process, and on by the API server.

Each connection becomes a WebSocket that forwards to the Pod's port, as `kubectl port-forward` does. A port is opened
when it is first asked for, and ends with this process or with the instance.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from rios.deploy.runtimes.kubernetes_api import Api
from rios.deploy.runtimes.kubernetes_objects import name_of
from rios.deploy.runtimes.kubernetes_sockets import ws_client
from rios.words.errors import NotFound, RiosError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_BACKLOG = 128
_CONNECT_S = 15.0
_QUIET_S = 60.0
"""A way that nobody has used for so long looks whether its Pod is still there."""
_ENDED_WITHIN_S = 5.0
"""The client waits 3 s for the server's farewell."""


class PodWays:
    """The ways to one cluster's Pods. Close it."""

    def __init__(self, api: Api, port_of: Callable[[str], int]) -> None:
        """port_of: where an instance listens inside its Pod, as the cluster says now. Raises NotFound."""
        self._api, self._port_of = api, port_of
        self._lock = threading.Lock()
        self._listeners: dict[str, socket.socket] = {}
        """By instance: where its connections come in."""

    def __repr__(self) -> str:
        return f"<PodWays to {len(self._listeners)} instances>"

    def to(self, instance: str) -> tuple[str, int]:
        """Host and port that lead to an instance's Pod. Nothing is asked for it before somebody connects."""
        with self._lock:
            listener = self._listeners.get(instance)
            if listener is None:
                listener = self._listeners[instance] = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
                listener.settimeout(_QUIET_S)
                threading.Thread(
                    target=self._accept, args=(listener, instance), name=f"rios-pod-{instance}", daemon=True
                ).start()
            host, at = listener.getsockname()[:2]
        return str(host), int(at)

    def end(self, instance: str) -> None:
        """It is not there any more; connections under way end with its Pod."""
        with self._lock:
            listener = self._listeners.pop(instance, None)
        if listener is not None:
            _shut(listener)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            found = list(self._listeners)
        for instance in found:
            self.end(instance)

    def _accept(self, listener: socket.socket, instance: str) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except TimeoutError:
                if self._is_gone(instance):
                    self.end(instance)
                    return
                continue
            except OSError:
                return  # closed
            threading.Thread(target=self._lead, args=(here, instance), name="rios-pod-way", daemon=True).start()

    def _is_gone(self, instance: str) -> bool:
        """Whether there is nothing that a way could lead to any more, whoever took it away."""
        try:
            self._port_of(instance)
        except NotFound:
            return True
        except RiosError as error:
            log.info("a Pod is not asked for", extra={"replica": instance, "reason": str(error)})
        return False

    def _lead(self, here: socket.socket, instance: str) -> None:
        """One connection. Where the Pod is not reached it is closed, as a port that nobody listens at."""
        late = threading.Timer(_CONNECT_S, _shut, (here,))  # the client's own socket has no deadline
        late.daemon = True
        late.start()
        try:
            port = self._port_of(instance)
            forward = self._forward(instance, port)
        except Exception as error:  # noqa: BLE001 -- the client's errors have no tree; each ends one connection
            log.info("a Pod is not reached", extra={"replica": instance, "reason": str(error)})
            _shut(here)
            return
        finally:
            late.cancel()
        there = forward.socket(port)
        back = threading.Thread(target=_copy, args=(there, here), name="rios-pod-back", daemon=True)
        back.start()
        _copy(here, there)
        back.join()
        here.close()
        there.close()
        if not forward.ended.wait(_ENDED_WITHIN_S):
            # Its own `abort` does nothing while it says farewell to a server that takes nothing any more.
            with contextlib.suppress(AttributeError, OSError, TypeError):
                socket.socket.shutdown(forward.websocket.sock, socket.SHUT_RDWR)

    def _forward(self, instance: str, port: int) -> Any:
        path = self._api.path("pods", name_of(instance), "portforward")
        url, headers = self._api.prepared(path, [("ports", str(port))])
        return ws_client().portforward_call(self._api.client().configuration, "GET", url, headers=headers)


def _copy(source: Any, sink: Any) -> None:
    """Bytes until an end. A forwarded connection has no half: one end ends both, when what came before is written."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            sink.sendall(data)
    _end(sink)
    _end(source)


def _end(one: Any) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _shut(one: socket.socket) -> None:
    _end(one)
    one.close()
