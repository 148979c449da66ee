"""What only a network behind a gateway has: tokens, lost connections, and models that others use too."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import rios
from rios.client.http import Http, error_of
from rios.client.job import RemoteJob
from rios.gateway.turns import Turns
from rios.words import errors
from rios.words.errors import (
    AlreadyExists,
    GatewayLost,
    InsufficientBalance,
    InvalidRequest,
    NetworkClosed,
    NotAllowed,
    NotFound,
    NotSignedIn,
    RiosError,
    TooManyRequests,
)
from tests.client.conftest import Both
from tests.gateway.servers import UNLIMITED, serving
from tests.holding import held_after
from tests.waiting import until

PROMPT = "It was a fine morning,"


@pytest.fixture(scope="module")
def remote(both: Both) -> Iterator[Any]:
    with both.connect() as network:
        network.dmoe.deploy("demo", name="shared", dtype="float32", progress=False)
        yield network


class Cutting:
    """A proxy before a gateway that can be cut: every connection through it breaks, or is refused."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._target = host, int(port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.connections = 0
        self.after_bytes: int | None = None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            target = socket.create_connection(self._target)
            self._open += [client, target]
            threading.Thread(target=self._copy, args=(client, target, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(target, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        try:
            while data := source.recv(4096):
                if back and self.after_bytes is not None:
                    self.after_bytes -= len(data)
                    if self.after_bytes < 0:
                        self.after_bytes = None
                        self.cut()
                        return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                one.close()

    def cut(self) -> None:
        """Break all connections that there are."""
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._open.clear()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        self._thread.join(10)


@contextmanager
def cutting(url: str) -> Iterator[Cutting]:
    proxy = Cutting(url)
    yield proxy
    proxy.close()


def test_a_stream_goes_on_after_a_lost_connection(both: Both, remote: Any) -> None:
    whole = remote.dmoe.model("shared").generate(PROMPT, max_new_tokens=60)
    with cutting(both.url) as proxy, rios.connect(proxy.url, token=both.token) as network:
        model = network.dmoe.model("shared")
        with held_after(5) as hold:  # most of it is to come when it is said that all breaks
            stream = model.stream(PROMPT, max_new_tokens=60)
            pieces = [next(stream)]
            proxy.after_bytes = 1500  # then everything breaks, in the middle of an event
            hold.go.set()
            pieces += stream
        assert proxy.after_bytes is None, "it was cut"
        assert proxy.connections >= 2
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == whole.token_ids


def test_an_answer_that_was_lost_is_asked_for_again_and_paid_once(both: Both, remote: Any) -> None:
    with cutting(both.url) as proxy:
        http = Http(proxy.url, both.token)
        until(lambda: remote.wallet.held == 0, "that all before is paid", deadline_s=30)
        before = both.local.billing.costs("model").total_wei
        asked = {"model": "shared", "prompt": PROMPT, "max_new_tokens": 3}
        http.get("/v1/users/me")
        proxy.after_bytes = 20  # the answer to what comes next is cut off, its job runs
        first = http.post("/v1/jobs", asked, key="once")
        assert proxy.after_bytes is None
        again = http.post("/v1/jobs", asked, key="once")
        assert first["id"] == again["id"]
        with pytest.raises(AlreadyExists, match="another request"):
            http.post("/v1/jobs", {**asked, "max_new_tokens": 4}, key="once")
        done = RemoteJob(http, first["id"]).result(30)
        usage = remote.billing.usage(request_id=done.request_id)
        assert both.local.billing.costs("model").total_wei - before == sum(usage["amount_wei"]) > 0
        http.close()


def test_what_is_not_safe_to_repeat_is_not_repeated(both: Both) -> None:
    with cutting(both.url) as proxy:
        http = Http(proxy.url, both.token)
        http.get("/v1/users/me")
        proxy.after_bytes = 20
        with pytest.raises(GatewayLost):
            http.post("/v1/tokens", {"name": "lost"})
        with both.connect() as network:
            names = [one["name"] for one in network._http.get("/v1/tokens")["data"]]
        assert names.count("lost") == 1
        http.close()


def test_a_gateway_that_is_not_there(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.client.http.RETRY_S", 0.0)
    for url in ("http://127.0.0.1:9", "http://127.0.0.1:notaport", "http://"):
        with pytest.raises((GatewayLost, InvalidRequest)):
            rios.connect(url, token="x")
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(GatewayLost, match="not as a gateway of rios does"):
        rios.connect(f"http://127.0.0.1:{server.getsockname()[1]}", token="x")
    thread.join(10)
    server.close()


def test_tokens(both: Both, remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RIOS_TOKEN", raising=False)
    with pytest.raises(NotSignedIn, match="needs a token"):
        rios.connect(both.url)
    with pytest.raises(NotSignedIn):
        rios.connect(both.url, token="rios_sk_wrong")
    with pytest.raises(InvalidRequest, match="no settings"):
        rios.connect(both.url, token="x", call_timeout_s=1)
    with pytest.raises(InvalidRequest, match="is no gateway"):
        rios.connect("tcp://127.0.0.1:1", token="x")
    monkeypatch.setenv("RIOS_TOKEN", both.token)
    with rios.connect(both.url) as network:
        assert repr(network) == f"<RemoteNetwork {both.url} as admin, admin>"
        assert both.token not in repr(vars(network))
    with pytest.raises(NetworkClosed):
        _ = network.models
    assert repr(network).endswith("closed>")
    from rios.services.gate_file import FILE, write_file

    monkeypatch.delenv("RIOS_TOKEN")
    write_file(tmp_path, url=both.url, token=both.token)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    with rios.connect(both.url, home=tmp_path) as network:
        assert network.wallet.address is not None


def test_models_are_shared(both: Both, remote: Any) -> None:
    again = remote.dmoe.deploy("demo", name="shared", progress=False)
    assert again.generate(PROMPT, max_new_tokens=2).token_ids
    with pytest.raises(AlreadyExists):
        remote.dmoe.deploy("demo", name="shared", dtype="bfloat16", progress=False)
    with pytest.raises(InvalidRequest, match="no checkpoint"):
        remote.dmoe.deploy("../elsewhere", progress=False)
    with pytest.raises(NotFound):
        remote.dmoe.model("none")
    with again:
        assert "shared" in repr(again)
    with pytest.raises(NetworkClosed):
        again.generate(PROMPT)
    assert "shared" in [model.name for model in remote.models], "closing a handle takes nothing down"
    brief = remote.dmoe.deploy("demo", name="brief", progress=False)
    assert brief.state == "serving"
    brief.undeploy()
    assert "brief" not in [model.name for model in remote.models]
    with pytest.raises((NotFound, NetworkClosed)):  # while an engine closes it, it says that
        brief.generate(PROMPT)


def test_errors_are_those_of_a_local_network(both: Both, remote: Any) -> None:
    poor = remote._http.post("/v1/users", {"login": "poor", "role": "developer"})
    viewer = remote._http.post("/v1/users", {"login": "viewer", "role": "viewer"})
    with both.connect(poor["token"]) as network:
        with pytest.raises(InsufficientBalance):
            network.dmoe.model("shared").generate(PROMPT)
        assert network.workers[0].pid == 0, "processes are not for everybody to see"
        assert network.wallet.address is None
        assert network.wallet.deposited == 0
    with both.connect(viewer["token"]) as network:
        with pytest.raises(NotAllowed, match="generate"):
            network.dmoe.model("shared").generate(PROMPT)
        with pytest.raises(NotAllowed):
            network.dmoe.deploy("demo", name="new", progress=False)


def test_nobody_follows_the_job_of_another(both: Both, remote: Any) -> None:
    job = remote.dmoe.model("shared").submit(PROMPT, max_new_tokens=2)
    other = remote._http.post("/v1/users", {"login": "curious", "role": "developer"})
    with both.connect(other["token"]) as network:
        for act in (
            lambda: RemoteJob(network._http, job.request_id).result(),
            lambda: list(RemoteJob(network._http, job.request_id).stream()),
            lambda: network._http.ask("DELETE", f"/v1/jobs/{job.request_id}"),
        ):
            with pytest.raises(NotFound):
                act()
    assert job.result().token_ids


@pytest.mark.parametrize("name", [name for name in dir(errors) if name[0].isupper()])
def test_every_error_travels(name: str) -> None:
    kind = getattr(errors, name)
    found = error_of({"type": f"urn:rios:error:{name}", "detail": "why"}, retry_after="7")
    assert type(found) is kind
    assert str(found) == "why"
    if kind is TooManyRequests:
        assert found.retry_after_s == 7.0


def test_what_is_no_error_of_rios_becomes_none() -> None:
    for name in ("annotations", "SystemExit", "__name__", ""):
        assert type(error_of({"type": f"urn:rios:error:{name}", "detail": "why"})) is RiosError


def test_a_gateway_that_ends_lets_streams_end(both: Both, remote: Any) -> None:
    """A second gateway of the same network; told to end while it streams."""
    said: list[str] = []
    with ExitStack() as stack:
        url = stack.enter_context(serving(both.gate, UNLIMITED.model_copy(update={"drain_s": 60})))
        headers = {"Authorization": f"Bearer {both.token}"}
        asked = {"model": "shared", "prompt": PROMPT, "max_tokens": 150, "temperature": 0, "stream": True}
        with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
            with held_after(5) as hold, http.stream("POST", "/v1/completions", json=asked) as response:
                lines = response.iter_lines()
                said.append(next(lines))
                ending = threading.Thread(target=stack.close)
                ending.start()
                hold.go.set()
                said += [line for line in lines if line]
            ending.join(60)
            with pytest.raises(httpx2.ConnectError):
                http.get("/live")
    assert said[-1] == "data: [DONE]"
    assert json.loads(said[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_who_asks_for_much_does_not_starve_others(both: Both, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway with one place, ten requests of one user, and one of another."""
    user = remote._http.post("/v1/users", {"login": "modest", "role": "developer"})
    remote._http.post(f"/v1/users/{user['id']}/credit", {"amount": "1 ROS"}, key="modest")
    order: list[str] = []
    came: list[str] = []
    take = Turns.take

    async def noted(turns: Turns, user: str) -> None:
        came.append(user)
        await take(turns, user)

    monkeypatch.setattr(Turns, "take", noted)

    def ask(name: str, token: str, url: str) -> None:
        with rios.connect(url, token=token) as network:
            network.dmoe.model("shared").generate(PROMPT, max_new_tokens=40)
            order.append(name)

    with serving(both.gate, UNLIMITED.model_copy(update={"running_max": 1})) as url, held_after(5) as hold:
        greedy = [threading.Thread(target=ask, args=("greedy", both.token, url)) for _ in range(10)]
        modest = threading.Thread(target=ask, args=("modest", user["token"], url))
        for thread in greedy:
            thread.start()
        until(lambda: len(came) == 10, "all of one user's", deadline_s=60)
        modest.start()
        until(lambda: len(came) == 11, "the other's", deadline_s=60)
        hold.go.set()
        for thread in (*greedy, modest):
            thread.join(120)
    assert len(order) == 11
    assert order.index("modest") < 8, "it came last and was not served last"


def test_what_all_users_spent_settles_and_reconciles(both: Both, remote: Any) -> None:
    user = remote._http.post("/v1/users", {"login": "spends", "role": "developer"})
    remote._http.post(f"/v1/users/{user['id']}/credit", {"amount": "1 ROS"}, key="spends")
    with both.connect(user["token"]) as network:
        network.dmoe.model("shared").generate(PROMPT, max_new_tokens=3)
        assert network.billing.costs("model").total_wei > 0
        with pytest.raises(NotAllowed):
            network._http.post("/v1/settlement", None)
    settled = remote._http.post("/v1/settlement", None)
    assert int(settled["total_wei"]) > 0
    assert both.local.billing.reconcile().sound
