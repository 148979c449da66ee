"""The one thread of a process that writes: it takes all requests that wait, and commits them as one transaction.

While a commit is on its way to the disk the next requests queue up, so batches grow with the load by themselves and a
lone request does not wait for company. A request that fails is answered with its own error and does not touch the
others. All requests are repeatable by their ids; so a batch whose commit got no answer is run again, and whoever stops
waiting may send the same again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from rios.billing.ledger.batch import Batch, Cache
from rios.storage.engine import Database, is_transient, unavailable
from rios.storage.rows import Key
from rios.words.errors import LedgerConflict, LedgerUnavailable, RiosError

# Measured on SQLite and PostgreSQL: beyond 2,000 entries a commit costs nothing against its entries.
_WEIGHT_MAX = 4_000
_PAUSE_S, _PAUSE_MAX_S = 0.01, 0.5
_CLOSE_S = 5.0
# Who comes later than this while the database does not answer is told so, and does not wait for it with the others.
_PATIENCE_S = 2.0


Reads = Sequence[tuple[Any, Sequence[Key]]]
"""Tables, and the keys of their rows."""


@dataclass(slots=True, eq=False)
class Request:
    """What somebody wants of the writer, and where the answer goes."""

    run: Callable[[Batch], Any]
    deadline: float
    """By `time.monotonic`; afterwards it is not tried again."""
    reads: Reads = ()
    """What `run` will need: all requests of a batch read it in one statement for each table."""
    prepare: Callable[[Batch], None] | None = None
    """Reads ahead what else it needs, before the first request of the batch runs."""
    weight: int = 1
    alone: bool = False
    """Whether it gets a transaction of its own, because it reads and changes whole tables by SQL."""
    plain: bool = False
    """Whether it changes nothing by SQL, so that what the batch knows of rows holds for the next one as well."""
    answer: Future[Any] = field(default_factory=Future)


class Writer:
    """Runs requests in batches. Close it with `close`."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """clock: microseconds of UTC since 1970."""
        self._database = database
        self._clock = clock
        self._cache = Cache()
        # Since when the database does not answer whom it was asked by, and what it said last.
        self._lost: tuple[float, SQLAlchemyError] | None = None
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="rios-ledger", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue `request`; its answer comes by its future."""
        self._database.check()
        with self._closing:
            if self._closed:
                raise LedgerUnavailable(f"the ledger in {self._database.name} was closed; open it again")
            lost = self._lost
            if lost is not None and time.monotonic() > lost[0] + _PATIENCE_S:
                raise unavailable(self._database.name, lost[1])
            self._queue.put(request)

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(self._database.timeout_s + _CLOSE_S)

    def _loop(self) -> None:
        waiting: Request | None = None
        open_ = True
        while open_ or waiting is not None:
            first = waiting or self._queue.get()
            waiting = None
            if first is None:
                break
            batch, weight = [first], first.weight
            while not first.alone and weight < _WEIGHT_MAX:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    open_ = False
                    break
                if more.alone:
                    waiting = more
                    break
                batch.append(more)
                weight += more.weight
            # Who took his wish back before this gets nothing; from here on it is too late for that.
            self._serve([request for request in batch if request.answer.set_running_or_notify_cancel()])

    def _serve(self, requests: list[Request]) -> None:
        """Answer all of `requests`, whatever happens."""
        known, pause_s = False, _PAUSE_S
        while requests:
            try:
                self._transaction(requests, known=known)
                self._lost = None
                return
            except IntegrityError as error:
                # A transfer id was there already; now each is looked up before. What breaks another rule of the
                # database, with all ids looked up, is of one request: alone, each gets its own answer.
                if known:
                    self._separately(requests, error)
                    return
                known = True
            except SQLAlchemyError as error:
                if not is_transient(error):
                    self._separately(requests, error)
                    return
                self._lost = (time.monotonic() if self._lost is None else self._lost[0], error)
                requests = self._still_in_time(requests, error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            except BaseException as error:  # noqa: BLE001 (whatever it is, those who wait are told)
                for request in requests:
                    _fail(request, error)
                return
        # Nobody waits any more, so the next who comes finds out whether it is back.
        self._lost = None

    def _transaction(self, requests: list[Request], *, known: bool) -> None:
        answers: list[tuple[Request, Any, Exception | None]] = []
        try:
            with self._database.writing() as connection:
                version, plain = self._database.version(connection), all(request.plain for request in requests)
                batch = Batch(connection, self._cache, now=self._clock(), known=known, version=version, plain=plain)
                _prepare(batch, requests)
                for request in requests:
                    batch.begin_request()
                    try:
                        answers.append((request, request.run(batch), None))
                    except SQLAlchemyError:
                        raise
                    except Exception as error:  # noqa: BLE001 (it is the request's own, and goes to whoever sent it)
                        batch.undo_request()
                        answers.append((request, None, error))
                batch.flush()
            batch.committed()
        except BaseException:
            self._cache.clear()
            raise
        for request, result, failure in answers:
            if failure is None:
                request.answer.set_result(result)
            else:
                request.answer.set_exception(failure)

    def _separately(self, requests: list[Request], error: SQLAlchemyError) -> None:
        if len(requests) == 1:
            _fail(requests[0], _refused(error))
            return
        for request in requests:
            self._serve([request])

    def _still_in_time(self, requests: list[Request], error: SQLAlchemyError) -> list[Request]:
        now = time.monotonic()
        for request in requests:
            if request.deadline <= now:
                failure = unavailable(self._database.name, error)
                failure.__cause__ = error
                _fail(request, failure)
        return [request for request in requests if request.deadline > now]


def _prepare(batch: Batch, requests: Sequence[Request]) -> None:
    keys: dict[Any, list[Key]] = {}
    for request in requests:
        for table, wanted in request.reads:
            keys.setdefault(table, []).extend(wanted)
    for table, wanted in keys.items():
        batch.rows(table).load(wanted)
    for request in requests:
        if request.prepare is not None:
            try:
                request.prepare(batch)
            except RiosError:
                # It will say so again when it runs, to whoever sent it.
                continue


def _refused(error: SQLAlchemyError) -> Exception:
    if not isinstance(error, DBAPIError):
        return error
    failure = LedgerConflict(f"the database refuses this: {str(error.orig).strip()}; nothing of it was written")
    failure.__cause__ = error
    return failure


def _fail(request: Request, error: BaseException) -> None:
    request.answer.set_exception(error)
