"""What callers may give, refused by name or made plain; and how long networks, models and requests live."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import rios
from rios.dmoe.generator import Generator
from rios.services.prompts import count_of, one_of, params_of, prompts_of
from rios.words.errors import InvalidRequest, NetworkClosed, TrunkLost

PROMPT = "It was a fine morning,"


@pytest.fixture(scope="module")
def network() -> Iterator[rios.Network]:
    with rios.local(workers=1, threads=1) as net:
        yield net


@pytest.fixture(scope="module")
def model(network: rios.Network) -> Any:
    return network.dmoe.deploy("demo", progress=False)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("text", (["text"], True)),
        ("", ([""], True)),
        ([3, 4], ([[3, 4]], True)),
        ((3, 4), ([[3, 4]], True)),
        (range(3, 5), ([[3, 4]], True)),
        ([np.int64(3), np.int32(4)], ([[3, 4]], True)),
        (np.array([3, 4]), ([[3, 4]], True)),
        (torch.tensor([3, 4]), ([[3, 4]], True)),
        ([torch.tensor(3), 4], ([[3, 4]], True)),
        (["a", "b"], (["a", "b"], False)),
        ([[3], [4, 5]], ([[3], [4, 5]], False)),
        ([[]], ([[]], False)),
        (np.array([[3, 4], [5, 6]]), ([[3, 4], [5, 6]], False)),
        ([np.array([3, 4]), torch.tensor([5])], ([[3, 4], [5]], False)),
    ],
)
def test_prompts_are_made_plain(given: Any, found: Any) -> None:
    assert prompts_of(given) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"abc", "not bytes"),
        (bytearray(b"abc"), "not bytearray"),
        (memoryview(b"abc"), "not memoryview"),
        ({"a": 1}, "not dict"),
        (5, "not int"),
        (None, "not NoneType"),
        (np.int64(5), "not int64"),
        (np.array(5), "not ndarray"),
        ([], "the prompt is empty"),
        ([True], "token 0 of the prompt is True"),
        ([1, 2.0], "token 1 of the prompt is 2.0"),
        (np.array([1.0]), "token 0 of the prompt is 1.0"),
        ([[1], [2, "a"]], "token 1 of prompt 1 is 'a'"),
        ([[1], [[2]]], r"token 0 of prompt 1 is \[2\]"),
        (["a", [1]], "part 0 is 'a'"),
        (["a", 3], "part 0 is 'a'"),
        ([[1], 3], "part 1 is 3"),
        ([[1], b"a"], "part 1 is b'a'"),
    ],
)
def test_what_is_no_prompt_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        prompts_of(given)


def test_one_prompt_only() -> None:
    assert one_of([3, 4], "stream") == [3, 4]
    with pytest.raises(InvalidRequest, match="stream takes one prompt, this is a list of 2"):
        one_of(["a", "b"], "stream")


def test_parameters_are_made_plain() -> None:
    params = params_of({"stop": "x", "stop_token_ids": np.array([3]), "max_new_tokens": np.int64(7), "seed": None})
    assert (params.stop, params.stop_token_ids, params.max_new_tokens, params.seed) == (("x",), (3,), 7, None)
    assert type(params.max_new_tokens) is int
    assert params_of({"stop": ["x", "y"]}).stop == ("x", "y")


@pytest.mark.parametrize(
    "bad",
    [
        {"stop": 5},
        {"stop": b"x"},
        {"stop": [5]},
        {"stop": [""]},
        {"stop_token_ids": 5},
        {"stop_token_ids": "ab"},
        {"stop_token_ids": [2.5]},
        {"timeout": "x"},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": True},
        {"max_new_tokens": 2.0},
        {"max_new_tokens": "x"},
        {"max_new_tokens": None},
        {"max_new_tokens": False},
        {"temperature": "hot"},
        {"seed": -1},
        {"max_new_tokens": 0, "temperature": float("nan")},
        {"colour": 3},
    ],
)
def test_bad_parameters_are_named(model: Any, bad: dict[str, Any]) -> None:
    field = list(bad)[-1]
    for call in (model.generate, model.stream, model.submit):
        with pytest.raises(InvalidRequest, match=field):
            call(PROMPT, **bad)


@pytest.mark.parametrize("bad", ["2", 2.5, True, 0, -1])
def test_bad_numbers_of_copies_are_named(network: rios.Network, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match="replicas is"):
        network.dmoe.deploy("demo", replicas=bad, progress=False)
    assert count_of("replicas", np.int64(2)) == 2


def test_more_copies_than_workers_and_bad_deadlines(network: rios.Network, model: Any) -> None:
    with pytest.raises(InvalidRequest, match="replicas is 2, but there are 1 workers"):
        network.dmoe.deploy("demo", replicas=2, progress=False)
    with pytest.raises(InvalidRequest, match="timeout is 'x'"):
        network.dmoe.deploy("demo", timeout="x", progress=False)
    with pytest.raises(InvalidRequest, match="timeout is 'x'"):
        network.wait_for_workers(1, timeout="x")
    job = model.submit(PROMPT, max_new_tokens=2)
    with pytest.raises(InvalidRequest, match="timeout is 'x'"):
        job.result(timeout="x")
    assert job.result(timeout=60).finish_reason == "length"


def test_arrays_answer_as_lists_do(model: Any) -> None:
    expected = model.generate([5, 6, 7], max_new_tokens=5).token_ids
    assert model.generate(np.array([5, 6, 7]), max_new_tokens=np.int64(5)).token_ids == expected
    assert [c.token_ids for c in model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5)] == [expected]


def test_requests_that_cannot_be_sent_cost_nothing(
    network: rios.Network, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator: Generator = model._deployment.generator
    before = network.billing.balance

    def lost() -> Any:
        raise TrunkLost("a test says so")

    monkeypatch.setattr(generator, "_connected", lost)
    with pytest.raises(TrunkLost):
        model.generate(["a", "b"], max_new_tokens=400, ignore_eos=True)
    assert not generator.jobs
    assert network.billing.balance == before


def test_a_list_of_prompts_begins_in_one_step(model: Any) -> None:
    """Whoever came a step late would be read alone, and the batch would take a step more."""
    before = model._deployment.trunk_stats()["steps"]
    answers = model.generate([[place + 1, 7] for place in range(24)], max_new_tokens=5, ignore_eos=True)
    assert [len(answer.token_ids) for answer in answers] == [5] * 24
    assert model._deployment.trunk_stats()["steps"] - before == 5


def test_a_closed_model_says_so(network: rios.Network) -> None:
    model = network.dmoe.deploy("demo", name="short", progress=False)
    model.close()
    model.close()
    for use in (lambda: model.placement, lambda: model.generate(PROMPT), lambda: model.submit(PROMPT)):
        with pytest.raises(NetworkClosed, match="'short' was closed"):
            use()


def until(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, what
        gc.collect()
        time.sleep(0.05)


def test_in_one_line(network: rios.Network) -> None:
    """Nobody holds the network, nor the model: both live until the answer is there."""
    before = {thread.name for thread in threading.enumerate()}
    expected = rios.connect(network.address).dmoe.deploy("demo", progress=False).generate(PROMPT, max_new_tokens=9)
    pieces = rios.connect(network.address).dmoe.deploy("demo", progress=False).stream(PROMPT, max_new_tokens=9)
    gc.collect()
    assert "".join(piece.text for piece in pieces) == expected.text
    job = rios.connect(network.address).dmoe.deploy("demo", progress=False).submit(PROMPT, max_new_tokens=9)
    gc.collect()
    assert job.result(timeout=60).text == expected.text
    del pieces, job

    def ours() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("rios-")}

    until(lambda: ours() <= before, f"threads are left: {ours() - before}")


def test_a_network_that_is_dropped_ends() -> None:
    net = rios.local(workers=1, threads=1)
    model = net.dmoe.deploy("demo", progress=False)
    model.generate(PROMPT, max_new_tokens=3)
    assert net.cluster is not None
    processes = list(net.cluster.processes.values())
    host = psutil.Process(net.workers[0].pid)
    accountant = model._deployment.generator._accountant._thread
    assert accountant is not None
    threads = [model._deployment._thread, net._membership._thread, accountant]
    del net, model
    until(lambda: all(process.poll() is not None for process in processes), "processes are left")
    until(lambda: not any(thread.is_alive() for thread in threads), "threads are left")
    until(lambda: not runs(host.pid), "the host is left")


def test_a_process_that_ends_with_an_open_network_leaves_nothing() -> None:
    code = (
        "import rios\n"
        "net = rios.local(workers=1, threads=1)\n"
        "model = net.dmoe.deploy('demo', progress=False)\n"
        "print(net.workers[0].pid, *[p.pid for p in net.cluster.processes.values()])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    until(lambda: not any(map(runs, pids)), "processes are left")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
