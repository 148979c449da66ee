"""Generations that run: all are read in the event loop, and each is followed by any number of readers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.concurrency import run_in_threadpool

from rios.dmoe.completion import Completion, Piece
from rios.dmoe.job import Job
from rios.dmoe.pieces import Pieces
from rios.gateway.metrics import Metrics
from rios.gateway.turns import Turns
from rios.words.errors import QueueFull, RiosError

log = logging.getLogger(__name__)


class Run:
    """One generation. Belongs to the event loop."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.unread: Pieces | None = job.pieces()
        """What it reads its job by; None when nothing more comes from there."""
        self.completion: Completion | None = None
        self.error: RiosError | None = None
        self._pieces: list[Piece] = []
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended

    async def pieces(self, start: int = 0) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces from number `start` on, with the number of the next; those to come as they come.

        Raises what ended it early.
        """
        place = start
        while True:
            while place < len(self._pieces):
                place += 1
                yield place, self._pieces[place - 1]
            if self._ended:
                break
            await self._news()
        if self.error is not None:
            raise self.error

    def so_far(self) -> list[Piece]:
        """The pieces that came. From any thread."""
        return list(self._pieces)

    async def result(self) -> Completion:
        """The whole answer. Raises what ended it early."""
        while not self._ended:
            await self._news()
        if self.error is not None:
            raise self.error
        assert self.completion is not None
        return self.completion

    def cancel(self) -> None:
        """End it; what was received so far is paid."""
        if not self._ended:
            self.job.cancel()

    def add(self, piece: Piece) -> None:
        """A piece came."""
        self._pieces.append(piece)
        self._wake()

    def end(self, completion: Completion | None, error: RiosError | None) -> None:
        """Nothing more comes."""
        self.completion, self.error, self._ended = completion, error, True
        self._wake()

    async def _news(self) -> None:
        # A future for each who waits: an event for each piece takes twice as long, and there are many pieces.
        found = asyncio.get_running_loop().create_future()
        self._waiting.append(found)
        await found

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


class Runs:
    """All generations of a gateway: so many run at the same time, so many wait, users take turns."""

    def __init__(self, running_max: int, waiting_max: int, metrics: Metrics) -> None:
        self._turns = Turns(running_max, waiting_max)
        self._metrics = metrics
        # Each waits for the price of an answer that has come to its end.
        self._threads = ThreadPoolExecutor(running_max, thread_name_prefix="rios-run")
        self._submitting: set[asyncio.Future[Job]] = set()
        self._running: set[Run] = set()
        self._changed: deque[Run] = deque()
        self._called = False
        """Whether the event loop was told of those that have changed."""

    async def start(self, user: str, submit: Callable[[], Job], *, wait_s: float | None = None) -> Run:
        """Submit a request when it is the user's turn, and read its answer. Raises QueueFull, and as `submit`.

        wait_s: how long to wait for the turn. Where the caller is cancelled, what was being submitted is, too.
        """
        await self._turn(user, wait_s)
        submitting = asyncio.ensure_future(run_in_threadpool(submit))
        self._submitting.add(submitting)
        submitting.add_done_callback(self._submitting.discard)
        try:
            # Whoever asked may leave; the thread that submits goes on, and what it began has to be ended.
            job = await asyncio.shield(submitting)
        except BaseException:
            submitting.add_done_callback(self._unwanted)
            raise
        return self._begin(job)

    async def _turn(self, user: str, wait_s: float | None) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._turns.take(user)
        except TimeoutError as error:
            raise QueueFull(f"no place to generate was free at this gateway for {wait_s:g} s; try again") from error

    def _begin(self, job: Job) -> Run:
        run = Run(job)
        self._running.add(run)
        self._metrics.running(1)
        job.listen(partial(self._hear, run, asyncio.get_running_loop()))
        return run

    def _unwanted(self, submitted: asyncio.Future[Job]) -> None:
        """Give the place back of what was not submitted, or whose caller has left."""
        if submitted.cancelled() or submitted.exception() is not None:
            self._turns.give_back()
        else:
            self._begin(submitted.result()).cancel()  # its end gives the place back

    async def close(self) -> None:
        """Cancel what still runs, and wait for the threads."""
        await asyncio.gather(*self._submitting, return_exceptions=True)
        for run in list(self._running):
            run.cancel()
        self._deliver(asyncio.get_running_loop())  # so that a thread has each of them
        await run_in_threadpool(self._threads.shutdown)

    def _hear(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread: there is something new of a run."""
        self._changed.append(run)
        # A step brings every stream a token: the loop is called once for all of them. First the run, then the question
        # whether that was done: `_deliver` asks in the other order, so none is left lying.
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is there who could be told
                loop.call_soon_threadsafe(self._deliver, loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        self._called = False
        while self._changed:
            self._read(self._changed.popleft(), loop)

    def _read(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        if run.unread is None:
            return
        try:
            piece, ended = run.job.next_piece(run.unread)
        except Exception as caught:
            log.exception("a generation could not be read", extra={"request_id": run.job.request_id})
            run.unread = None
            run.job.cancel()
            self._end(run, None, RiosError(f"an error of rios: {type(caught).__name__}"))
            return
        if piece is not None:
            run.add(piece)
        if ended:
            run.unread = None
            self._threads.submit(self._conclude, run, loop)

    def _conclude(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: wait until the answer's price is posted."""
        completion: Completion | None = None
        error: RiosError | None = None
        try:
            completion = run.job.result()
        except RiosError as caught:
            error = caught
        except Exception as caught:
            log.exception("a generation could not be read", extra={"request_id": run.job.request_id})
            error = RiosError(f"an error of rios: {type(caught).__name__}")
        loop.call_soon_threadsafe(self._end, run, completion, error)

    def _end(self, run: Run, completion: Completion | None, error: RiosError | None) -> None:
        self._turns.give_back()
        self._running.discard(run)
        self._metrics.running(-1)
        self._metrics.tokens(read=len(run.job.prompt), written=len(run.job.token_ids))
        run.end(completion, error)
