"""The jobs of a gateway: in its memory while they run and for a while after, and in a record that all gateways read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from rios.dmoe.completion import Completion, Logprob, Piece
from rios.gateway.runs import Run
from rios.services.job_records import JobRecords, Progress
from rios.services.job_views import JobViews
from rios.services.looking import Looker
from rios.words.errors import AlreadyExists, QueueFull, RiosError

log = logging.getLogger(__name__)

# How soon what was asked of a job at another gateway is done, and how soon its pieces are there.
_LOOK_S = 0.5
_END_S = 15.0
_CLOSE_S = 5.0


@dataclass(slots=True)
class Kept:
    """A job, and whose it is."""

    id: str
    user_id: str
    model: str
    key: str
    digest: str
    run: Run
    ended_at: float | None = None

    def progress(self) -> Progress:
        """How far it is. From any thread."""
        run = self.run
        ended = run.ended  # before its pieces: then they are all there
        done = run.completion if ended else None
        return Progress(
            state=run.job.status,
            tokens=len(run.job.token_ids),
            pieces=[piece_said(piece) for piece in run.so_far()],
            result=None if done is None else completion_said(done),
            error=run.error if ended else None,
            ended=ended,
        )


class Jobs:
    """The jobs of a gateway that can be asked for. Used by the event loop alone; its records have a thread."""

    def __init__(self, limit: int, kept_s: float, records: JobRecords, views: JobViews) -> None:
        """views: what all gateways list of generations, of these jobs and of others."""
        self.records = records
        self._views = views
        self._limit = limit
        self._kept_s = kept_s
        self._jobs: OrderedDict[str, Kept] = OrderedDict()
        self._keys: dict[tuple[str, str], Kept | asyncio.Future[Kept]] = {}
        self._live: dict[str, Kept] = {}
        self._written: dict[str, asyncio.Future[None]] = {}
        self._closing = False
        self._looker = Looker(self._look, name="rios-jobs", look_s=_LOOK_S, end_s=_END_S)

    def start(self) -> None:
        """Do what other gateways want of the jobs here, and end those of gateways that have died."""
        self._looker.start()

    async def close(self) -> None:
        """Write what has ended; wait for that a few seconds at most."""
        self._closing = True
        waiting = list(self._written.values())
        if waiting:
            await asyncio.wait(waiting, timeout=_CLOSE_S)
        await run_in_threadpool(self._looker.close)
        await run_in_threadpool(self._tell_last)

    def here(self, user_id: str, job_id: str) -> Kept | None:
        """A job of the user that this gateway runs, or ran a while ago; None for any other."""
        self._forget()
        found = self._jobs.get(job_id)
        return found if found is not None and found.user_id == user_id else None

    def known(self, user_id: str, key: str, wanted: str) -> Kept | asyncio.Future[Kept] | None:
        """The job that the key began. Raises AlreadyExists where that was another request."""
        found = self._keys.get((user_id, key)) if key else None
        if isinstance(found, Kept) and found.digest != wanted:
            raise AlreadyExists(f"the Idempotency-Key {key!r} came before with another request; choose another key")
        return found

    def reserve(self, user_id: str, key: str) -> asyncio.Future[Kept]:
        """A place for a job that is being submitted; who comes with the same key waits for it."""
        self._forget()
        if len(self._jobs) >= self._limit:
            raise QueueFull(f"{self._limit} jobs are remembered at this gateway, which is its limit; try again")
        place: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        if key:
            self._keys[user_id, key] = place
        return place

    async def keep(self, job: Kept) -> None:
        """Remember a job and record it; where that cannot be it is cancelled. Raises LedgerUnavailable."""
        try:
            await run_in_threadpool(self.records.begin, job.id, job.user_id, job.model)
        except BaseException:
            job.run.cancel()
            raise
        self._jobs[job.id] = self._live[job.id] = job
        if job.key:
            self._keys[job.user_id, job.key] = job
        self._written[job.id] = asyncio.ensure_future(self._write_end(job))

    async def written(self, job: Kept) -> None:
        """Until it has ended and its record says so."""
        found = self._written.get(job.id)
        if found is not None:
            await asyncio.shield(found)

    def release(self, user_id: str, key: str) -> None:
        """The job of a key could not be submitted: the key is free again."""
        self._keys.pop((user_id, key), None)

    async def _write_end(self, job: Kept) -> None:
        try:
            await job.run.result()
        except RiosError:
            log.debug("a job has failed", extra={"job": job.id})
        while True:
            try:
                await run_in_threadpool(self.records.write, job.id, job.user_id, job.model, job.progress())
                break
            except RiosError as error:
                log.warning("the end of a job is not recorded yet", extra={"job": job.id, "reason": str(error)})
                if self._closing:
                    break
            await asyncio.sleep(_LOOK_S)
        self._live.pop(job.id, None)
        self._written.pop(job.id, None)

    def _look(self) -> None:
        """In a thread of its own."""
        try:
            live = list(self._live.values())
            if live:
                wanted = self.records.wishes()
                for job in live:
                    if job.id in wanted.cancelled or job.id not in wanted.alive:
                        job.run.job.cancel()
                    if job.id in wanted.followed and not job.run.ended:
                        self.records.write(job.id, job.user_id, job.model, job.progress())
            self._views.look()
            self.records.sweep()
        except RiosError as error:
            self.records.was_away()  # to the end of this look, and so to `sweep`, it did not come
            log.info("the records of jobs are not looked at", extra={"reason": str(error)})
        except Exception:
            # Whatever it is, the next look may be better; without any the other gateways take this one for dead.
            self.records.was_away()
            log.exception("the records of jobs are not looked at")

    def _tell_last(self) -> None:
        try:
            self._views.tell()
        except RiosError as error:  # then others find out that this gateway has gone, and show them as lost
            log.warning("the end of jobs is not told", extra={"reason": str(error)})

    def _forget(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.run.ended and job.ended_at is None:
                job.ended_at = now
            if job.ended_at is not None and now - job.ended_at > self._kept_s:
                del self._jobs[job.id]
                self._keys.pop((job.user_id, job.key), None)


def piece_said(piece: Piece) -> dict[str, Any]:
    """A piece as it is sent."""
    return {
        "text": piece.text,
        "token_ids": list(piece.token_ids),
        "logprobs": [_logprob(one) for one in piece.logprobs],
    }


def completion_said(done: Completion) -> dict[str, Any]:
    """An answer as it is sent."""
    return {
        "text": done.text,
        "token_ids": list(done.token_ids),
        "finish_reason": done.finish_reason,
        "usage": asdict(done.usage),
        "timing": asdict(done.timing),
        "logprobs": None if done.logprobs is None else [_logprob(one) for one in done.logprobs],
    }


def _logprob(one: Logprob) -> dict[str, Any]:
    return {"token_id": one.token_id, "logprob": one.logprob, "top": [list(pair) for pair in one.top]}
