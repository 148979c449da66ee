"""Lines of a Pod, as its node keeps them: all of them with their times, and those of standard error apart.

A node gives the two streams mixed or one of them alone, and the mixed ones do not say which is which: so both are read,
the mixed one first. Clusters before 1.32, or without PodLogsQuerySplitStreams, give the mixed ones alone; all lines are
those of standard output then.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from rios.deploy.runtimes.engine_logs import seconds
from rios.deploy.runtimes.kubernetes_api import Api, Query, said
from rios.deploy.runtimes.kubernetes_objects import CONTAINER
from rios.deploy.runtimes.protocol import LogLine
from rios.words.errors import DeadlineExceeded, SandboxFailed

_SILENT_S = 5.0
"""A node that says nothing for so long is asked anew: what it runs may have ended meanwhile, or its connection."""
_READ_S = 60.0
_PAUSE_S = 0.2
_INVALID = (400, 422)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NOTHING_YET = "is waiting to start"

Raw = tuple[str, str]
"""Time and text of a line, as the node wrote them."""


class PodLogs:
    """The logs of Pods of one cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._splits: bool | None = None
        """Whether the cluster tells them apart; None until it was asked."""

    def lines(self, name: str, since: float) -> Iterator[LogLine]:
        """The lines that are there, with `at` > since."""
        mixed = list(self._read(name, since, "All"))
        yield from _later(self._told_apart(name, since, mixed), since)

    def follow(self, name: str, since: float, ended: Callable[[], bool]) -> Iterator[LogLine]:
        """The lines that are there, and those to come until `ended` says so and nothing more is there."""
        while True:
            last = ended()
            if last:
                yield from self.lines(name, since)
                return
            with contextlib.suppress(DeadlineExceeded):
                for mixed in self._parts(name, since):
                    for line in _later(self._told_apart(name, since, mixed), since):
                        since = line.at
                        yield line
            time.sleep(_PAUSE_S)  # it has not started yet, or its end is about to be told

    def _query(self, since: float, stream: str, *, follow: bool) -> Query:
        query = [("container", CONTAINER), ("timestamps", "true")]
        if since > 0:
            # The whole second: two lines of one moment are told apart by what came before them in it.
            query.append(("sinceTime", datetime.fromtimestamp(math.floor(since), UTC).strftime(_TIME)))
        if follow:
            query.append(("follow", "true"))
        if stream != "All":
            query.append(("stream", stream))
        return query

    def _read(self, name: str, since: float, stream: str) -> list[Raw]:
        path, query = self._api.path("pods", name, "log"), self._query(since, stream, follow=False)
        status, data = self._api.call("GET", path, query=query, timeout_s=_READ_S, fine=(*_INVALID, 404))
        if status == 200:
            return [_parted(raw) for raw in data.decode(errors="replace").split("\n") if raw]
        if stream != "All" and status in _INVALID:
            self._splits = False
            return []
        if status == 404 or _NOTHING_YET in said(data):
            return []
        raise SandboxFailed(f"the log of {name} cannot be read: {said(data)}")

    def _parts(self, name: str, since: float) -> Iterator[list[Raw]]:
        """Whole lines of the mixed stream, as many as come at a time."""
        path, query = self._api.path("pods", name, "log"), self._query(since, "All", follow=True)
        with self._api.opened("GET", path, query=query, timeout_s=_SILENT_S) as response:
            if response.status != 200:
                return
            begun = b""
            while piece := response.read1(1 << 16):
                *whole, begun = (begun + piece).split(b"\n")
                if whole:
                    yield [_parted(raw.decode(errors="replace")) for raw in whole if raw]

    def _told_apart(self, name: str, since: float, mixed: list[Raw]) -> Iterable[tuple[Raw, bool]]:
        """Each line, and whether it is of standard error. Read later than they were, that stream has all of those."""
        first = seconds(mixed[0][0]) if mixed and since <= 0 else since
        wrong = set(self._read(name, first, "Stderr")) if mixed and self._can_split(name) else set()
        return ((raw, raw in wrong) for raw in mixed)

    def _can_split(self, name: str) -> bool:
        """Asked by a stream that there is not: a cluster that does not know of streams hears nothing wrong in it."""
        if self._splits is None:
            query = [("container", CONTAINER), ("tailLines", "1"), ("stream", "None")]
            status, data = self._api.call(
                "GET", self._api.path("pods", name, "log"), query=query, fine=(*_INVALID, 404)
            )
            if status == 404 or _NOTHING_YET in said(data):
                return False  # it goes away: another one will tell
            self._splits = status in _INVALID
        return self._splits


def _parted(raw: str) -> Raw:
    at, _, text = raw.partition(" ")
    return at, text


def _later(lines: Iterable[tuple[Raw, bool]], since: float) -> Iterator[LogLine]:
    last = 0.0
    for (at, text), is_wrong in lines:
        # Two lines of one moment are two moments, so that `since` cannot lose one.
        moment = seconds(at)
        last = moment if moment > last else math.nextafter(last, math.inf)
        if last > since:
            yield LogLine(last, "stderr" if is_wrong else "stdout", text.rstrip("\r"))
