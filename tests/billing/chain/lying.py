"""A node that lies, or says nothing: HTTP on loopback, with a real node behind it or none."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[[dict[str, Any]], Any]


class Proxy:
    """Answers each JSON-RPC call with what `answer` gives: an object, bytes to be sent as they are, or a status."""

    def __init__(self, answer: Answer) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer = answer
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                proxy.calls.append(call)
                said = proxy.answer(call)
                status, body = (said, b"") if isinstance(said, int) else (200, said)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def result(call: dict[str, Any], value: Any) -> dict[str, Any]:
    """An answer as nodes give it."""
    return {"jsonrpc": "2.0", "id": call["id"], "result": value}


def refusal(call: dict[str, Any], message: str, *, code: int = -32000, data: Any = None) -> dict[str, Any]:
    """A refusal as nodes give it."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return {"jsonrpc": "2.0", "id": call["id"], "error": error}


def through(url: str, changed: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Answer:
    """What the node at `url` answers, with changes."""

    def answer(call: dict[str, Any]) -> Any:
        request = urllib.request.Request(url, json.dumps(call).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return changed(call, json.load(reply))

    return answer
