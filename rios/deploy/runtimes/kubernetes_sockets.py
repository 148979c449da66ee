"""WebSockets to a cluster by Kubernetes' own client, which begin by a deadline: it has none for them."""

from __future__ import annotations

from typing import Any

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

        module.WebSocket = Bounded  # the module makes them itself, and hands no option of theirs on
    return module
