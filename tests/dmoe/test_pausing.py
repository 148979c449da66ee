"""A request has as many tokens as it is allowed, then stands still, holds nobody up, and goes on as if undisturbed."""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rios.dmoe.greeting import connect
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams
from rios.dmoe.tokenizer import Tokenizing
from rios.dmoe.wire import Connection, Kind, dump
from rios.words.errors import Cancelled, HostLost, InsufficientBalance, ProtocolError, RiosError
from rios.words.events import Ended, Stream
from tests import checkpoints, waiting
from tests.hosting import DEADLINE_S, KEY, Client, Hosting, hosting

NEW = 24
FIRST = 8
PROMPT = [5, 6, 7]
CALM = {"trunk_silence_s": DEADLINE_S}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("olmoe", tmp_path_factory.mktemp("olmoe"))


until = partial(waiting.until, deadline_s=DEADLINE_S, pause_s=0.005)


class Tab:
    """Covers some tokens, and remembers what it is asked. `more` says what to do then."""

    def __init__(self, covered: int, more: Callable[[Stream], None] = lambda stream: stream.pause()) -> None:
        self.covered = covered
        self.asked: list[Stream] = []
        self.ended: list[Ended] = []
        self._more = more

    def extend(self, stream: Stream) -> None:
        self.asked.append(stream)
        self._more(stream)

    def close(self, ended: Ended) -> Callable[[], None]:
        self.ended.append(ended)
        return lambda: None


def job_of(tab: Tab, *, tokens: int = NEW, handle: int = 7, session: Any = None) -> tuple[Job, list[str]]:
    said: list[str] = []

    def cancel(job: Job) -> None:
        said.append("cancel")
        if session is not None:
            session.cancel(job)

    def allow(job: Job) -> None:
        said.append(f"allow {job.allowed}")
        if session is not None:
            session.allow(job)

    job = Job(
        "request",
        handle,
        PROMPT,
        SamplingParams(max_new_tokens=tokens, ignore_eos=True),
        seed=0,
        model="model",
        tokenizing=Tokenizing(None),
        cancel=cancel,
        allow=allow,
        tab=tab,
    )
    return job, said


def begun(client: Client, *, covered: int = FIRST, handle: int = 7) -> Job:
    """A request that has used up what it is allowed."""
    job, _ = job_of(Tab(covered), handle=handle, session=client._session)
    client.jobs[handle] = job
    client._session.submit([job], [])
    until(lambda: job.status == "paused")
    return job


def alone(made: Hosting) -> Any:
    with Client(made) as client:
        return client.submit(PROMPT, tokens=NEW).result(DEADLINE_S)


# --- in the trunk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["olmoe", "jamba"])
def test_it_stops_where_it_is_allowed_and_goes_on(family: str, tmp_path: Path) -> None:
    """Where requests share a cache, and where each has its own."""
    with hosting(settings=CALM) as made:
        made.deploy(checkpoints.make(family, tmp_path / family))
        expected = alone(made)
        with Client(made) as client:
            job = begun(client)
            assert job.token_ids == expected.token_ids[:FIRST]
            stats = made.stats()
            assert (stats["paused"], stats["running"], stats["waiting"]) == (1, 0, 0)
            assert stats["kv_bytes"] > 0
            assert client.submit(PROMPT, tokens=NEW).result(DEADLINE_S).token_ids == expected.token_ids
            assert job.status == "paused"
            job.allow(FIRST + 1)
            until(lambda: len(job.token_ids) == FIRST + 1)
            job.allow(NEW)
            answer = job.result(DEADLINE_S)
        assert answer.token_ids == expected.token_ids
        assert answer.usage.rows == expected.usage.rows
        assert made.stats()["kv_bytes"] == 0


@pytest.mark.parametrize("short", ["places", "memory"])
def test_whoever_needs_the_place_of_a_paused_one_gets_it(short: str, path: Path) -> None:
    """It reads its tokens again when it goes on; they are the same, and count once."""
    settings = {**CALM, "max_running": 2} if short == "places" else CALM
    with hosting(settings=settings) as made:
        made.deploy(path)
        service = made.host.deployments["model"].trunk
        assert service is not None
        batch = service.batch
        if short == "memory":
            batch.kv_budget_bytes = batch.trunk.kv_bytes_fixed + batch.trunk.kv_bytes_per_token * 60
        expected = alone(made)
        with Client(made) as client:
            jobs = [begun(client, handle=handle) for handle in (901, 902)]
            other = client.submit(PROMPT, tokens=NEW).result(DEADLINE_S)
            assert other.token_ids == expected.token_ids
            assert [request.slot is None for request in batch.paused].count(True) >= 1
            for job in jobs:
                job.allow(NEW)
            answers = [job.result(DEADLINE_S) for job in jobs]
        for answer in answers:
            assert answer.token_ids == expected.token_ids
            assert answer.usage.rows == expected.usage.rows
        assert made.stats()["kv_bytes"] == 0


def test_a_cancel_frees_it(path: Path) -> None:
    with hosting(settings=CALM) as made:
        made.deploy(path)
        with Client(made) as client:
            job = begun(client)
            job.cancel()
            with pytest.raises(Cancelled):
                job.result(DEADLINE_S)
            until(lambda: made.stats()["paused"] == 0)
            assert made.stats()["kv_bytes"] == 0
            begun(client, handle=8)
        until(lambda: made.stats()["paused"] == 0)  # who hangs up is cancelled


def test_another_trunk_waits_as_well(path: Path) -> None:
    """What was generated and allowed goes along, and nothing is computed before there is more."""
    with hosting(settings=CALM) as made:
        made.deploy(path)
        expected = alone(made)
        with Client(made) as first, Client(made) as second:
            job = begun(first)
            second.jobs[7] = job
            job._allow = second._session.allow
            second._session.submit([job], [])
            until(lambda: made.stats()["paused"] == 2)
            steps = made.stats()["steps"]
            assert job.status == "paused"
            first._session.cancel(job)
            until(lambda: made.stats()["paused"] == 1)
            assert made.stats()["steps"] == steps
            job.allow(NEW)
            answer = job.result(DEADLINE_S)
        assert answer.token_ids == expected.token_ids
        assert answer.usage.rows == expected.usage.rows
        assert answer.timing.replays == 1


def test_more_may_be_allowed_while_the_request_is_on_its_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trunk hears of it before it knows the request; so it is told again."""
    real = Connection.send

    def send(self: Connection, kind: Kind, *args: Any, **more: Any) -> None:
        if kind is Kind.SUBMIT:
            job.allow(NEW)
        real(self, kind, *args, **more)

    with hosting(settings=CALM) as made:
        made.deploy(path)
        expected = alone(made)
        with Client(made) as client:
            job, _ = job_of(Tab(FIRST), session=client._session)
            client.jobs[7] = job
            monkeypatch.setattr(Connection, "send", send)
            client._session.submit([job], [])
            assert job.result(DEADLINE_S).token_ids == expected.token_ids


def test_an_answer_that_is_there_needs_no_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trunk goes when the answer has come, and whoever sent the request has not looked at it yet."""
    real = Connection.send

    def send(self: Connection, kind: Kind, *args: Any, **more: Any) -> None:
        if kind is Kind.CANCEL:
            raise HostLost("gone")
        real(self, kind, *args, **more)
        if kind is Kind.SUBMIT:
            job.result(DEADLINE_S)

    with hosting(settings=CALM) as made:
        made.deploy(path)
        with Client(made) as client:
            job, _ = job_of(Tab(NEW), session=client._session)
            client.jobs[7] = job
            monkeypatch.setattr(Connection, "send", send)
            client._session.submit([job], [])
            assert job.status == "done"


@pytest.mark.parametrize("meta", [b"[]", b"{}", b'{"allowed": "9"}', b'{"allowed": true}', b'{"allowed": 1.5}', b"{"])
def test_an_allowance_that_is_none_ends_its_connection_alone(meta: bytes, path: Path) -> None:
    with hosting(settings=CALM) as made:
        made.deploy(path)
        hello = {"role": "client", "key": KEY, "deployment": "model"}
        connection, _ = connect(made.peer.address, hello, timeout_s=DEADLINE_S, max_bytes=1 << 20)
        with Client(made) as client:
            job = begun(client)
            connection.send(Kind.ALLOW, 7, dump({"allowed": NEW}), timeout_s=DEADLINE_S)  # of nobody's of its own
            connection.send(Kind.ALLOW, 7, meta, timeout_s=DEADLINE_S)
            with pytest.raises(HostLost):
                collections.deque(iter(lambda: connection.receive(DEADLINE_S), None), maxlen=0)
            assert job.status == "paused"
            job.allow(NEW)
            assert len(job.result(DEADLINE_S).token_ids) == NEW


def test_a_request_that_says_nothing_of_it_is_not_held_up(path: Path) -> None:
    with hosting(settings=CALM) as made:
        made.deploy(path)
        hello = {"role": "client", "key": KEY, "deployment": "model"}
        connection, _ = connect(made.peer.address, hello, timeout_s=DEADLINE_S, max_bytes=1 << 20)
        params = asdict(SamplingParams(max_new_tokens=NEW, ignore_eos=True))
        meta = {"handle": 1, "prompt_tokens": 3, "params": params, "seed": 0, "eos": []}
        connection.send(Kind.SUBMIT, 1, dump(meta), [struct.pack("<3i", *PROMPT)], timeout_s=DEADLINE_S)
        frames = iter(lambda: connection.receive(DEADLINE_S), None)
        assert any("finished" in frame.json() for frame in frames)
        connection.close()


# --- in the client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("covered", "asked_at"), [(256, 192), (100, 50), (2, 1), (1, 1)])
def test_more_is_asked_for_before_it_is_needed(covered: int, asked_at: int) -> None:
    tab = Tab(covered)
    job, said = job_of(tab, tokens=1000)
    for count in range(1, covered + 1):
        job.take(tokens=[5])
        assert bool(tab.asked) == (count >= asked_at)
    assert job.status == "paused"
    assert tab.asked == [job]
    job.allow(covered + 10)
    assert said == [f"allow {covered + 10}"]
    assert job.status == "running"
    for _ in range(5):
        job.take(tokens=[5])
    assert tab.asked == [job, job]
    job.allow(1000)
    for _ in range(1000 - covered - 5):
        job.take(tokens=[5])
    assert tab.asked == [job, job]


def test_a_short_request_never_asks() -> None:
    tab = Tab(NEW)
    job, _ = job_of(tab)
    for _ in range(NEW):
        job.take(tokens=[5])
    assert not tab.asked


def test_a_trunk_that_sends_more_than_is_allowed_is_not_believed() -> None:
    job, _ = job_of(Tab(FIRST))
    job.take(tokens=[5] * FIRST)
    with pytest.raises(ProtocolError, match="more than the 8 tokens"):
        job.take(tokens=[5])
    assert len(job.token_ids) == FIRST
    assert job.status == "paused"


def test_it_is_ended_by_its_tab() -> None:
    tab = Tab(FIRST)
    job, said = job_of(tab)
    job.take(tokens=[5] * FIRST)
    job.finish("balance")
    answer = job.result(0)
    assert (answer.finish_reason, len(answer.token_ids), job.status) == ("balance", FIRST, "done")
    assert said == ["cancel"]
    assert [(ended.outcome, ended.tokens_out) for ended in tab.ended] == [("done", FIRST)]
    job.finish("balance")
    job.allow(NEW)
    job.abort(Cancelled("late"))
    assert (said, job.status, job.allowed) == (["cancel"], "done", FIRST)


@pytest.mark.parametrize("error", [InsufficientBalance("the hold is gone"), OSError("no disk")])
def test_a_tab_that_fails_ends_it(error: Exception) -> None:
    def fail(_: Stream) -> None:
        raise error

    job, said = job_of(Tab(FIRST, fail))
    job.take(tokens=[5] * FIRST)
    with pytest.raises(type(error) if isinstance(error, RiosError) else RiosError, match=str(error)):
        job.result(0)
    assert said == ["cancel"]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_answer_is_not_lost_with_its_price(at_once: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it cannot be handed on, or is refused later."""

    class Refused(Tab):
        def close(self, ended: Ended) -> Callable[[], None]:
            def refuse() -> None:
                raise OSError("no disk")

            return refuse() if at_once else refuse  # type: ignore[return-value, func-returns-value]

    job, _ = job_of(Refused(NEW))
    job.take(tokens=[5] * FIRST)
    job.finish("balance")
    assert len(job.result(0).token_ids) == FIRST
    told = [record.getMessage() for record in caplog.records if record.name == "rios.dmoe.job"]
    assert told == ["a request's price was not posted"]
    assert "no disk" in caplog.text
