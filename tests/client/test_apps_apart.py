"""What a client does with deployments behind a gateway whose hosts run nothing: lists, fields, lines, bounds."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.deploy.runtimes.protocol import LogLine
from rios.services.deployments.values import EXEC_MAX_S
from rios.words.errors import HostLost, InvalidRequest
from tests.client.test_commands import call
from tests.deployments.simulated_hosts import SimulatedHost
from tests.gateway.servers import Door, lean, problem
from tests.waiting import PATIENCE, until

WAIT_S, LINE_S = 60.0, 10.0 * PATIENCE
FOLLOWS = "test-follows"
NOWHERE = {"command": ["sleep", "9"], "resources": {"memory": "9TiB"}}
"""No host has room for it."""
SMALL = {"cpu": 0.1, "memory": "64MiB"}


class Telling(SimulatedHost):
    """A host whose replicas have written what `written` says."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.written: dict[str, list[LogLine]] = {}
        self.mute = False

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        if self.mute:
            raise HostLost(f"{self.name} does not answer")
        return iter([line for line in self.written.get(replica_id, []) if line.at > since])


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with lean(tmp_path_factory.mktemp("apart") / "home") as found:
        yield found


@pytest.fixture(scope="module")
def hosts(door: Door) -> list[Telling]:
    """Two, which the deployments of the gateway find."""
    found = [Telling("one"), Telling("two")]
    door.gate.network._apps().hosts.hosts.update({host.name: host for host in found})
    return found


@pytest.fixture(scope="module")
def network(door: Door) -> Iterator[Any]:
    with rios.connect(door.url, token=door.token) as found:
        yield found


def test_fields_of_a_model_are_taken_back(network: Any) -> None:
    chat = network.deploy.create(
        name="chat", model="demo", partial=True, copies=2, served_name="Chat.1", dtype="float32"
    )
    assert chat.update(partial=False, copies=None) == 2
    said = chat.specification
    assert not {"partial", "copies"} & said.keys()
    assert (said["served_name"], said["dtype"]) == ("Chat.1", "float32"), "what was not named stays"
    assert chat.update(served_name=None, dtype=None) == 3
    assert not {"served_name", "dtype"} & chat.specification.keys()
    assert chat.update(private=True, wire_dtype="bfloat16") == 4
    assert chat.update(private=False, wire_dtype=None) == 5
    assert not {"private", "wire_dtype"} & chat.specification.keys()
    chat.delete(wait=False)


def test_lists_at_the_command_line_are_whole(door: Door, network: Any, hosts: Any, tmp_path: Path) -> None:
    def said(*arguments: str) -> Any:
        return json.loads(call(*arguments, "--json", home=tmp_path, RIOS_URL=door.url, RIOS_TOKEN=door.token))

    names = [f"many-{number:03}" for number in range(102)]
    for name in names:
        network.deploy.create(name=name, **NOWHERE)
    assert [one["name"] for one in said("apps")] == names
    wide = network.deploy.create(name="wide", command=["sleep", "9"], replicas=102, resources=SMALL)
    until(lambda: len(wide.replicas) == 102, deadline_s=WAIT_S)
    assert {one["id"] for one in said("app", "wide")["data"]} == {one.id for one in wide.replicas}
    for name in (*names, "wide"):
        network.deploy.get(name).delete(wait=False)


def following(app: Any, **more: Any) -> Callable[[int], list[str]]:
    """Follows the lines of a deployment until it is gone; gives so many of them, in their order."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run() -> None:
        for line in app.logs(follow=True, **more):
            lines.put(line)

    threading.Thread(target=run, name=FOLLOWS, daemon=True).start()
    return lambda count: [lines.get(timeout=LINE_S) for _ in range(count)]


def test_who_follows_misses_no_line_of_a_slow_clock(network: Any, hosts: list[Telling]) -> None:
    app = network.deploy.create(name="told", command=["sleep", "9"], replicas=2, resources=SMALL)
    until(lambda: app.status == "ready", deadline_s=WAIT_S)
    of = {host.name: one.id for host in hosts for one in app.replicas if one.host == host.name}
    assert len(of) == 2
    one, two = hosts

    def write(host: Telling, text: str, at: float) -> None:
        host.written.setdefault(of[host.name], []).append(LogLine(at, "stdout", text))

    write(one, "one 0", 1000.0)
    write(two, "two 0", 1005.0)
    heard = following(app)
    assert heard(2) == ["one 0", "two 0"]
    for turn in range(1, 4):  # the clock of `one` is 5 s slow, and it writes in each pause
        write(one, f"one {turn}", 1000.0 + turn)
        write(two, f"two {turn}", 1005.0 + turn)
        assert sorted(heard(2)) == [f"one {turn}", f"two {turn}"]
    one.mute = True  # what it wrote meanwhile comes when it is back
    write(one, "one 4", 1004.0)
    write(two, "two 4", 1009.0)
    assert heard(1) == ["two 4"]
    one.mute = False
    assert heard(1) == ["one 4"]
    one.written[of["one"]] += [LogLine(1010.0 + number / 1000, "stdout", f"much {number}") for number in range(12_000)]
    assert heard(12_000) == [f"much {number}" for number in range(12_000)]
    assert following(app, replica=of["two"])(5) == [f"two {turn}" for turn in range(5)]
    assert len(app.logs()) == 5000
    assert [line.text for _, line in app.lines(since=1021.99)] == [f"much {number}" for number in range(11_991, 12_000)]
    app.delete()
    until(lambda: FOLLOWS not in [one.name for one in threading.enumerate()], deadline_s=WAIT_S)


def test_pages_of_lines_are_bounded(door: Door, network: Any) -> None:
    network.deploy.create(name="quiet", **NOWHERE)
    with door.client() as http:
        assert http.post("/v1/apps/quiet/logs", json={}).json() == {"data": [], "next": {}, "more": False}
        for wrong in (
            {"limit": 0}, {"limit": 5001}, {"after": {"a": -1.0}}, {"after": {"a" * 64: 1.0}},
            {"after": {str(number): 1.0 for number in range(2001)}}, {"after": "x"}, {"replica": "a" * 64},
        ):  # fmt: skip
            problem(http.post("/v1/apps/quiet/logs", json=wrong), 400)
        problem(http.post("/v1/apps/none/logs", json={}), 404)
    network.deploy.get("quiet").delete(wait=False)


def test_a_command_has_as_long_as_the_gateway_says(door: Door, network: Any, hosts: list[Telling]) -> None:
    app = network.deploy.create(name="runs", command=["sleep", "9"], resources=SMALL)
    until(lambda: app.status == "ready", deadline_s=WAIT_S)
    assert app.exec(["true"], timeout=EXEC_MAX_S).exit_code == 0
    with pytest.raises(InvalidRequest, match="timeout is 61 s, and through a gateway a command has 60 s at most"):
        app.exec(["true"], timeout=61)
    with door.client() as http:
        refused = problem(http.post("/v1/apps/runs/exec", json={"command": ["true"], "timeout_s": 61.0}), 400)
    assert "60" in refused["detail"]
    app.delete(wait=False)
