"""An application that says every line again, and asking it."""

from __future__ import annotations

import contextlib
import socket
import time

from tests.waiting import PATIENCE

ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"inside: " + line)
socketserver.ThreadingTCPServer.request_queue_size = 128
server = socketserver.ThreadingTCPServer(("0.0.0.0", 8000), Echo)
print("serving", flush=True)
server.serve_forever()
"""


def asked(endpoint: tuple[str, int] | None, line: bytes = b"hello\n") -> bytes:
    """What the echo server inside answers, once it listens."""
    assert endpoint is not None
    deadline = time.monotonic() + 30 * PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(endpoint, 5 * PATIENCE) as connection:
            connection.sendall(line)
            if answer := connection.makefile("rb").readline():
                return answer
        assert time.monotonic() < deadline, "the application did not answer"
        time.sleep(0.05)
