"""Users who want answers: each request has a key, and is repeated with it, at any gateway, until it is answered."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.gateway.servers import Door
from tests.waiting import PATIENCE

ANSWER_S = 60 * PATIENCE
_running: list[Load] = []


def end_all() -> None:
    """Have all users stop whose test did not: they would ask for ever, and slow down every test after it."""
    while _running:
        _running.pop()._stop.set()


@dataclass(eq=False)
class Load:
    """So many users at once, from `start` to `stop`."""

    doors: Sequence[Door]
    users: int = 4
    name: str = "load"
    path: str = ""
    """What is asked for, by GET, instead of answers of the model."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What was answered, by key."""
    refusals: list[tuple[float, int, str]] = field(default_factory=list)
    """When something was refused, with which status and words."""
    times: list[float] = field(default_factory=list)
    """When an answer came."""
    waits: list[float] = field(default_factory=list)
    """How long each request took, in seconds."""
    broken: list[str] = field(default_factory=list)
    """What no user should see."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._use, args=(number,), daemon=True) for number in range(self.users)
        ]

    def start(self) -> None:
        """Begin."""
        _running.append(self)
        for one in self._threads:
            one.start()

    def stop(self) -> None:
        """Ask for nothing new, and wait for what was asked."""
        self._stop.set()
        for one in self._threads:
            one.join(2 * ANSWER_S)
            assert not one.is_alive()
        assert not self.broken, self.broken

    def _use(self, user: int) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(door.client()) for door in self.doors]
            for number in itertools.count():
                if self._stop.is_set():
                    return
                self._ask(clients, f"{self.name}-{user}-{number}", user + number)

    def _ask(self, clients: Sequence[httpx2.Client], key: str, turn: int) -> None:
        body = {"model": "demo", "prompt": f"It was {key}", "max_tokens": 6, "temperature": 0}
        deadline = time.monotonic() + ANSWER_S
        for attempt in itertools.count(turn):
            if self._stop.is_set() and self not in _running:
                return
            if time.monotonic() > deadline:
                self.broken.append(f"{key} was not answered: {self.refusals[-3:]}")
                return
            http = clients[attempt % len(clients)]
            began = time.monotonic()
            try:
                if self.path:
                    found = http.get(self.path)
                else:
                    found = http.post("/v1/completions", json=body, headers={"Idempotency-Key": key})
            except httpx2.HTTPError:
                time.sleep(0.05)
                continue
            self.waits.append(time.monotonic() - began)
            if found.status_code == 200:
                self.answers[key] = found.json()
                self.times.append(time.monotonic())
                return
            self.refusals.append((time.monotonic(), found.status_code, found.text))
            if found.status_code not in (503, 504):
                self.broken.append(f"{key}: {found.status_code} {found.text}")
                return
            time.sleep(0.1)
