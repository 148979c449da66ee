"""Run by a user without privileges: a sandbox from its start to its end. It says on one line of JSON what it saw."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from pathlib import Path

from pydantic import SecretBytes

from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.deploy.runtimes.protocol import Allowed, HostBase, Launch, Limits
from rios.deploy.runtimes.watching import Policy

INSIDE = """
id -u; cat /run/secrets/TOKEN; echo
python3 -c '
import socket, sys
outside = socket.create_connection(("api.example.org", int(sys.argv[1])))
outside.sendall(b"ask")
print(outside.recv(100).decode(), flush=True)
try:
    x = bytearray(2 << 30)
    print("had it")
except MemoryError:
    print("limited", flush=True)
server = socket.create_server(("127.0.0.1", 8000))
while True:
    connection, _ = server.accept()
    connection.sendall(b"inside")
    connection.close()
' $0
"""


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(100)
        self.request.sendall(b"answer")


def main(directory: Path) -> None:
    import socket

    policy = Policy(private=("127.0.0.1/32",), names={"api.example.org": ("127.0.0.1",)})
    runtime = BubblewrapRuntime(directory, policy=policy)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        port = server.server_address[1]
        launch = Launch(
            instance="rootless", base=HostBase(), command=("sh", "-c", INSIDE, str(port)), port=8000,
            egress=(Allowed("api.example.org", port),), secrets={"TOKEN": SecretBytes(b"token")},
            limits=Limits(memory_bytes=1 << 30),
        )  # fmt: skip
        status = runtime.start(launch)
        assert status.endpoint is not None
        lines = runtime.logs("rootless", follow=True)
        said = [next(lines).text for _ in range(4)]
        answered = b""
        while not answered:
            with socket.create_connection(status.endpoint, 10) as connection:
                try:
                    answered = connection.recv(100)
                except ConnectionResetError:  # it does not listen yet
                    continue
        executed = runtime.exec("rootless", ("sh", "-c", "id -u; cat /run/secrets/TOKEN; exit 3"))
        paused = [runtime.pause("rootless").state, runtime.resume("rootless").state]
        code = runtime.stop("rootless", grace_s=20).exit_code
        server.shutdown()
    able = runtime.capabilities()
    runtime.remove("rootless")
    result = {
        "said": said, "answered": answered.decode(), "executed": [executed.exit_code, executed.stdout.decode()],
        "paused": paused, "code": code, "left": len(runtime.instances()), "limits": [able.cpu, able.memory, able.pids],
        "metered": able.metered, "notes": able.notes,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
