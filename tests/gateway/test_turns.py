"""Turns: who asks for much does not starve who asks for little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rios.gateway.turns import Turns
from rios.words.errors import QueueFull


def run(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(case(), 60))


async def settle() -> None:
    """Let all that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_users_take_turns() -> None:
    async def case() -> None:
        turns, order = Turns(1, 100), []

        async def ask(user: str) -> None:
            await turns.take(user)
            order.append(user)

        tasks = [asyncio.ensure_future(ask(user)) for user in ("g", "g", "g", "g", "a", "b", "a")]
        for _ in tasks:
            await settle()
            turns.give_back()
        await asyncio.gather(*tasks)
        assert order == ["g", "g", "a", "b", "g", "a", "g"]

    run(case)


def test_no_place_is_lost_by_who_leaves() -> None:
    async def case() -> None:
        turns = Turns(2, 100)
        await turns.take("a")
        await turns.take("a")
        leaving = [asyncio.ensure_future(turns.take("b")) for _ in range(3)]
        staying = asyncio.ensure_future(turns.take("b"))
        await settle()
        leaving[0].cancel()
        await settle()
        turns.give_back()  # goes to the second of b, as the first has left
        leaving[1].cancel()  # and leaves in the same moment
        leaving[2].cancel()
        await settle()
        assert staying.done()
        turns.give_back()
        turns.give_back()
        await asyncio.wait_for(turns.take("d"), 30)
        await asyncio.wait_for(turns.take("d"), 30)
        last = asyncio.ensure_future(turns.take("d"))
        await settle()
        assert not last.done(), "there are two places and no more"
        last.cancel()

    run(case)


def test_the_queue_is_bounded() -> None:
    async def case() -> None:
        turns = Turns(1, 1)
        await turns.take("a")
        waiting = asyncio.ensure_future(turns.take("a"))
        await settle()
        with pytest.raises(QueueFull, match="1 generations wait"):
            await turns.take("b")
        turns.give_back()
        await waiting

    run(case)


def test_who_has_left_waits_no_more() -> None:
    async def case() -> None:
        turns, order = Turns(1, 2), []
        await turns.take("a")

        async def ask(user: str) -> None:
            await turns.take(user)
            order.append(user)

        leaving = [asyncio.ensure_future(ask(user)) for user in ("a", "b")]
        await settle()
        for one in leaving:
            one.cancel()
        await settle()
        staying = [asyncio.ensure_future(ask(user)) for user in ("b", "a")]
        await settle()
        assert not any(one.done() for one in staying), "there is room for both"
        for _ in staying:
            turns.give_back()
            await settle()
        assert order == ["b", "a"]
        turns.give_back()
        await asyncio.wait_for(turns.take("c"), 30)

    run(case)
