"""Generations that wait: what is to happen while one of them runs happens then, however long it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rios.dmoe.job import Job


class Hold:
    """How far requests get, until `go`: the caller changes it as it likes."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.go = threading.Event()

    def holds(self, job: Job) -> bool:
        """Whether a request gets nothing more now. Who has ended it waits for nothing."""
        return len(job.token_ids) >= self.tokens and not job.ended and not self.go.is_set()


@contextmanager
def held_after(tokens: int) -> Iterator[Hold]:
    """All requests of this process that have so many tokens get no more, nor their end, until it is let go or left."""
    hold, take = Hold(tokens), Job.take

    def late(job: Job, *given: Any, **more: Any) -> bool:
        while hold.holds(job):
            hold.go.wait(0.005)
        return take(job, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "take", late)
        try:
            yield hold
        finally:
            hold.go.set()
