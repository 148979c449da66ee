"""WebSockets to a cluster by Kubernetes' own client, with what it lacks: a deadline to begin by, and a certain end."""

from __future__ import annotations

import logging
import threading
from typing import Any

log = logging.getLogger(__name__)

CONNECT_S = 15.0
"""For each of connecting, TLS and the greeting of WebSockets; what comes after has no deadline of its own."""


def ws_client() -> Any:
    """The client's module for WebSockets."""
    from kubernetes.stream import ws_client as module
    from websocket import WebSocket

    if module.WebSocket is WebSocket:

        class Bounded(WebSocket):
            def connect(self, url: str, **options: Any) -> None:
                connect: Any = super().connect  # it has no types
                connect(url, **{"timeout": CONNECT_S, **options})
                self.settimeout(None)

        class Ended(module.PortForward):  # type: ignore[misc]  # it has no types
            """Its own thread closes what it used, however it ends. `ended` is set then.

            Nobody else may: a socket that is closed while that thread still waits for the server's farewell gives its
            number to the next connection, and the thread reads the beginning of that one.
            """

            def __init__(self, websocket: Any, ports: list[int]) -> None:
                self.ended = threading.Event()
                super().__init__(websocket, ports)

            def _proxy(self) -> None:
                try:
                    super()._proxy()
                except Exception as error:  # noqa: BLE001 -- the client's errors have no tree; each ends the connection
                    log.info("a forwarded connection broke off", extra={"reason": repr(error)})
                finally:
                    for port in self.local_ports.values():
                        port.python.close()
                    self.websocket.shutdown()
                    self.ended.set()

        module.WebSocket = Bounded  # the module makes them itself, and hands no option of theirs on
        module.PortForward = Ended
    return module
