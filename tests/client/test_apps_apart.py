"""What a client does with deployments behind a gateway whose hosts run nothing: lists, fields, lines, bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.deploy.runtimes.protocol import LogLine
from tests.client.test_commands import call
from tests.deployments.simulated_hosts import SimulatedHost
from tests.gateway.servers import Door, lean
from tests.waiting import until

WAIT_S = 60.0
NOWHERE = {"command": ["sleep", "9"], "resources": {"memory": "9TiB"}}
"""No host has room for it."""
SMALL = {"cpu": 0.1, "memory": "64MiB"}


class Telling(SimulatedHost):
    """A host whose replicas have written what `written` says."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.written: dict[str, list[LogLine]] = {}

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        self._here()
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
