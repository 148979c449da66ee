"""A trunk's batch on a real host in this process: admission, chunked prompts, cancelling, memory, the log."""

from __future__ import annotations

import collections
import logging
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rios.dmoe.batching import Batch, Request
from rios.dmoe.calls import Exec, encode_exec
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.greeting import connect
from rios.dmoe.host import Host
from rios.dmoe.params import SamplingParams
from rios.dmoe.trunk import Slot, Trunk
from rios.dmoe.wire import Kind, dump
from rios.words.errors import InsufficientMemory, InvalidRequest, QueueFull
from tests import checkpoints, waiting
from tests.dmoe.frames import submit_meta
from tests.hosting import DEADLINE_S, KEY, Client, Hosting, hosting

NEW = 24
PROMPT = [5, 6, 7]
CALM = {"trunk_silence_s": DEADLINE_S}  # a test may hold the trunk up


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("olmoe", tmp_path_factory.mktemp("olmoe"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(made: Hosting, name: str = "model") -> Batch:
    service = made.host.deployments[name].trunk
    assert service is not None
    return service.batch


until = partial(waiting.until, deadline_s=DEADLINE_S, pause_s=0.005)


class Watched:
    """Every step of a trunk: how many tokens of whom. It can be held up before one."""

    def __init__(self, trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[dict[Slot, int]] = []
        self.slots_max = 0
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()
        real = trunk.step

        def step(work: Sequence[tuple[Slot, Sequence[int]]]) -> torch.Tensor:
            self.steps.append({slot: len(tokens) for slot, tokens in work})
            self.slots_max = max(self.slots_max, len(trunk._slots))
            self.entered.set()
            assert self.go.wait(DEADLINE_S)
            return real(work)

        monkeypatch.setattr(trunk, "step", step)


# --- memory ------------------------------------------------------------------------------------------------------


def test_the_cache_is_within_the_budget(path: Path) -> None:
    """Two trunks on one host: their weights and caches and the experts are reserved, and no more than there is."""
    with hosting(memory_bytes=4_000_000) as made:
        free = 4_000_000
        for name in ("first", "second"):
            made.deploy(path, name=name)
            hosted = made.host.deployments[name]
            free -= hosted.store.nbytes + hosted.size(sum(part.values for part in hosted.manifest.trunk))
            kv = batch_of(made, name).kv_budget_bytes
            # A share of what is free beside the trunk: the experts of the same deployment do not make it smaller.
            assert kv == int(made.settings.kv_fraction * (free + hosted.store.nbytes)) > 0
            free -= kv
            info = made.control.call("info")
            assert info["reserved_bytes"] == 4_000_000 - free
        for name in ("first", "second"):
            made.control.call("close", deployment=name)
        assert made.control.call("info")["reserved_bytes"] == 0


def test_a_cache_that_can_never_be_full_is_smaller(path: Path) -> None:
    with hosting(settings={"max_running": 2}, memory_bytes=1 << 30) as made:
        made.deploy(path)
        trunk = batch_of(made).trunk
        of_one = trunk.kv_bytes_fixed + trunk.kv_bytes_per_token * read_manifest(path).context_length
        assert batch_of(made).kv_budget_bytes == 2 * of_one


def test_a_cache_that_does_not_fit_is_refused_with_the_numbers(path: Path) -> None:
    with hosting(memory_bytes=4_000_000) as made:
        made.deploy(path, trunk=False)
        before = made.control.call("info")["reserved_bytes"]
        with pytest.raises(InsufficientMemory, match=r"key-value cache of model needs 4,000,000 bytes, [\d,]+ of"):
            made.control.call("trunk", deployment="model", options={"kv_bytes": 4_000_000})
        assert made.control.call("info")["reserved_bytes"] == before
        made.control.call("trunk", deployment="model", options={})


def test_requests_wait_for_room_in_the_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two of them: never more than two at a time, all answered, and one too long for it is refused."""
    with hosting(settings=CALM) as made:
        made.deploy(path, name="other")
        per_token = batch_of(made, "other").trunk.kv_bytes_per_token
        assert per_token > 0
        made.deploy(path, kv_bytes=2 * per_token * (len(PROMPT) + NEW))
        watched = Watched(batch_of(made).trunk, monkeypatch)
        with Client(made, "other") as client:
            expected = client.submit(PROMPT, tokens=NEW).result(DEADLINE_S).token_ids
        with Client(made) as client:
            watched.go.clear()
            jobs = [client.submit(PROMPT, tokens=NEW) for _ in range(5)]
            until(lambda: made.stats()["waiting"] >= 3)
            watched.go.set()
            assert {job.result(DEADLINE_S).token_ids for job in jobs} == {expected}
            assert watched.slots_max == 2
            with pytest.raises(InsufficientMemory, match=r"[\d,]+ bytes, this trunk has [\d,]+"):
                client.submit(PROMPT, tokens=3 * NEW).result(DEADLINE_S)
        assert made.stats()["kv_bytes"] == 0


def test_a_trunk_that_is_out_of_memory_says_so_and_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's error for main memory is a plain RuntimeError; the request that needed it fails, not the trunk."""
    with hosting() as made, monkeypatch.context() as patch:
        made.deploy(path)
        patch.setattr(batch_of(made).trunk, "step", lambda _: torch.empty(1 << 52))
        with Client(made) as client:
            with pytest.raises(InsufficientMemory, match="allocate memory"):
                client.submit(PROMPT, tokens=NEW).result(DEADLINE_S)
            patch.undo()
            assert len(client.submit(PROMPT, tokens=NEW).result(DEADLINE_S).token_ids) == NEW
            until(lambda: made.stats()["kv_bytes"] == 0)


class Full(Host):
    """Has no memory for an answer."""

    def reply(self, call: Exec, output: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 52)


def test_a_host_that_is_out_of_memory_says_so_and_goes_on(path: Path) -> None:
    with hosting(host_class=Full) as made:
        made.deploy(path, trunk=False)
        connection, welcome = connect(
            made.peer.address,
            {"role": "data", "key": KEY, "deployment": "model"},
            timeout_s=DEADLINE_S,
            max_bytes=1 << 20,
        )
        meta, bodies = encode_exec(
            deployment=welcome["handle"],
            layer=0,
            experts=np.zeros(1, dtype=np.int32),
            counts=np.ones(1, dtype=np.int32),
            slot_rows=np.zeros(1, dtype=np.int32),
            hidden=torch.ones(1, read_manifest(path).hidden_size),
            weights=None,
        )
        for seq in (1, 2):
            connection.send(Kind.EXEC, seq, meta, bodies, timeout_s=DEADLINE_S)
            frame = connection.receive(DEADLINE_S)
            assert (frame.kind, frame.seq) == (Kind.ERROR, seq)
            assert frame.json()["error"] == "OutOfMemory"
        connection.close()


# --- turns -------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(settings={**CALM, "max_running": 1, "max_queued": 1}) as made:
        made.deploy(path)
        watched = Watched(batch_of(made).trunk, monkeypatch)
        watched.go.clear()
        with Client(made) as client:
            running = client.submit(PROMPT, tokens=2)
            assert watched.entered.wait(DEADLINE_S)
            waiting = client.submit(PROMPT, tokens=2)
            with pytest.raises(QueueFull, match=r"1 requests wait already \(RIOS_MAX_QUEUED\)"):
                client.submit(PROMPT, tokens=2).result(DEADLINE_S)
            watched.go.set()
            assert running.result(DEADLINE_S).token_ids == waiting.result(DEADLINE_S).token_ids
            client.submit(PROMPT, tokens=2).result(DEADLINE_S)


def test_requests_of_one_list_begin_in_one_step(path: Path) -> None:
    """Also where one of them is cancelled, or refused, before the last has come."""
    with hosting(settings=CALM) as made:
        made.deploy(path)
        with Client(made) as client:
            connection = client._session._connection
            alone = client.submit(PROMPT, tokens=3).result(DEADLINE_S).token_ids
            before = made.stats()["steps"]
            jobs = [client.job(PROMPT, tokens=3) for _ in range(4)]
            said = [job.begin(client._session) for job in jobs]
            for job, begun in zip(jobs[:3], said, strict=False):
                client._session._send(job, begun, [], more=True)
            jobs[1].cancel()
            until(lambda: made.stats()["waiting"] == 2)
            assert made.stats()["steps"] == before
            broken = dump({**submit_meta(), "handle": jobs[3].handle, "prompt_tokens": 1})
            connection.send(Kind.SUBMIT, jobs[3].handle, broken, [struct.pack("<i", 1 << 30)], timeout_s=1.0)
            with pytest.raises(InvalidRequest, match="token ids must be"):
                jobs[3].result(DEADLINE_S)
            assert [job.result(DEADLINE_S).token_ids for job in (jobs[0], jobs[2])] == [alone, alone]
            assert made.stats()["steps"] - before == 3


def test_a_long_prompt_does_not_hold_a_stream_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tokens of the stream, at most `prefill_tokens` of the prompt are read."""
    long = [3 + place % 100 for place in range(200)]
    with hosting(settings={**CALM, "prefill_tokens": 16}) as made:
        made.deploy(path)
        with Client(made) as client:
            alone = [
                client.submit(prompt, tokens=n).result(DEADLINE_S).token_ids for prompt, n in ((PROMPT, 40), (long, 4))
            ]
            watched = Watched(batch_of(made).trunk, monkeypatch)
            watched.go.clear()
            stream = client.submit(PROMPT, tokens=40)
            assert watched.entered.wait(DEADLINE_S)
            prompt = client.submit(long, tokens=4)
            until(lambda: made.stats()["waiting"] == 1)
            watched.go.set()
            assert [job.result(DEADLINE_S).token_ids for job in (stream, prompt)] == alone
    streams = next(iter(watched.steps[0]))
    between: list[int] = []
    for step in watched.steps:
        if streams in step:
            between.append(0)
        if between:
            between[-1] += sum(count for slot, count in step.items() if slot is not streams and count > 1)
    assert sum(between) == len(long)
    assert max(between) == 16


class Interrupted(collections.deque):  # type: ignore[type-arg]
    """A queue that loses its race: a cancel arrives when the request has left one queue and is not in this one yet."""

    def __init__(self, cancel: Callable[[Request], None]) -> None:
        super().__init__()
        self._cancel = cancel
        self.hit = False

    def append(self, request: Request) -> None:
        if not self.hit:
            self.hit = True
            self._cancel(request)
        super().append(request)

    def extend(self, requests: Any) -> None:
        for request in requests:
            self.append(request)


@pytest.mark.parametrize("queue", ["waiting", "prefilling", "decoding"])
def test_a_cancel_between_two_queues_is_heard(queue: str, path: Path) -> None:
    with hosting(settings=CALM) as made:
        made.deploy(path)
        batch = batch_of(made)
        interrupted = Interrupted(lambda request: batch.cancel(request.client, request.handle))
        setattr(batch, queue, interrupted)
        with Client(made) as client:
            client.submit(PROMPT, tokens=NEW)
            until(lambda: interrupted.hit and not (made.stats()["running"] or made.stats()["waiting"]))
            assert batch.tokens < NEW
            assert made.stats()["kv_bytes"] == 0
            assert len(client.submit(PROMPT, tokens=NEW).result(DEADLINE_S).token_ids) == NEW


def test_a_client_that_hangs_up_is_cancelled(path: Path) -> None:
    with hosting(settings=CALM) as made:
        made.deploy(path)
        with Client(made) as client:
            job = client.submit(PROMPT, tokens=250)
            until(lambda: bool(job.token_ids))
        until(lambda: made.stats()["running"] == 0)
        assert made.stats()["kv_bytes"] == 0


# --- the log -----------------------------------------------------------------------------------------------------


def test_lines_of_the_trunk_carry_the_request_id(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with SUBMIT where the client sends one."""

    def submit(handle: int, tokens: int, **more: Any) -> None:
        params = asdict(SamplingParams(max_new_tokens=tokens, ignore_eos=True))
        meta = {"handle": handle, "prompt_tokens": 3, "params": params, "seed": 0, "eos": [], **more}
        connection.send(Kind.SUBMIT, handle, dump(meta), [struct.pack("<3i", *PROMPT)], timeout_s=DEADLINE_S)

    def events(request_id: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if getattr(r, "request_id", None) == request_id]

    caplog.set_level(logging.INFO, logger="rios")
    with hosting() as made:
        made.deploy(path)
        connection, _ = connect(
            made.peer.address,
            {"role": "client", "key": KEY, "deployment": "model"},
            timeout_s=DEADLINE_S,
            max_bytes=1 << 20,
        )
        watched = Watched(batch_of(made).trunk, monkeypatch)
        watched.go.clear()  # nothing is answered before it is cancelled
        submit(1, 4, request_id="answered")
        submit(2, 250, request_id="cancelled")
        connection.send(Kind.CANCEL, 2, timeout_s=DEADLINE_S)
        submit(3, 1000, request_id="refused")
        until(lambda: events("refused"))
        watched.go.set()
        submit(4, 1)
        submit(5, 1, request_id="x" * 500)
        until(lambda: "request answered" in events("answered") and "request cancelled" in events("cancelled"))
        until(lambda: len(events("x" * 64)) == 2)
        connection.close()
    assert events("answered") == ["request begins", "request answered"]
    assert events("refused") == ["request refused"]
