"""A platform of deployments without Dask: a ledger, this machine, and the verbs. Quick to make, real in all else."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rios.deploy.runtimes.kubernetes_objects import Cluster
from rios.deploy.runtimes.protocol import Isolation
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.engine import Deploy
from rios.services.deployments.hosts import Hosts
from rios.services.deployments.local_hosts import local_hosts
from rios.services.deployments.network_hosts import Agents, NetworkHosts
from rios.services.deployments.platform import Platform
from rios.services.deployments.service import Deployments
from rios.services.lazy import Closes, Lazy
from rios.services.purse import Purse
from rios.words.config import Settings, settings

WEB = ("python3", "-c")
SERVER = """
import http.server, os, signal, sys, threading, time
threading.stack_size(1 << 18)  # without root, a limit of memory is one of addresses: each thread would take an eighth
broken = []
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/slow"): time.sleep(float(self.path.partition("?")[2] or 0.3))
        if self.path == "/end": os._exit(7)
        if self.path == "/half" and not broken:
            broken.append(self.path)
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 9\\r\\n\\r\\nhalf")
            self.close_connection = True
            return
        said = (os.environ.get("SAYS", "hello") + " " + self.command + " " + self.path + " " + body.decode()).encode()
        self.send_response(500 if self.path == "/bad" else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    do_GET = do_POST = do_PUT = answer
    def log_message(self, *a): print(self.command, self.path, flush=True)
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
server = Server(("0.0.0.0", int(os.environ["PORT"])), Answer)
def end(*_): threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, end)
print("serves", flush=True)
server.serve_forever()
server.server_close()
"""
"""A server that answers what it is asked, and ends well when it is told to."""
RESOURCES = {"cpu": 0.5, "memory": "64MiB"}


class Stage:
    """One network's deployments. Close it."""

    def __init__(
        self,
        *,
        home: Path | None = None,
        apps: Path | None = None,
        cluster: Cluster | None = None,
        period_s: int = 60,
        lease_s: float = 4.0,
        deploy: Deploy | None = None,
        door: Callable[[Path], Closes] | None = None,
        agents: Agents | None = None,
        region: str = "",
    ) -> None:
        """deploy: what serves models; none is served without. door: what answers as the network's gateway.

        agents: of further hosts. region: of this machine.
        """
        options = settings() if home is None else settings().model_copy(update={"home": home})
        self.options: Settings = options
        self.purse = Purse(options, background=False)
        self._cluster = cluster
        self._deploy, self._door = deploy, door
        self._agents, self._region = agents, region
        self.lazy = Lazy(lambda: self._made(home, apps, period_s, lease_s))
        self.deploy = Deployments(self.lazy, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)

    def _made(self, home: Path | None, apps: Path | None, period_s: int, lease_s: float) -> Platform:
        return Platform(
            self.purse.charging,
            lambda store: self._hosts(store.network_id(), apps, lasts=home is not None),
            lambda _name: self.purse.books.address,
            home=home,
            deploy=self._deploy,
            period_s=period_s,
            lease_s=lease_s,
        )

    def _hosts(self, network_id: str, apps: Path | None, *, lasts: bool) -> Hosts:
        here = local_hosts(network_id, apps, cluster=self._cluster, lasts=lasts, region=self._region, door=self._door)
        if self._agents is None:
            return here
        return NetworkHosts(here, self._agents, network_id, self.options, isolation=Isolation.PROCESS)

    @property
    def platform(self) -> Platform:
        return self.lazy()

    @property
    def ledger(self) -> Any:
        return self.purse.books.ledger

    def web(self, name: str, **fields: Any) -> Any:
        """A deployment of the server above."""
        more = {"port": 8000, "health": {"http": "/", "interval": 0.5}, "resources": RESOURCES, "grace": 3, **fields}
        return self.deploy.create(name=name, **{"command": [*WEB, SERVER], **more})

    def instances(self) -> set[str]:
        """All that the host has, of any state."""
        return {one.instance for host in self.platform.hosts.now().values() for one in host.instances()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.lazy.close()
        self.purse.close()


def get(url: str, *, data: bytes | None = None, method: str | None = None, timeout_s: float = 20.0) -> tuple[int, str]:
    """Status and body of an answer."""
    request = urllib.request.Request(url, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
