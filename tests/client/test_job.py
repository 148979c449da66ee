"""A job at a gateway as its caller holds it, with a gateway and a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rios.client import job
from rios.client.job import SILENT_S, RemoteJob
from rios.words.errors import DeadlineExceeded, GatewayLost

ALIVE = None


class Slow:
    """A gateway: each event comes so many seconds after the one before; then it says nothing."""

    url = "http://slow"

    def __init__(self, *events: tuple[float, str | None]) -> None:
        self.events_to_come = list(events)
        self.now = 1000.0
        self.asked: list[str] = []
        self.opened = 0

    @contextmanager
    def events(self, path: str, *, last: int, silent_s: float) -> Iterator[Iterator[Any]]:
        self.opened += 1
        yield self._read(last, silent_s)

    def _read(self, last: int, silent_s: float) -> Iterator[Any]:
        while self.events_to_come:
            after_s, text = self.events_to_come[0]
            if after_s > silent_s:
                self.events_to_come[0] = after_s - silent_s, text
                break
            self.events_to_come.pop(0)
            self.now += after_s
            if text is not None:
                last += 1
                yield "piece", str(last), {"text": text, "token_ids": [last], "logprobs": []}
            else:
                yield ALIVE
        self.now += silent_s
        raise GatewayLost("nothing came")

    def ask(self, method: str, path: str) -> None:
        self.asked.append(f"{method} {path}")

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(*events: tuple[float, str | None]) -> tuple[Slow, RemoteJob]:
        slow = Slow(*events)
        monkeypatch.setattr(job.time, "monotonic", lambda: slow.now)
        monkeypatch.setattr(job.time, "sleep", slow.pause)
        return slow, RemoteJob(slow, "r")  # type: ignore[arg-type]

    return start


def _texts(found: RemoteJob, timeout: float | None) -> tuple[list[str | None], str]:
    texts: list[str | None] = []
    with pytest.raises((DeadlineExceeded, GatewayLost)) as ended:
        texts.extend(piece.text for piece in found.stream(timeout))
    return texts, type(ended.value).__name__


def test_a_timeout_bounds_the_wait_for_each_piece(started: Any) -> None:
    slow, found = started((0.9, "a"), (0.9, "b"), (0.9, "c"))
    assert _texts(found, 1.0) == (["a", "b", "c"], "DeadlineExceeded")
    assert slow.now == pytest.approx(1000 + 2.7 + 1.0, abs=0.01)
    assert slow.asked == ["DELETE /v1/jobs/r"]


def test_signs_of_life_are_no_pieces(started: Any) -> None:
    slow, found = started((5.0, "a"), (15.0, ALIVE), (15.0, ALIVE), (15.0, "late"))
    assert _texts(found, 20.0) == (["a"], "DeadlineExceeded")
    assert slow.now == pytest.approx(1000 + 5 + 20, abs=0.01)


def test_a_gateway_that_gives_signs_of_life_is_waited_for(started: Any) -> None:
    signs = [(SILENT_S / 4, ALIVE)] * 40
    slow, found = started(*signs, (1.0, "late"))
    texts, ended = _texts(found, None)
    assert (texts, ended) == (["late"], "GatewayLost")
    assert slow.opened == 2, "once, and again after it was silent"
