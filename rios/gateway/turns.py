"""Who generates next: places are given to users in turns, so that one who asks for much does not starve the others."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from rios.words.errors import QueueFull


class Turns:
    """`places` generations at a time, `waiting_max` that wait. Belongs to one event loop."""

    def __init__(self, places: int, waiting_max: int) -> None:
        self._free = places
        self._waiting_max = waiting_max
        self._count = 0
        # In the order in which they get their next place; each with its requests in the order in which they came.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, user: str) -> None:
        """Wait for a place; give it back with `give_back`. Raises QueueFull."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        if self._count >= self._waiting_max:
            raise QueueFull(f"{self._count} generations wait at this gateway, which is its limit; try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        self._count += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given at the same moment
                self.give_back()
            self._leave(user, turn)
            raise

    def _leave(self, user: str, turn: asyncio.Future[None]) -> None:
        """Who gave up waits no more, nor counts as one that does; unless the turn came up at the same moment."""
        turns = self._waiting.get(user, deque())
        if turn in turns:
            turns.remove(turn)
            self._count -= 1
        if not turns:
            self._waiting.pop(user, None)

    def give_back(self) -> None:
        """A place is free: it goes to the user whose turn it is."""
        while self._waiting:
            user, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._count -= 1
            if turns:
                self._waiting[user] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
