"""A request as its caller holds it: whole, in pieces, cancelled, late, lost and measured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.completion import Piece
from rios.dmoe.job import Job
from rios.dmoe.metering import SHARE
from rios.dmoe.params import SamplingParams
from rios.dmoe.tokenizer import Tokenizing, read_files
from rios.words.errors import Cancelled, DeadlineExceeded, HostLost
from rios.words.events import UsageEvent
from tests.campaigns import ROOT

TIMEOUT_S = 20.0
DEMO = Tokenizing(read_files(ROOT / "rios" / "demo" / "model"))


class Sink:
    def __init__(self) -> None:
        self.batches: list[list[UsageEvent]] = []

    def record(self, events: Sequence[UsageEvent]) -> None:
        self.batches.append(list(events))


class BrokenSink:
    def record(self, events: Sequence[UsageEvent]) -> None:
        raise OSError("the disk is full")


def make(tokenizing: Tokenizing | None = None, sinks: Sequence[Any] = (), **params: Any) -> tuple[Job, list[Job]]:
    cancelled: list[Job] = []
    job = Job(
        "0123456789abcdef",
        7,
        [1, 2, 3],
        SamplingParams(**params),
        seed=0,
        model="demo",
        tokenizing=tokenizing or Tokenizing(None),
        cancel=cancelled.append,
        sinks=sinks,
    )
    return job, cancelled


def records(*rows: tuple[int, int, int, int, int, int]) -> np.ndarray:
    """(step, layer, host, rows, compute_ns, wire_bytes) as they arrive."""
    return np.array([(7, *row) for row in rows], dtype=SHARE)


def test_a_whole_answer() -> None:
    job, cancelled = make(max_new_tokens=3)
    assert job.status == "queued"
    for token in (5, 6, 7):
        job.take(tokens=[token])
        assert job.status == "running"
    job.take(finish="length")
    done = job.result(0)
    assert job.status == "done"
    assert (done.token_ids, done.finish_reason, done.text, done.logprobs) == ((5, 6, 7), "length", None, None)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 3)
    assert done.timing.total_s >= (done.timing.first_token_s or 0) > 0
    assert repr(job) == "<Job 01234567 done, 3 of 3 tokens>"
    assert not cancelled


def test_what_comes_after_the_end_is_ignored() -> None:
    job, cancelled = make()
    job.take(tokens=[5])
    job.take(finish="stop")
    job.take(tokens=[6])
    job.fail(HostLost("late"))
    job.cancel()
    assert job.result(0).token_ids == (5,)
    assert not cancelled


def test_log_probabilities() -> None:
    job, _ = make(logprobs=2)
    job.take(tokens=[5], logprobs=[[-0.5, [[5, -0.5], [9, -1.5]]]])
    job.take(finish="length")
    logprobs = job.result(0).logprobs
    assert logprobs is not None
    assert [(one.token_id, one.logprob, one.top) for one in logprobs] == [(5, -0.5, ((5, -0.5), (9, -1.5)))]


def test_waiting_has_a_deadline_and_goes_on() -> None:
    job, cancelled = make()
    job.take(tokens=[5])
    with pytest.raises(DeadlineExceeded, match=r"has 1 of 64 tokens after 0\.01 s"):
        job.result(0.01)
    job.take(finish="stop")
    assert job.result(0).token_ids == (5,)
    assert not cancelled


def test_a_failure_is_raised() -> None:
    job, _ = make()
    job.fail(HostLost("gone"))
    assert job.status == "failed"
    with pytest.raises(HostLost, match="gone"):
        job.result()
    with pytest.raises(HostLost, match="gone"):
        list(job.stream())


def test_cancelling() -> None:
    job, cancelled = make()
    job.take(tokens=[5])
    job.cancel()
    job.cancel()
    assert job.status == "cancelled"
    assert cancelled == [job]
    with pytest.raises(Cancelled, match="0123456789abcdef"):
        job.result()


def test_a_waiter_wakes_up() -> None:
    job, _ = make()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(job.result(TIMEOUT_S).token_ids))
    thread.start()
    job.take(tokens=[5])
    job.take(finish="length")
    thread.join(TIMEOUT_S)
    assert found == [(5,)]


def test_a_stream_follows() -> None:
    job, cancelled = make()
    job.take(tokens=[5])
    stream = job.stream(TIMEOUT_S)
    assert next(stream).token_ids == (5,)
    job.take(tokens=[6])
    job.take(tokens=[7])
    assert next(stream).token_ids == (6, 7)
    job.take(finish="length")
    assert list(stream) == []
    assert not cancelled


def test_who_listens_hears_of_all_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    job, _ = make(max_new_tokens=2)
    pieces, heard = job.pieces(), []

    def fail() -> None:
        raise RuntimeError("the loop is closed")

    job.listen(lambda: heard.append(job.next_piece(pieces)))
    job.take(tokens=[5])
    with pytest.raises(RuntimeError, match="the loop is closed"):
        job.listen(fail)
    job.take(tokens=[6], finish="length")
    assert heard == [(None, False), (Piece(None, (5,), ()), False), (Piece(None, (6,), ()), True)]
    assert "who listens to a request failed" in caplog.messages


def test_leaving_a_stream_cancels() -> None:
    job, cancelled = make()
    job.take(tokens=[5])
    for _ in job.stream(TIMEOUT_S):
        break
    assert job.status == "cancelled"
    assert cancelled == [job]


def test_a_stream_has_a_deadline_for_each_piece() -> None:
    job, cancelled = make()
    with pytest.raises(DeadlineExceeded, match=r"no token for 0\.01 s"):
        list(job.stream(0.01))
    assert cancelled == [job]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=2), st.data())
def test_a_stream_is_the_answer_in_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    """Texts of the pieces add up to the text of the whole, whatever arrives together, with and without stops."""
    if text and data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text) - 1))
        stops.append(text[start : start + 3])
    job, _ = make(DEMO, stop=tuple(stops))
    stream = job.stream(TIMEOUT_S)
    pieces = []
    ids = DEMO.load().encode(text, add_special_tokens=False)
    while ids:
        count = data.draw(st.integers(1, len(ids)))
        for token in ids[:count]:
            job.take(tokens=[token])
        ids = ids[count:]
        pieces.append(next(stream))
    job.take(finish="stop")
    pieces += stream
    whole = job.result(0)
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    assert whole.text is not None
    assert not any(stop in whole.text for stop in stops)


def test_events_are_a_function_of_what_was_accepted() -> None:
    hosts = ["a", "b"]
    sink = Sink()
    job, _ = make(sinks=[sink])
    job.take(hosts=hosts, shares=records((3, 0, 0, 2, 100, 10), (3, 0, 1, 1, 50, 5), (3, 1, 0, 3, 30, 3)))
    job.take(
        hosts=hosts, shares=records((4, 0, 0, 2, 100, 10), (4, 0, 0, 1, 11, 1))
    )  # two calls of one layer to one host
    assert job.metered_from == 4
    assert not sink.batches
    job.take(finish="length")
    (events,) = sink.batches
    assert events == list(job.events())
    assert {event.event_id for event in events} == {
        f"0123456789abcdef:{x}" for x in ("3:0:a", "3:0:b", "3:1:a", "4:0:a")
    }
    assert len(events) == 4
    assert events[-1] == UsageEvent("0123456789abcdef", "demo", 4, 0, "a", 3, 111, 11)
    usage = job.usage()
    assert (usage.rows, usage.compute_ns, usage.wire_bytes) == (9, 291, 29)
    assert list(usage.by_host) == ["a", "b"]
    for name, of_host in usage.by_host.items():
        assert of_host.rows == sum(event.rows for event in events if event.host == name)


def test_hosts_are_known_by_name_not_by_number() -> None:
    """Another trunk, after a failover, numbers them otherwise."""
    job, _ = make()
    job.take(hosts=["a", "b"], shares=records((3, 0, 0, 1, 1, 1)))
    job.take(hosts=["b", "a"], shares=records((4, 0, 0, 5, 5, 5)))
    assert {name: host.rows for name, host in job.usage().by_host.items()} == {"a": 1, "b": 5}


def test_a_sink_that_fails_leaves_the_answer_and_the_next_sink_alone(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    job, _ = make(sinks=[BrokenSink(), sink])
    job.take(tokens=[5])
    job.take(hosts=["a"], shares=records((3, 0, 0, 1, 1, 1)))
    job.take(finish="length")
    assert job.result(0).token_ids == (5,)
    assert len(sink.batches) == 1
    assert "a usage sink failed" in caplog.text
