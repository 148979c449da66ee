"""Hosts beyond this machine: agents of two directories are two hosts, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretBytes

from rios.deploy.lifecycle import State
from rios.deploy.runtimes.protocol import Isolation
from rios.deploy.spec import App
from rios.dmoe.authority import Authority
from rios.dmoe.peer import Peer
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.agent_keeper import AgentKeeper
from rios.services.deployments.hosts import Order
from rios.services.deployments.local_hosts import LocalHosts
from rios.services.deployments.machine import clear_up
from rios.services.deployments.network_hosts import NetworkHosts
from rios.services.deployments.platform import Platform
from rios.services.deployments.remote_host import RemoteHost
from rios.services.deployments.service import Deployments
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import HostLost, InvalidRequest, NotFound, Unauthorized
from tests.deployments.stage import RESOURCES, SERVER, WEB, get
from tests.deployments.test_traffic import load
from tests.waiting import PATIENCE, until

WAIT_S = 60.0
pytestmark = [pytest.mark.needs("bwrap"), pytest.mark.needs("root")]


class Machine:
    """A host with its agent, as a worker keeps it."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"rios-{name}-"))
        self.directory.chmod(0o711)
        self.options = settings().model_copy(update={"region": "eu", "ask_bp": 9000, **options})
        self.started()

    def started(self) -> None:
        """Its worker begins, or begins again."""
        self.keeper = AgentKeeper(
            self.options, self.directory / "agent", name=self.name, address="127.0.0.1", owner=None
        )

    def said(self) -> dict[str, Any]:
        return self.keeper.announcement()

    def pid(self) -> int:
        until(self.said, deadline_s=WAIT_S)
        return int(self.said()["pid"])

    def die(self) -> None:
        """The machine goes down: nobody starts its agent again."""
        pid = self.pid()
        self.keeper._keeper._ending.set()
        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        pid = self.said().get("pid")
        self.keeper.close()
        if pid:
            with contextlib.suppress(ProcessLookupError):  # without a worker and replicas it ends by itself
                os.kill(int(pid), signal.SIGTERM)
            until(lambda: not self.said(), deadline_s=WAIT_S)
        for place in (self.directory / "agent").iterdir():
            if place.is_dir():
                clear_up(place)
        shutil.rmtree(self.directory)


class Nobody(LocalHosts):
    """This machine runs nothing itself."""

    def __init__(self) -> None:
        self._hosts, self._end = {}, lambda: None


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    found = [Machine("alpha"), Machine("beta")]
    for machine in found:
        machine.pid()
    yield found
    for machine in found:
        machine.remove()


@pytest.fixture(scope="module")
def platform(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    def agents() -> dict[str, dict[str, Any]]:
        return {machine.name: said for machine in machines if (said := machine.said())}

    home = tmp_path_factory.mktemp("home")
    options = settings().model_copy(update={"home": home})
    with Purse(options, background=False) as purse:
        found = Platform(
            purse.charging,
            lambda store: NetworkHosts(Nobody(), agents, store.network_id(), options, isolation=Isolation.PROCESS),
            lambda _name: purse.books.address,
            home=home,
        )
        until(lambda: len(_heard(found)) == len(machines), "both are heard", deadline_s=WAIT_S)
        yield found
        found.close()


def _heard(platform: Platform) -> list[str]:
    """Machines whose agents have answered."""
    names = []
    for name, host in platform.hosts.now().items():
        with contextlib.suppress(HostLost):
            host.offer()
            names.append(name)
    return names


@pytest.fixture
def deploy(platform: Platform) -> Deployments:
    return Deployments(lambda: platform, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)


@pytest.fixture
def remote(machines: list[Machine]) -> Iterator[RemoteHost]:
    """The first machine, for another network."""
    said = machines[0].said()
    found = RemoteHost(Peer("alpha", ("127.0.0.1", said["port"]), said["key"], ""), "other", settings())
    until(lambda: not found._why, deadline_s=WAIT_S)
    yield found
    found.close()


def order(replica_id: str, *command: str, secrets: Any = None, **fields: Any) -> Order:
    app = App.model_validate({"name": "x", "command": command, "resources": RESOURCES, **fields})
    return Order(
        replica_id=replica_id, app_id="app-1", organisation_id="org-1", revision=1,
        specification=app.stored(), secrets=secrets or {},
    )  # fmt: skip


def test_a_replica_runs_there_and_answers_all_verbs(remote: RemoteHost, machines: list[Machine]) -> None:
    offer = remote.offer()
    assert (offer.region, offer.ask_bp, offer.isolation >= Isolation.PROCESS) == ("eu", 9000, True)
    assert "bubblewrap" in offer.runtimes
    assert remote._heard._took, "its way is measured"
    assert (offer.reliability, offer.latency_ms < 1000) == (1.0, True)
    wanted = order("far-1", "sh", "-c", "echo hello; sleep 0.2; echo bad >&2; exec sleep 60")
    assert not remote.pulls(wanted.specification)
    status = remote.start(wanted)
    assert remote.start(wanted).started_at == status.started_at, "the same id runs once"
    assert [one.instance for one in remote.instances()] == ["far-1"]
    until(lambda: len(list(remote.logs("far-1"))) == 2, deadline_s=WAIT_S)
    assert {(line.stream, line.text) for line in remote.logs("far-1")} == {("stdout", "hello"), ("stderr", "bad")}
    done = remote.exec("far-1", ["sh", "-c", "echo here; exit 3"], timeout_s=20)
    assert (done.exit_code, done.stdout) == (3, b"here\n")
    assert remote.metrics("far-1").pids >= 1
    # The agent is killed: what runs goes on, and the next one finds it.
    followed = remote.logs("far-1", follow=True)
    next(followed)
    pid = machines[0].pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: machines[0].said().get("pid", pid) != pid, deadline_s=WAIT_S)
    said = machines[0].said()
    remote.moved(Peer("alpha", ("127.0.0.1", said["port"]), said["key"], ""))
    assert remote.start(wanted).started_at == status.started_at
    ended = remote.end("far-1", grace_s=1)
    assert ended.status is not None
    assert ended.status.state == "exited"
    assert ended.metrics is not None
    assert ended.metrics.cpu_seconds > 0
    assert [line.text for line in followed] == ["bad"]
    remote.clear("far-1")
    assert not remote.instances()
    assert [line.text for line in remote.logs("far-1")] == ["hello", "bad"], "its log is kept"
    with pytest.raises(NotFound):
        remote.metrics("far-1")
    remote.forget("org-1", "app-1", wanted.specification)


def test_what_it_cannot_or_may_not_do(remote: RemoteHost, machines: list[Machine]) -> None:
    with pytest.raises(InvalidRequest, match="machine"):
        remote.start(order("far-2", "true", schedule={"isolation": "machine"}))
    remote._least = Isolation.MACHINE
    with pytest.raises(InvalidRequest, match="machine is asked for"):
        remote.start(order("far-2", "true"))
    until(lambda: remote.offer().cordoned, "by the network's policy", deadline_s=WAIT_S)
    remote._least = Isolation.PROCESS
    until(lambda: not remote.offer().cordoned, deadline_s=WAIT_S)
    with pytest.raises(InvalidRequest):
        remote._call("clear", replica="../../etc")
    with pytest.raises(InvalidRequest, match="unknown operation"):
        remote._call("format")
    remote.peer = Peer("alpha", ("192.0.2.1", 1), "", "")
    with pytest.raises(InvalidRequest, match="in clear"):
        remote.start(order("far-3", "true", secrets={"TOKEN": "x"}))
    with pytest.raises(InvalidRequest, match="in clear"):
        remote.put_secrets("far-3", {})
    said = machines[0].said()
    stranger = RemoteHost(Peer("alpha", ("127.0.0.1", said["port"]), "wrong", ""), "other", settings())
    until(lambda: "key" in stranger._why, deadline_s=WAIT_S)
    with pytest.raises(HostLost):
        stranger.instances()
    with pytest.raises(Unauthorized):
        stranger._once("look", timeout_s=5.0, args={})
    stranger.close()


def test_an_agent_without_a_worker_stays_for_its_replicas_and_leaves_to_the_next(remote: RemoteHost) -> None:
    machine = Machine("gamma")
    pid = machine.pid()
    said = machine.said()
    host = RemoteHost(Peer("gamma", ("127.0.0.1", said["port"]), said["key"], ""), "net", settings())
    host.start(order("far-4", "sleep", "60"))
    second = AgentKeeper(machine.options, machine.directory / "agent", name="gamma-2", address="127.0.0.1", owner=None)
    time.sleep(1.0)
    assert not second.announcement(), "one for a directory, while it has its worker"
    machine.keeper.close()
    until(second.announcement, deadline_s=WAIT_S)
    assert second.announcement()["pid"] != pid
    said = second.announcement()
    host.moved(Peer("gamma", ("127.0.0.1", said["port"]), said["key"], ""))
    assert host.end("far-4", grace_s=0).status is not None
    host.clear("far-4")
    host.close()
    second.close()
    until(lambda: not second.announcement(), "it has nothing to stay for", deadline_s=WAIT_S)
    machine.keeper = second
    machine.remove()


def test_replicas_of_a_killed_host_come_back_on_another(deploy: Deployments, machines: list[Machine]) -> None:
    app = deploy.create(
        name="far", command=[*WEB, SERVER], port=8000, health={"http": "/", "interval": 0.5}, resources=RESOURCES,
        replicas=3, grace=2, schedule={"region": "eu"},
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    assert {one.host for one in app.replicas} == {"alpha", "beta"}
    url = app.url
    for n in range(6):  # by the agents' relays
        assert get(f"{url}/{n}", data=b"x", method="POST") == (200, f"hello POST /{n} x")
    until(lambda: any("POST" in line for line in app.logs()), "a line of it", deadline_s=WAIT_S)
    with load(f"{url}/slow?0.05", 3) as safe, load(f"{url}/slow?0.05", 3, data=b"x") as unsafe:
        until(lambda: safe.good() > 10 and unsafe.good() > 10, deadline_s=WAIT_S)
        machines[1].die()
        killed = time.monotonic()
        until(
            lambda: [one.host for one in app.replicas if one.state is State.READY] == ["alpha"] * 3, deadline_s=WAIT_S
        )
        assert time.monotonic() - killed < 10.0 * PATIENCE
        asked = safe.good(), unsafe.good()
        until(lambda: safe.good() > asked[0] + 10 and unsafe.good() > asked[1] + 10, deadline_s=WAIT_S)
    assert safe.failed() == 0, "what may be asked again was"
    assert unsafe.failed() <= 6 * PATIENCE, "what was in its hands, or went to it before it was known to be gone"
    assert get(f"{url}/still") == (200, "hello GET /still ")
    # It comes back with what it ran, which is nobody's any more.
    machines[1].started()
    machines[1].pid()
    places = [path for path in (machines[1].directory / "agent").glob("*/bubblewrap") if path.is_dir()]
    until(lambda: not any(list(place.iterdir()) for place in places), "it is cleared away", deadline_s=WAIT_S)
    app.delete()


TOLD = SERVER.replace(
    "        if self.path.startswith",
    "        print('took', self.path, flush=True)\n"
    "        while self.path.startswith('/held') and not os.path.exists('/tmp/go'): time.sleep(0.05)\n"
    "        if self.path.startswith",
    1,
)
"""The server, which says what it was asked before it answers, and keeps it in its hands until it may go on."""


def asked(url: str, **more: Any) -> Future[tuple[float, int, str]]:
    """Ask in a thread: after how many seconds what was answered."""
    began = time.monotonic()

    def ask() -> tuple[float, int, str]:
        status, text = get(url, timeout_s=WAIT_S, **more)
        return time.monotonic() - began, status, text

    found: Future[tuple[float, int, str]] = Future()
    threading.Thread(target=lambda: found.set_result(ask()), daemon=True).start()
    return found


@pytest.mark.parametrize("death", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "killed"])
def test_what_was_sent_over_a_dead_way_is_answered_in_time_and_no_post_is_sent_twice(
    deploy: Deployments, machines: list[Machine], platform: Platform, death: signal.Signals
) -> None:
    app = deploy.create(
        name=f"told-{death.name[3:].lower()}", command=[*WEB, TOLD], port=8000, health={"http": "/", "interval": 0.5},
        resources=RESOURCES, replicas=2, grace=2,
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    url = app.url
    places = {one.id: one.host for one in app.replicas}
    assert sorted(places.values()) == ["alpha", "beta"]

    def routed() -> bool:
        route = platform.routes.of(app.id)
        return route is not None and len(route.endpoints) == 2

    until(routed, "both take requests", deadline_s=WAIT_S)

    def took(path: str) -> list[str]:
        return [places.get(replica, "") for replica, line in app.lines() if line.text == f"took {path}"]

    def let_go() -> bool:
        for one in app.replicas:
            if one.host == "beta" and one.state is State.READY:
                app.exec(["touch", "/tmp/go"], replica=one.id)
        return all(one.done() for one in (*posts.values(), *gets.values()))

    # Of two at a time, each replica has one in its hands.
    posts = {path: asked(f"{url}{path}", data=b"x", method="POST") for path in ("/held/a", "/held/b")}
    until(lambda: all(took(path) for path in posts), deadline_s=WAIT_S)
    gets = {path: asked(f"{url}{path}") for path in ("/held/c", "/held/d")}
    until(lambda: all(took(path) for path in gets), deadline_s=WAIT_S)
    lost = next(path for path in posts if took(path) == ["alpha"])
    pid = machines[0].pid()
    os.kill(pid, death)
    died = time.monotonic()
    try:
        _, status, text = posts[lost].result(WAIT_S)
        assert time.monotonic() - died < (9.0 if death is signal.SIGSTOP else 2.0) * PATIENCE
        assert status == 502
        assert "does not answer" in json.loads(text)["detail"]
        until(let_go, "an answer to each", deadline_s=WAIT_S, pause_s=0.5)
        assert {one.result()[1] for path, one in posts.items() if path != lost} == {200}
        assert [one.result()[1] for one in gets.values()] == [200, 200], "what may be asked again was"
    finally:
        if death is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    until(lambda: len(_heard(platform)) == len(machines), "it is heard again", deadline_s=WAIT_S)
    until(lambda: [len(took(path)) for path in posts] == [1, 1], "each was sent once", deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_in_a_secured_network_all_goes_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, secrets and requests; a megabyte each way, so that records do not come whole."""
    authority = Authority.made(tmp_path / "certs")
    host, gateway = (authority.host(name).certificate.parent for name in ("host", "gateway"))
    monkeypatch.setenv("RIOS_TLS", str(host))
    machine = Machine("delta")
    machine.pid()
    said = machine.said()
    peer = Peer("delta", ("127.0.0.1", said["port"]), said["key"], "")
    clear = RemoteHost(peer, "net", settings().model_copy(update={"tls": None}))
    secured = RemoteHost(peer, "net", settings().model_copy(update={"tls": gateway}))
    until(lambda: not secured._why, deadline_s=WAIT_S)
    web = {"port": 8000, "command": [*WEB, SERVER]}
    secured.start(order("far-5", secrets={"TOKEN": SecretBytes(b"of the gateway")}, **web))
    done = secured.exec("far-5", ["cat", "/run/secrets/TOKEN"], timeout_s=20)
    assert done.stdout == b"of the gateway"
    url = f"http://{secured.way('far-5')}"
    body = b"x" * (1 << 20)
    until(lambda: _answers(url), deadline_s=WAIT_S)
    assert get(url + "/far", data=body, method="POST") == (200, "hello POST /far " + body.decode())
    with pytest.raises(HostLost):
        clear.instances()
    assert "TLS" in clear._why or "lost" in clear._why or "closed" in clear._why
    secured.end("far-5", grace_s=1)
    secured.clear("far-5")
    with pytest.raises(OSError):  # its way has been closed
        get(url + "/far", timeout_s=2)
    for one in (clear, secured):
        one.close()
    machine.remove()


def _answers(url: str) -> bool:
    try:
        return get(url)[0] == 200
    except OSError:
        return False


def test_an_agent_listens_at_an_address_of_ipv6(tmp_path: Path) -> None:
    keeper = AgentKeeper(settings(), tmp_path / "agent", name="six", address="::1", owner=None)
    try:
        until(keeper.announcement, deadline_s=WAIT_S)
        with socket.create_connection(("::1", keeper.announcement()["port"]), timeout=WAIT_S):
            pass
    finally:
        keeper.close()
