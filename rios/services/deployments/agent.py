"""The agent of a host: runs replicas of networks on its machine, on their reconcilers' word.

    python -m rios.services.deployments.agent

A Dask worker's preload starts it beside itself (`agent_keeper`). Its orders are one line of JSON on standard input:
name, key, bind, port, directory, region, ask_bp, isolation; it answers with a line {"pid", "port"} once it serves. What
it runs does not need it: sandboxes have watchers of their own, and whoever is started here next finds them. So there is
one agent for a directory at a time. At the end of its standard input, its worker is gone: it stays while it has
replicas that somebody asks about, and leaves to the next agent of its directory.

Connections begin as all of the data plane do (`rios.dmoe.greeting`): with the host's key, and over TLS in a secured
network.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from rios.deploy.runtimes.protocol import Isolation
from rios.deploy.runtimes.records import check_id
from rios.deploy.runtimes.watching import Policy
from rios.deploy.volumes import Volumes
from rios.dmoe.door import Door
from rios.dmoe.wire import Connection, Frame, Kind, dump
from rios.services.deployments import agent_wire as wire
from rios.services.deployments.agent_place import Place
from rios.services.deployments.agent_verbs import VERBS, checked
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import promised_here, runtimes_of
from rios.services.deployments.room import Keeping
from rios.services.deployments.ways import carry
from rios.words.config import Settings, settings
from rios.words.errors import InvalidRequest, NotFound, ProtocolError, RiosError
from rios.words.logs import configure

log = logging.getLogger("rios.services.deployments.agent")

_ANSWER_S = 60.0
_LOOK_S = 0.5


class Agent:
    """Serves on a listening socket. `run` blocks until `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        name: str,
        key: str,
        directory: Path,
        options: Settings,
        region: str = "",
        ask_bp: int = 10_000,
        isolation: Isolation = Isolation.PROCESS,
        policy: Policy | None = None,
    ) -> None:
        """directory: where sandboxes of all networks lie. isolation: nothing runs here with less. policy: of egress."""
        self._runtimes_of = partial(runtimes_of, policy=policy)
        self.name = name
        self._door = Door(listener, self._serve, key=key, settings=options, name="rios-agent")
        self._directory, self._settings = directory, options
        self._region, self._ask_bp, self._isolation = region, ask_bp, isolation
        self._lock = threading.Lock()
        self._hosts: dict[str, LocalHost] = {}
        self._called_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<Agent {self.name} of {len(self._hosts)} networks>"

    def run(self) -> None:
        """Accept connections until `stop`."""
        self._door.run()

    def stop(self) -> None:
        """End `run` and every connection; what runs goes on."""
        self._door.stop()

    def is_used(self) -> bool:
        """Whether anything of a network is here."""
        return any(self._host(path.name).instances() for path in self._directory.iterdir() if path.is_dir())

    def idle_s(self) -> float:
        """Since nobody has called."""
        return time.monotonic() - self._called_at

    def _host(self, network_id: str) -> LocalHost:
        directory = self._directory / checked(network_id)
        with self._lock:
            found = self._hosts.get(network_id)
            if found is None:
                found = self._hosts[network_id] = LocalHost(
                    self.name, directory, self._runtimes_of, promised_here(),
                    network_id=network_id, region=self._region, ask_bp=self._ask_bp, isolation=self._isolation,
                    unmetered=self._settings.apps_unmetered, snapshot_bytes=self._settings.apps_snapshot_bytes,
                    keeping=Keeping.of(self._settings),
                )  # fmt: skip
            return found

    # --- connections -----------------------------------------------------------------------------------------

    def _serve(self, connection: Connection, hello: dict[str, Any]) -> None:
        if hello.get("role") == wire.CALLS:
            self._answer(connection, self._host(str(hello.get("session"))))
        elif hello.get("role") == wire.WAY:
            self._lead(connection, self._host(str(hello.get("session"))), check_id(str(hello.get("replica"))))
        else:
            raise ProtocolError(f"unknown role {hello.get('role')!r}")

    def _answer(self, connection: Connection, host: LocalHost) -> None:
        connection.send(Kind.WELCOME, 0, dump({"name": self.name}), timeout_s=self._settings.connect_timeout_s)
        while True:
            frame = connection.receive()
            if frame.kind is not Kind.CALL:
                raise ProtocolError(f"a connection of calls carries CALL, not {frame.kind.name}")
            answer = self._answered(host, frame)
            body = answer.pop(wire.BODY, b"")
            connection.send(Kind.ANSWER, frame.seq, dump(answer), [body] if body else [], timeout_s=_ANSWER_S)

    def _answered(self, host: LocalHost, frame: Frame) -> dict[str, Any]:
        call = {**frame.json(), wire.BODY: frame.body}
        self._called_at = time.monotonic()
        try:
            verb = VERBS.get(str(call.get("op")))
            if verb is None:
                raise InvalidRequest(f"unknown operation {call.get('op')!r}")
            return verb(host, call)
        except RiosError as error:
            return {"error": type(error).__name__, "message": str(error)}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return {"error": "InvalidRequest", "message": f"{call.get('op')}: {type(error).__name__}: {error}"}
        except Exception as error:
            log.exception("an operation failed", extra={"op": call.get("op")})
            return {"error": "SandboxFailed", "message": f"{self.name}: {type(error).__name__}: {error}"}

    def _lead(self, connection: Connection, host: LocalHost, replica_id: str) -> None:
        """Carry a connection to a replica's port."""
        timeout_s = self._settings.connect_timeout_s
        try:
            endpoint = host.status(replica_id).endpoint
            if endpoint is None:
                raise InvalidRequest(f"replica {replica_id} does not run, or serves no port")
            there = socket.create_connection(endpoint, timeout=timeout_s)
        except (OSError, RiosError) as error:
            answer = {"reached": False, "gone": isinstance(error, NotFound), "why": str(error)}
            connection.send(Kind.WELCOME, 0, dump(answer), timeout_s=timeout_s)
            return
        with there:
            connection.send(Kind.WELCOME, 0, dump({"reached": True}), timeout_s=timeout_s)
            connection.sock.settimeout(None)
            carry(connection, there)


class _Worker:
    """The Dask worker that this process stands beside."""

    def __init__(self) -> None:
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            raise SystemExit(1)
        self.orders: dict[str, Any] = json.loads(line)
        self.gone = threading.Event()
        threading.Thread(target=self._wait, name="rios-agent-worker", daemon=True).start()

    def _wait(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            continue
        self.gone.set()


def _stay(agent: Agent, worker: _Worker, place: Place, orphan_s: float) -> None:
    """End an agent whose worker has gone, once nobody uses it."""
    worker.gone.wait()
    place.say(orphan=True)
    while agent.is_used() and agent.idle_s() < orphan_s:
        time.sleep(_LOOK_S)
    agent.stop()


def main() -> None:
    """As the module says."""
    worker = _Worker()
    orders, options = worker.orders, settings()
    configure(context={"worker": orders["name"]})
    directory = Path(orders["directory"])
    place = Place(directory)
    place.take(unless=worker.gone)
    bind = str(orders["bind"])
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.create_server((bind, int(orders["port"])), family=family, backlog=256)
    agent = Agent(
        listener,
        name=str(orders["name"]),
        key=str(orders["key"]),
        directory=directory,
        options=options,
        region=str(orders["region"]),
        ask_bp=int(orders["ask_bp"]),
        isolation=Isolation.named(orders["isolation"]),
        policy=Policy(private=tuple(orders["private"])),
    )
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches the Dask worker, which tells us
    threading.Thread(target=_stay, args=(agent, worker, place, options.orphan_s), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the worker has just gone
        os.write(1, json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1]}).encode() + b"\n")
    agent.run()
    for place_of_network in directory.iterdir():  # whoever reads a volume ends with this process
        Volumes().thaw_all(place_of_network)


if __name__ == "__main__":
    main()
