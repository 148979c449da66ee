"""An application's way to the gateway of its own network: who opens it, and by which key it asks there."""

from __future__ import annotations

import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.accounts.store import AccountStore
from rios.deploy.runtimes import doors
from rios.services.accounts import Accounts
from rios.services.books import LOCAL_USER
from rios.words.errors import NotSignedIn
from tests.deploy.conftest import runtime_parameters
from tests.deploy.images import PYTHON, make_rootfs
from tests.deployments.stage import RESOURCES, Stage
from tests.waiting import until

WAIT_S = 120.0
ASKS = """
import socket, sys, time
def ask():
    token = open("/run/secrets/RIOS_TOKEN").read()
    with socket.create_connection(("gateway", 80), 10) as one:
        one.sendall(("GET /v1/models HTTP/1.0\\r\\nAuthorization: Bearer " + token + "\\r\\n\\r\\n").encode())
        one.shutdown(socket.SHUT_WR)
        got = b""
        while data := one.recv(4096): got += data
    return got.decode()
while True:
    try: print("said", ask(), flush=True)
    except OSError as error: print("refused", type(error).__name__, flush=True)
    time.sleep(0.2)
"""
"""A program of few modules, for an image of few files."""


class Doors:
    """A gateway that answers with the key that it was shown, and keeps those."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._before: set[str] = set()
        self.opened: list[Path] = []

    def forget(self) -> None:
        """Those of applications that have ended: one that was shown a moment ago may be kept late."""
        self._before |= {*self.keys}
        self.keys.clear()

    @property
    def shown(self) -> list[str]:
        """The keys since then."""
        return [key for key in self.keys if key not in self._before]

    def __call__(self, directory: Path) -> Any:
        keys = self.keys

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                asked = self.rfile.read().decode().splitlines()
                keys.append(next(line for line in asked if line.startswith("Authorization: Bearer ")).split()[-1])
                self.wfile.write(b"hello")

        listener, file = doors.bind(directory)
        server = socketserver.ThreadingUnixStreamServer("", Answer, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        self.opened.append(directory)

        class Door:
            def close(self) -> None:
                file.unlink()
                server.shutdown()
                thread.join()
                server.server_close()

        return Door()


@pytest.fixture(scope="module")
def door() -> Doors:
    return Doors()


@pytest.fixture(scope="module")
def way(door: Doors) -> Iterator[Stage]:
    with Stage(door=door) as stage:
        yield stage


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs.tar")


@pytest.fixture
def sandboxes() -> Iterator[Path]:
    """Where sandboxes' own users may pass through."""
    with tempfile.TemporaryDirectory(prefix="rios-apps-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def _accounts(stage: Stage) -> Accounts:
    return Accounts(stage.ledger, home=None)


def _keys(stage: Stage) -> list[Any]:
    """Those of applications that are good."""
    store: AccountStore = _accounts(stage).store
    found = store.keys(LOCAL_USER)
    return [key for key in found if key.name.startswith("application ") and key.revoked_at is None]


@pytest.mark.parametrize("name", runtime_parameters())
def test_it_asks_by_a_key_of_its_own_in_every_runtime(way: Stage, door: Doors, rootfs: Path, name: str) -> None:
    door.forget()
    app = way.deploy.create(
        name=f"asks-{name}", rootfs=str(rootfs), command=[PYTHON, "-c", ASKS], runtime=name, egress=["gateway"],
        resources={"cpu": 1, "memory": "128MiB"}, grace=1,
    )  # fmt: skip
    until(lambda: "said hello" in app.logs(), deadline_s=WAIT_S)
    (key,) = _keys(way)
    token = door.shown[0]
    who = _accounts(way).tokens.authenticate(token)
    assert (who.user_id, who.by, who.scopes) == (LOCAL_USER, key.id, frozenset({"generate"}))
    assert app.exec(["sh", "-c", "echo $RIOS_GATEWAY_URL"]).stdout == b"http://gateway\n"
    shown = repr((app.specification, app.events, app.logs(), app.secrets, app.view()))
    assert token not in shown
    assert [one["name"] for one in app.secrets] == ["RIOS_TOKEN"]
    app.delete(timeout=WAIT_S)
    assert set(door.shown) == {token}
    assert _keys(way) == []
    with pytest.raises(NotSignedIn):
        _accounts(way).tokens.authenticate(token)
    assert len(door.opened) == 1, "it is opened once for all applications"


def test_replicas_share_a_key_and_a_revoked_one_is_followed_by_another(way: Stage, door: Doors) -> None:
    door.forget()
    fields = {"command": ["python3", "-c", ASKS], "egress": ["gateway"], "resources": RESOURCES, "grace": 1}
    app = way.deploy.create(name="two", replicas=2, secrets={"OTHER": "old"}, **fields)
    app.wait(timeout=WAIT_S)
    until(lambda: len(door.shown) > 4, deadline_s=WAIT_S)
    assert len(set(door.shown)) == 1
    (first,) = _keys(way)
    app.rotate_secrets({"OTHER": "new"}, timeout=WAIT_S)
    said = app.exec(["sh", "-c", "cat /run/secrets/OTHER; echo; cat /run/secrets/RIOS_TOKEN"]).stdout.decode()
    assert said.split() == ["new", door.shown[0]], "the key stays where others are given anew"
    accounts = _accounts(way)
    accounts.tokens.revoke_key(accounts.tokens.authenticate(door.shown[0]), first.id)
    app.restart()
    until(lambda: len(set(door.shown)) == 2, deadline_s=WAIT_S)
    (second,) = _keys(way)
    assert second.id != first.id
    app.delete(timeout=WAIT_S)
    assert _keys(way) == []


def test_it_waits_where_no_host_has_a_way(stage: Stage) -> None:
    app = stage.deploy.create(name="none", command=["sleep", "9"], egress=["gateway"], resources=RESOURCES)
    until(lambda: "has no way to the network's gateway" in app.reason, deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_what_runs_on_finds_its_gateway_again(tmp_path: Path, sandboxes: Path) -> None:
    door = Doors()
    with Stage(home=tmp_path, apps=sandboxes, door=door) as stage:
        app = stage.deploy.create(
            name="stays", command=["python3", "-c", ASKS], egress=["gateway"], resources=RESOURCES, grace=1
        )
        app.wait(timeout=WAIT_S)
        until(lambda: door.keys, deadline_s=WAIT_S)
        replica = app.replicas[0].id
    door.keys.clear()
    with Stage(home=tmp_path, apps=sandboxes, door=door) as stage:
        app = stage.deploy.get("stays")
        until(lambda: door.keys, deadline_s=WAIT_S)
        assert [one.id for one in app.replicas] == [replica]
        assert len(door.opened) == 2
        app.delete(timeout=WAIT_S)
