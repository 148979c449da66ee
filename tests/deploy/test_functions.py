"""A function of Python as an application."""

from __future__ import annotations

import threading

import pytest

from rios.deploy import functions
from rios.deploy.runtimes.protocol import Limits
from rios.deploy.spec import App, Function
from rios.words.errors import InvalidRequest
from tests.deploy.conftest import Bench

WORD = "a global"


def _greet() -> None:
    import json

    print(json.dumps({"said": WORD}))


@pytest.mark.parametrize("bench", ["bubblewrap"], indirect=True)
@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
@pytest.mark.needs("busybox")
def test_a_function_runs_in_a_sandbox(bench: Bench) -> None:
    function = functions.packed(_greet)
    assert "payload" not in repr(App(name="greet", python=function))
    status, said = bench.run(
        "python3",
        "-S",
        *functions.command(function)[1:],
        files=functions.files(function),
        limits=Limits(memory_bytes=256 << 20),
    )
    assert status.exit_code == 0, [line.text for line in bench.runtime.logs(status.instance)]
    assert said == '{"said": "a global"}'


def test_what_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        functions.packed(lambda: print(lock))
    large = bytes(9 << 20)
    with pytest.raises(InvalidRequest, match="at most"):
        functions.packed(lambda: large)
    with pytest.raises(InvalidRequest, match="no function"):
        functions.packed(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="base64"):
        functions.files(Function(payload="...", python="3.11"))
