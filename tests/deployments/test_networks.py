"""Networks that the operator opens to applications: RIOS_APPS_NETWORKS, here and on other hosts."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments import agent_keeper, machine
from rios.services.deployments.agent_keeper import AgentKeeper
from rios.services.deployments.machine import policy_of
from rios.services.deployments.platform import platform_of
from rios.services.deployments.service import Deployments
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import InvalidRequest, NoWorkers
from tests.deployments.stage import RESOURCES
from tests.waiting import until

WAIT_S = 60.0
NAME = "beside.lab.example"
ASKS = """
import sys, urllib.request
try: print("said", urllib.request.urlopen("http://%s:%d/", timeout=60).read().decode(), flush=True)
except OSError as error: print("refused", flush=True)
"""


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server on an address of this machine that is not public, and a name that leads there."""
    address = str(socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)[0][4][0])
    server = ThreadingHTTPServer((address, 0), _Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(machine, "policy_of", lambda text: replace(policy_of(text), names={NAME: (address,)}))
    yield address, server.server_port
    server.shutdown()
    thread.join(WAIT_S)
    server.server_close()


@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
@pytest.mark.parametrize("opened", [True, False])
def test_an_application_reaches_what_the_operator_opens(beside: tuple[str, int], tmp_path: Path, opened: bool) -> None:
    address, port = beside
    more = {"home": tmp_path, "apps_networks": f"{address}/32, 10.1.0.0/16" if opened else ""}

    def no_workers(*_: Any, **__: Any) -> Any:
        raise NoWorkers("a test has none")

    options = settings().model_copy(update=more)
    with Purse(options, background=False) as purse:
        found = platform_of(purse.charging, lambda _: purse.books.address, options, deploy=no_workers, agents=dict)
        deploy = Deployments(lambda: found, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)
        app = deploy.create(
            name="asks", command=["python3", "-c", ASKS % (NAME, port)], egress=[f"{NAME}:{port}"], resources=RESOURCES,
            restart="never",
        )  # fmt: skip
        said = until(lambda: [line for line in app.logs() if line.split()[0] in ("said", "refused")], deadline_s=WAIT_S)
        assert said == (["said hello"] if opened else ["refused"])
        app.delete(timeout=WAIT_S)
        found.close()


def test_agents_have_them_too_and_a_mistake_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[dict[str, Any]] = []

    class Keeper:
        def __init__(self, _what: str, _start: Any, told: dict[str, Any]) -> None:
            orders.append(json.loads(json.dumps(told)))

    monkeypatch.setattr(agent_keeper, "Keeper", Keeper)
    options = settings().model_copy(update={"apps_networks": "10.1.0.0/16"})
    AgentKeeper(options, tmp_path, name="x", address="127.0.0.1", owner=None)
    assert orders[0]["private"] == ["10.1.0.0/16"]
    assert policy_of("").private == ()
    with pytest.raises(InvalidRequest, match="RIOS_APPS_NETWORKS"):
        AgentKeeper(
            options.model_copy(update={"apps_networks": "10.1.0.1/16"}), tmp_path, name="x", address="", owner=None
        )
