"""Reports executed on a worker of the network, not on the gateway's machine: a job asks nobody for anything.

What it says meanwhile comes as events of Dask, which nobody has to wait for.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rios.reporting.runner import Done, Execute, Job, Say, run_job

if TYPE_CHECKING:
    from distributed import Client

_SLACK_S = 120.0
"""For the printing of the page, and for a worker to begin."""
_LOOK_S = 0.5
_FETCH_S = 30.0
"""For its files to come from the worker."""
# One for all jobs: a scheduler keeps each topic that there ever was.
_TOPIC = "rios-report-lines"
Texts = queue.SimpleQueue[list[str] | None]
"""None after the last."""


def on_workers(scheduler: Callable[[], Client]) -> Execute:
    """What executes jobs on any Dask worker; on this machine where there is none. scheduler: gives a client of it."""
    heard = _Heard()

    def execute(job: Job, say: Say) -> Done:
        from distributed import CancelledError, KilledWorker

        client = scheduler()
        if not client.scheduler_info()["workers"]:
            return run_job(job, say)
        with heard.texts(client) as (name, texts):
            future = client.submit(_run, job, name, pure=False, retries=0)
            all_told = _tell(texts, say, job.timeout_s + _SLACK_S, future.done)
            try:
                done: Done = future.result(timeout=_FETCH_S)
            except TimeoutError:
                future.cancel()  # type: ignore[no-untyped-call]
                done = _not("the worker did not end it in time")
            except (KilledWorker, CancelledError) as error:
                done = _not(f"the worker that made it was lost, {type(error).__name__}: {error}")
            if not all_told:
                _tell(texts, say, _LOOK_S)  # what it said last may come after what it returns
        return replace(done, runtime=f"{done.runtime} on a worker".strip())

    return execute


def _not(error: str) -> Done:
    return Done(state="failed", files={}, error=error, cpu_ns=0, runtime="")


def _run(job: Job, name: str) -> Done:
    """On a worker."""
    from distributed import get_worker

    worker = get_worker()
    try:
        return run_job(job, lambda texts: worker.log_event(_TOPIC, [name, list(texts)]))
    finally:
        worker.log_event(_TOPIC, [name, None])


def _tell(texts: Texts, say: Say, timeout_s: float, ended: Callable[[], bool] = lambda: False) -> bool:
    """Tell what comes until `ended` or the time is over; True where it was said that nothing more will come."""
    deadline = time.monotonic() + timeout_s
    while not ended() and (left_s := deadline - time.monotonic()) > 0:
        try:
            found = texts.get(timeout=min(_LOOK_S, left_s))
        except queue.Empty:
            continue
        if found is None:
            return True
        say(found)
    return False


class _Heard:
    """Gives each job's events to who waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[str, Texts] = {}
        self._subscribed: Client | None = None

    @contextmanager
    def texts(self, client: Client) -> Iterator[tuple[str, Texts]]:
        """What comes under a name of its own, until the block ends."""
        if self._subscribed is not client:
            client.subscribe_topic(_TOPIC, self._take)  # type: ignore[no-untyped-call]
            self._subscribed = client
        name, found = secrets.token_hex(8), Texts()
        self._waiting[name] = found
        try:
            yield name, found
        finally:
            del self._waiting[name]

    def _take(self, event: tuple[float, Any]) -> None:
        """In the client's loop: those of other clients' jobs are not for here."""
        name, texts = event[1]
        waiting = self._waiting.get(name)
        if waiting is not None:
            waiting.put(None if texts is None else [str(text) for text in texts])
