"""Gateways for tests: the whole of `rios up` as a process, and one without workers, in a thread, started at once."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import uvicorn

from rios.gateway.certs import Certificates
from rios.gateway.serve import bind, server_of
from rios.gateway.settings import GatewaySettings
from rios.services.accounts import Accounts
from rios.services.deployments.platform import Platform
from rios.services.gate import Gate
from rios.services.jobs import Jobs
from rios.services.lazy import Lazy
from rios.services.purse import Purse
from rios.services.reports.opening import open_reports
from rios.services.tenancy import Tenancy
from rios.words.config import Settings
from rios.words.errors import NoWorkers
from tests.campaigns import ROOT
from tests.deployments.simulated_hosts import SimulatedHosts
from tests.gateway.secrets_seen import FILES
from tests.gateway.truth import Held
from tests.waiting import PATIENCE

START_S = 200
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain HTTP: to read the authorities that this machine trusts takes each of them 50 ms."""
_document: list[dict[str, Any]] = []
UNLIMITED = GatewaySettings(burst=10**6, rate_per_s=10**6, drain_s=5)


@dataclass
class Door:
    """Where a gateway is, and how to ask it."""

    url: str
    token: str
    gate: Any = None
    """What it serves, where it runs in this process."""
    network: Any = None
    """What has the workers, where this process made it."""
    process: Any = None
    log: Path = field(default_factory=Path)
    ca: Path | None = None
    """Who certified it, where it speaks TLS."""
    scheduler: str = ""
    """Which more workers may join, where `rios up` said so."""

    def client(self, token: str | None = None) -> httpx2.Client:
        """Asks with a token; "" for none, the first admin's without."""
        found = self.token if token is None else token
        headers = {"Authorization": f"Bearer {found}"} if found else {}
        verify = NO_TLS if self.ca is None else ssl.create_default_context(cafile=self.ca)
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, verify=verify)


@contextmanager
def up(home: Path, *arguments: str, **variables: str) -> Iterator[Door]:
    """`rios up` as a process of its own, on a free port; ended by SIGTERM."""
    log = home.parent / f"{home.name}.log"
    FILES.append(log)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rios.cli", "up", "--port", "0", "--home", str(home), *arguments],
            cwd=ROOT,
            env=os.environ | {"RIOS_GATEWAY_BURST": "1000000"} | variables,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            with selectors.DefaultSelector() as selector:
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(START_S), f"`rios up` was silent for {START_S} s: {log.read_text()}"
            words = ("rios is at ", "token ", "scheduler ")  # written together
            url, token, scheduler = (_line(process, word, log) for word in words)
            yield Door(url, token, process=process, log=log, scheduler=scheduler)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60 * PATIENCE) == 0, log.read_text()
        finally:
            process.kill()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


def _line(process: subprocess.Popen[str], word: str, log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(word), f"{line!r}: {log.read_text()}"
    return line.removeprefix(word).strip()


@contextmanager
def lean(
    home: Path,
    settings: GatewaySettings = UNLIMITED,
    *,
    models: Path | None = None,
    certificates: Certificates | None = None,
    port: int = 0,
) -> Iterator[Door]:
    """A gateway of this process, with accounts and a ledger, and no worker behind it."""
    options = Settings(home=home)
    with (
        Purse(options) as purse,
        closing(Lazy(lambda: _no_hosts(purse, home))) as apps,
        closing(Lazy(lambda: open_reports(purse, options))) as reports,
    ):
        network: Any = SimpleNamespace(
            _purse=purse, _settings=options, workers=(), wait_for_workers=_none,
            parts=list, jobs=Jobs(), _apps=apps, _reports=reports,
        )  # fmt: skip
        accounts = Accounts(purse.books.ledger, home=home)
        gate = Gate(network, accounts, Tenancy(network, accounts.store, models=models))
        with serving(gate, settings, certificates, port=port) as url:
            yield Door(url, accounts.first_token(), gate=gate)
        gate.close()


def _no_hosts(purse: Purse, home: Path | None) -> Platform:
    """Deployments, of which none finds a host."""
    owner = purse.books.address
    return Platform(purse.charging, lambda _: SimulatedHosts([]), lambda _name: owner, home=home, deploy=_no_workers)


def _none(count: int, timeout: float | None = None) -> None:
    raise NoWorkers("0 of 1 workers: a test has none")


def _no_workers(*_: Any, **__: Any) -> Any:
    raise NoWorkers("a test has no workers")


@contextmanager
def serving(
    gate: Gate, settings: GatewaySettings, certificates: Certificates | None = None, *, port: int = 0
) -> Iterator[str]:
    """Serve `gate` in a thread; its URL. Every answer has to be as the OpenAPI document says."""
    listening = bind("127.0.0.1", port)
    listening.listen()  # who asks before the server runs waits for it
    listens = threading.Event()
    server = server_of(gate, settings, certificates=certificates, ready=listens.set)
    held = _held(server.config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="test-gateway")
    thread.start()
    try:
        assert listens.wait(30 * PATIENCE)
        yield f"{'https' if certificates else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30 * PATIENCE)
        listening.close()
        assert not thread.is_alive()
    assert not held.wrong, held.wrong[:5]


def _held(config: uvicorn.Config) -> Held:
    """Stand around the application of a server."""
    app: Any = config.app
    if not _document:  # all gateways have the same, and it takes a second of a core
        _document.append(app.openapi())
    app.openapi_schema = _document[0]
    found = Held(config.loaded_app if config.loaded else app, _document[0])
    if config.loaded:
        config.loaded_app = found
    else:
        config.app = found
    return found


def deploy(door: Door, name: str = "demo") -> None:
    """Deploy the demo model and wait until it serves."""
    with door.client() as client:
        assert client.post("/v1/deployments", json={"name": name, "dtype": "float32"}).status_code == 202
        serves(client, name)


def serves(client: httpx2.Client, name: str) -> None:
    """Wait until a model serves."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = client.get(f"/v1/deployments/{name}").json()
        assert found["state"] != "failed", found
        if found["state"] == "serving":
            return
        time.sleep(0.1)
    raise AssertionError(f"{name} does not serve after {START_S} s")


def raw(door: Door, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes as they are; what is answered until the connection is closed."""
    host, port = door.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        with suppress(OSError):  # it may have answered and gone before all of it is said
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        found = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                found += part
        return found


def problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The problem that a response is (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(response.text)
    assert found["status"] == status
    assert set(found) >= {"type", "title", "detail", "instance", "request_id"}
    return found
