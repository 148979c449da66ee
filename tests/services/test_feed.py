"""A panel's feed tells what changed soon, however much changes, and goes on where some of it cannot be had."""

from __future__ import annotations

import itertools
import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from rios.services.feed import Event, Feed
from rios.services.jobs import JobView
from rios.services.panel import Panel
from rios.services.views import Workers
from rios.words.errors import InvalidAmount, NotAllowed, NotSignedIn, RiosError
from tests.waiting import until

DEADLINE_S = 10.0


class _Refusing:
    """A network of which nothing can be had; `fault` is why."""

    address, account = "https://rios.lab.example", "ann"

    def __init__(self, fault: RiosError) -> None:
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._fault


@pytest.mark.parametrize("fault", [NotSignedIn("the token is over"), NotAllowed("another role")])
def test_who_is_not_told_of_jobs_is_told_why_there_are_no_figures(fault: RiosError) -> None:
    """A token that ends while a panel is open: without this its last figures stood there for ever."""
    net = _Refusing(fault)
    feed = Feed(Panel(lambda: net, kind="remote"), look_s=0.01)
    heard: list[Event] = []
    feed.follow(heard.append)
    try:
        until(lambda: len(heard) >= 5, "the sections", deadline_s=DEADLINE_S)
    finally:
        feed.close()
    said = {one["name"]: one["section"]["error"] for one in (json.loads(event.data) for event in heard)}
    assert said["wallet"]["type"] == type(fault).__name__
    assert said["network"] is None


class _Busy:
    """A network with one job, each of whose tokens posts something; it writes the next as soon as one was told."""

    address, account, models = "here", "local", ()
    deploy, reports = SimpleNamespace(views=tuple), SimpleNamespace(list=lambda **_: ())

    def __init__(self) -> None:
        self.jobs = self.billing = self
        self.tokens = self.looks = 0

    def changed(self, since: int, _: float) -> tuple[int, list[JobView]]:
        self.tokens += 1
        view = JobView(
            id="a", kind="generation", name="demo a", model="demo", owner="local", state="running", tokens=self.tokens,
            tokens_max=1000, prompt_tokens=1, tokens_per_second=None, started_at=0.0, ended_at=None, cost_wei=0,
            posted=False, hosts=(), error="",
        )  # fmt: skip
        return since + 1, [view]

    def mark(self) -> int:
        return self.tokens

    @property
    def wallet(self) -> Any:
        self.looks += 1
        return self.earnings

    @property
    def workers(self) -> Workers:
        return Workers([])

    def __getattr__(self, name: str) -> Any:
        raise InvalidAmount(f"nobody has counted {name}")


def test_what_changes_all_the_time_is_told_a_few_times_a_second() -> None:
    """Each token was an event, which whoever looked drew anew: a page saw a job seconds after it had begun."""
    net = _Busy()
    feed = Feed(Panel(lambda: net, kind="local"), look_s=0.2, least_s=0.05)
    told: list[tuple[float, int]] = []

    def hear(event: Event) -> None:
        if event.name == "jobs":
            told.append((time.monotonic(), json.loads(event.data)["jobs"][0]["tokens"]))

    begun = time.monotonic()
    feed.follow(hear)
    try:
        until(lambda: len(told) >= 12 and net.looks >= 3, "events", deadline_s=DEADLINE_S)
    finally:
        feed.close()
    looks, took_s = net.looks, time.monotonic() - begun
    assert [tokens for _, tokens in told] == list(range(1, len(told) + 1)), "nobody is asked for what nobody is told"
    assert all(after - before > 0.045 for (before, _), (after, _) in itertools.pairwise(told))
    assert looks <= took_s / 0.2 + 2, "amounts are summed up anew for each posting"


def test_a_host_that_does_not_answer_keeps_no_job_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    net, thawed, asked = _Busy(), threading.Event(), threading.Event()

    def frozen(_: object) -> Workers:
        asked.set()
        thawed.wait(2 * DEADLINE_S)
        return Workers([])

    monkeypatch.setattr(_Busy, "workers", property(frozen))
    feed = Feed(Panel(lambda: net, kind="local"), least_s=0.01)
    heard: list[Event] = []
    feed.follow(heard.append)
    try:
        assert asked.wait(DEADLINE_S)
        before = len(heard)
        until(lambda: len(heard) > before + 3, "jobs, while a host is asked", deadline_s=DEADLINE_S)
        assert {event.name for event in heard[before:]} == {"jobs"}
    finally:
        thawed.set()
        feed.close()
