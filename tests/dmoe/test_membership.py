"""Who is there while the scheduler does not answer: the hosts that are known, and nobody waits for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rios.dmoe.membership import Membership
from rios.storage.breaker import Breaker
from rios.words.config import Settings


class Scheduler:
    """What a membership asks; it answers, or does not."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.scheduler = SimpleNamespace(identity=None)
        said = {"name": "a", "address": "127.0.0.1", "port": 1, "key": "k", "machine": "m"}
        self.workers = {"tcp://a": {"metrics": {"rios": said}}}

    def sync(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise TimeoutError("nothing came")
        return {"workers": self.workers}


def test_a_scheduler_that_does_not_answer_is_asked_by_one_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, now = Scheduler(), 0.0
    # Without its thread: what is asked here is all that is asked.
    monkeypatch.setattr("threading.Thread.start", lambda _: None)
    membership = Membership(scheduler, Settings())
    membership.breaker = Breaker("scheduler", clock=lambda: now)
    assert set(membership.hosts) == {"a"}
    scheduler.away = True
    membership.refresh()
    asked = scheduler.asked
    for _ in range(5):
        assert not membership.refresh()
    assert scheduler.asked == asked, "nobody waits for what is known not to answer"
    assert not membership.scheduler_alive
    assert set(membership.hosts) == {"a"}, "the last answer stands"
    scheduler.away, scheduler.workers = False, {}
    now = 1.0
    assert membership.refresh(), "it has changed"
    assert membership.scheduler_alive
    assert not membership.hosts
