"""What a client does with deployments behind a gateway whose hosts run nothing: lists, fields, lines, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rios
from tests.gateway.servers import Door, lean


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with lean(tmp_path_factory.mktemp("apart") / "home") as found:
        yield found


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
