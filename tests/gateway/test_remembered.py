"""What everybody may ask for is asked for once, however many want it, and nobody waits for what is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rios.gateway.remembered import Remembered
from rios.services.accounting import reconcile_followed
from rios.words.errors import LedgerUnavailable
from tests.gateway.servers import Door
from tests.waiting import until


def run(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(case(), 60))


class Source:
    """What is asked: it answers with the number of the question, when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = threading.Event()
        self.may.set()
        self.away = False

    def __call__(self) -> int:
        self.asked += 1
        found = self.asked
        assert self.may.wait(30)
        if self.away:
            raise LedgerUnavailable("a test's")
        return found


def test_many_who_ask_are_one_question() -> None:
    async def case() -> None:
        source = Source()
        remembered = Remembered(source, fresh_s=60.0, served_s=60.0)
        source.may.clear()
        asking = [asyncio.ensure_future(remembered.now()) for _ in range(50)]
        await asyncio.sleep(0)
        source.may.set()
        assert await asyncio.gather(*asking) == [1] * 50
        assert await remembered.now() == 1
        assert source.asked == 1

    run(case)


def test_nobody_waits_for_what_is_known() -> None:
    async def case() -> None:
        source = Source()
        remembered = Remembered(source, fresh_s=0.0, served_s=60.0)
        assert await remembered.now() == 1
        source.may.clear()
        for _ in range(20):
            assert await remembered.now() == 1
        source.may.set()
        await remembered.close()
        assert source.asked == 2
        assert await remembered.now() == 2

    run(case)


def test_what_is_too_old_is_waited_for_and_errors_are_told() -> None:
    async def case() -> None:
        source = Source()
        remembered = Remembered(source, fresh_s=0.0, served_s=0.0)
        assert [await remembered.now(), await remembered.now()] == [1, 2]
        source.away = True
        with pytest.raises(LedgerUnavailable):
            await remembered.now()
        source.away = False
        assert await remembered.now() == 4

    run(case)


def test_visitors_do_not_wait_while_books_are_compared(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a ledger takes to read: none of the threads that all routes share is taken by them."""
    monkeypatch.setattr("rios.services.published.KEPT_S", 0.0)
    monkeypatch.setattr("rios.services.published.RECONCILED_S", 0.0)
    monkeypatch.setattr("rios.services.published._SHARE", 0)
    came, may = threading.Event(), threading.Event()

    def slow(*given: Any, **more: Any) -> Any:
        came.set()
        assert may.wait(60)
        return reconcile_followed(*given, **more)

    with door.client("") as http:
        first = http.get("/v1/network").json()
        monkeypatch.setattr("rios.services.published.reconcile_followed", slow)
        until(lambda: http.get("/v1/network").json() and came.is_set(), "that books are compared", deadline_s=30)
        for _ in range(60):
            assert http.get("/v1/network").json()["tokens"] == first["tokens"]
        assert http.get("/").status_code == 200
        may.set()
