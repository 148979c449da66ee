"""A server that is told of events, and keeps what it was told."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Told:
    """What came, and what is answered to it."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """The events that were taken, by name."""
        return [one["type"] for one in self.events]

    def signed_by(self, secret: str, place: int) -> bool:
        """Whether message number `place` has the signature of a secret, made here once more."""
        at, _, given = self.signatures[place].partition(",v1=")
        at_s = at.removeprefix("t=")
        made = hmac.new(secret.encode(), at_s.encode() + b"." + self.bodies[place], hashlib.sha256).hexdigest()
        return hmac.compare_digest(made, given)


@contextmanager
def told() -> Iterator[Told]:
    """Listens on this machine."""
    found = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = found.status  # once: a test may set another meanwhile, and what is answered is what was decided
            found.paths.append(self.path)
            if 200 <= status < 300:
                found.events.append(json.loads(body))
                found.bodies.append(body)
                found.signatures.append(self.headers["Rios-Signature"])
            self.send_response(status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, name="test-hook")
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
