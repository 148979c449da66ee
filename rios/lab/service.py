"""The panel of one network over HTTP on a Unix socket, for the server half alone: `rios.lab.proxy` is its client."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.web import Application, HTTPError, RequestHandler

from rios.words import errors

if TYPE_CHECKING:
    from rios.services.desk import Desk
    from rios.services.feed import Event

log = logging.getLogger(__name__)

KEY_HEADER = "X-Rios-Key"
_START_S = 10.0
_ALIVE_S = 5.0
"""So often readers of events hear that this process goes on: `rios.lab.stream` waits little longer than twice."""
_BODY_MAX = 1 << 20
_THREADS = 4
_WAITING_MAX = 4_000
"""Events that a reader may be behind; one that reads no faster comes back and takes up where it was."""


class Service:
    """Serves one panel in a thread of its own. Start it, and close it."""

    def __init__(self, lookup: Callable[[], Any], *, kind: str, socket: Path, key: str) -> None:
        """lookup: the network, or None once it has gone. key: what each request has to bear."""
        self.key = key
        self._lookup = lookup
        self._kind = kind
        self._socket = socket
        self._lock = threading.Lock()
        self._made: Desk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rios-panel", daemon=True)
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="rios-panel")

    @property
    def desk(self) -> Desk:
        """The panel; made when somebody looks for the first time."""
        with self._lock:
            if self._made is None:
                from rios.services.desk import Desk

                self._made = Desk(self._lookup, kind=self._kind)
            return self._made

    def start(self) -> None:
        """Begin. Raises OSError where it cannot listen."""
        self._thread.start()
        if not self._ready.wait(_START_S) or self._loop is None:
            raise OSError(
                f"the panel's socket {self._socket} could not be opened; is the temporary directory writable?"
            )

    def close(self) -> None:
        """End, with all that is under way."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_START_S)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            application = Application(
                [
                    (r"/events", Events, {"service": self}),
                    (r"/file", File, {"service": self}),
                    (r"/(?P<what>[a-z/]+)", Ask, {"service": self}),
                ],
                log_function=lambda _: None,
            )
            server = HTTPServer(application, max_body_size=_BODY_MAX)
            server.add_socket(bind_unix_socket(str(self._socket), mode=0o600))
            self._loop = loop
        except OSError as error:
            log.warning("a panel cannot be served", extra={"reason": str(error), "pid": os.getpid()})
            return
        finally:
            self._ready.set()
        try:
            loop.run_forever()
        finally:
            server.stop()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class _Handler(RequestHandler):
    service: Service

    def initialize(self, service: Service) -> None:
        """The service that this belongs to."""
        self.service = service

    def prepare(self) -> None:
        """Who does not bear the key gets nothing."""
        if not hmac.compare_digest(self.request.headers.get(KEY_HEADER, "").encode(), self.service.key.encode()):
            raise HTTPError(403)

    def query(self) -> dict[str, str]:
        """What the address says."""
        return {name: values[-1].decode("utf-8", "replace") for name, values in self.request.query_arguments.items()}

    def problem(self, error: errors.RiosError) -> None:
        """Answer with an error."""
        from rios.services.desk import status_of
        from rios.services.panel import problem

        self.set_status(status_of(error))
        self.finish(problem(error))


class Ask(_Handler):
    """Reading, and deeds."""

    async def get(self, what: str) -> None:
        """What is asked for by its path."""
        await self._answer("GET", what, self.query())

    async def post(self, what: str) -> None:
        """A plan, its deed, or what is done to a job."""
        try:
            given = json.loads(self.request.body or b"{}")
        except ValueError:
            given = None
        if not isinstance(given, dict):
            self.problem(errors.InvalidRequest("the body must be a JSON object"))
            return
        await self._answer("POST", what, given)

    async def _answer(self, method: str, what: str, given: dict[str, Any]) -> None:
        service = self.service
        status, found = await asyncio.get_running_loop().run_in_executor(
            service.pool, lambda: service.desk.ask(method, what, given)
        )
        self.set_status(status)
        self.finish(json.dumps(found))


class File(_Handler):
    """Files of reports."""

    async def get(self) -> None:
        """One of them, with the headers that a browser should have with it."""
        service, query = self.service, self.query()
        status, content, headers = await asyncio.get_running_loop().run_in_executor(
            service.pool, lambda: service.desk.file(query)
        )
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish(content)


class Events(_Handler):
    """Server-sent events of the feed."""

    async def get(self) -> None:
        """From now on, or after the event that Last-Event-ID names."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Event] = asyncio.Queue()
        last = self.request.headers.get("Last-Event-ID") or self.get_query_argument("last", None)
        desk = await loop.run_in_executor(self.service.pool, lambda: self.service.desk)
        try:
            end = desk.feed.follow(lambda event: _put(loop, waiting, event), last)
        except errors.RiosError as error:
            self.problem(error)
            return
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.write(": rios\n\n")
        try:
            while waiting.qsize() < _WAITING_MAX:
                await self.flush()
                try:
                    event = await asyncio.wait_for(waiting.get(), _ALIVE_S)
                except TimeoutError:
                    self.write(": alive\n\n")
                else:
                    self.write(f"id: {event.id}\nevent: {event.name}\ndata: {event.data}\n\n")
        except StreamClosedError:
            return
        finally:
            end()


def _put(loop: asyncio.AbstractEventLoop, waiting: asyncio.Queue[Event], event: Event) -> None:
    """From the feed's thread; a loop that was closed meanwhile has no readers."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(waiting.put_nowait, event)
