"""What changes in a panel, as numbered events that any number of readers follow and take up again where they were."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rios.services import rows
from rios.services.panel import Panel
from rios.words.errors import NetworkClosed, NotAllowed, RiosError

log = logging.getLogger(__name__)

KEPT = 2_000
"""So many events are remembered; who comes back later than that reads everything anew."""
# What changes is told at once, and what changes all the time so often: jobs four times a second, amounts once. Every
# token changes its job, and each event is drawn anew by all who look, which takes longer than a token: told one by one,
# what is seen would fall the further behind the longer it goes on. People read no faster.
_LEAST_S = 0.25
_LOOK_S = 1.0
_MONEY_S, _HOSTS_S = 10.0, 5.0
# Deployments and reports are rows of a database here, and two requests to a gateway elsewhere.
_ROWS_S, _ROWS_REMOTE_S = 1.0, 5.0
_MONEY = ("wallet", "spend", "earnings")
_HOSTS = ("workers", "models", "network")


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `id` is what a reader says to go on after it."""

    id: str
    name: str
    """jobs, section or reset."""
    data: str
    """JSON."""


class Feed:
    """Follows a panel while somebody reads. Close it."""

    def __init__(self, panel: Panel, *, look_s: float = _LOOK_S, least_s: float = _LEAST_S) -> None:
        """look_s: between two looks at amounts, however often they change. least_s: between two events of jobs."""
        self._panel = panel
        self._look_s = look_s
        self._least_s = least_s
        self._boot = secrets.token_hex(4)
        self._lock = threading.Condition()
        self._events: deque[tuple[int, Event]] = deque(maxlen=KEPT)
        self._seq = 0
        self._readers: list[Callable[[Event], None]] = []
        self._threads: dict[str, threading.Thread] = {}
        self._stirred = threading.Event()
        """Set when a job changed: then something may have been posted too."""
        self._closed = False
        self._said: dict[str, str] = {}
        self._version = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._rows_lock = threading.Lock()
        self._rows_s = _ROWS_REMOTE_S if panel.kind == "remote" else _ROWS_S

    @property
    def last(self) -> str:
        """The id of the newest event: what a reader of the whole state goes on after."""
        with self._lock:
            return self._id(self._seq)

    @property
    def followed(self) -> bool:
        """Whether somebody reads now."""
        with self._lock:
            return bool(self._readers)

    def follow(self, reader: Callable[[Event], None], last: str | None = None) -> Callable[[], None]:
        """Have `reader` called, in another thread, with each event after the one of id `last`; returns what ends it.

        Where these are not remembered, with a single "reset" first: everything has to be read anew.
        """
        with self._lock:
            if self._closed:
                raise NetworkClosed("this network was closed; make another one")
            for event in self._missed(last):
                reader(event)
            self._readers.append(reader)
            for what, work in (("jobs", self._follow_jobs), ("figures", self._follow_figures)):
                if what not in self._threads:
                    self._threads[what] = threading.Thread(target=work, name=f"rios-feed-{what}", daemon=True)
                    self._threads[what].start()

        def end() -> None:
            with self._lock:
                if reader in self._readers:
                    self._readers.remove(reader)

        return end

    def look(self, *names: str) -> None:
        """Tell of these sections now, where they changed."""
        for name in names:
            self._tell_section(name)

    def look_at_rows(self) -> None:
        """Tell of deployments and reports now, where they changed. A deployment that is not there any more ended."""
        with self._rows_lock:
            found, whole = self._panel.others()
            now = {one["id"]: one for one in found}
            changed = [one for one in found if self._rows.get(one["id"]) != one]
            lost = [one for one in self._rows.values() if one["id"] not in now and one["kind"] == rows.DEPLOYMENT]
            if whole:
                changed += [rows.ended(one, at=time.time()) for one in lost]
                self._rows = now
            else:
                self._rows |= now
            if changed:
                self._publish("jobs", {"jobs": changed})

    def close(self) -> None:
        """Tell no more."""
        with self._lock:
            self._closed = True
            self._readers.clear()

    def _id(self, seq: int) -> str:
        return f"{self._boot}.{seq}"

    def _missed(self, last: str | None) -> list[Event]:
        if last is None:
            return []
        boot, _, number = last.partition(".")
        known = boot == self._boot and number.isascii() and number.isdecimal()
        oldest = self._events[0][0] if self._events else self._seq + 1
        if not known or int(number) > self._seq or int(number) < oldest - 1:
            return [Event(self._id(self._seq), "reset", "{}")]
        return [event for seq, event in self._events if seq > int(number)]

    def _publish(self, name: str, data: Any) -> None:
        with self._lock:
            self._seq += 1
            event = Event(self._id(self._seq), name, json.dumps(data))
            self._events.append((self._seq, event))
            for reader in self._readers:
                reader(event)

    def _follow_jobs(self) -> None:
        """Tell of generations until nobody reads any more."""
        while self._wanted("jobs"):
            try:
                version, views = self._panel.net.jobs.changed(self._version, self._look_s)
            except NetworkClosed:
                self.close()
            except RiosError as error:  # the figures are told all the same: they say why they cannot be had
                if not isinstance(error, NotAllowed):
                    log.info("a panel is not told of jobs", extra={"reason": str(error)})
                time.sleep(self._look_s)
            else:
                self._version = version
                if views:
                    self._publish("jobs", {"jobs": [view.to_dict() for view in views]})
                    self._stirred.set()
                    time.sleep(self._least_s)

    def _follow_figures(self) -> None:
        """Tell of all else until nobody reads any more: a host that does not answer keeps no job waiting."""
        mark: int | None = None
        money_at = hosts_at = rows_at = float("-inf")
        while self._wanted("figures"):
            pause_s = self._look_s
            try:
                now = time.monotonic()
                if now - rows_at >= self._rows_s:
                    rows_at = now
                    self.look_at_rows()
                new = self._panel.mark()
                if now - money_at >= (_MONEY_S if new == mark else self._look_s):
                    mark, money_at = new, now
                    self.look(*_MONEY)
                elif new != mark:
                    pause_s = money_at + self._look_s - now
                if now - hosts_at >= _HOSTS_S:
                    hosts_at = now
                    self.look(*_HOSTS)
            except NetworkClosed:
                self.close()
            except RiosError as error:
                log.info("a panel cannot be told what changed", extra={"reason": str(error)})
            if self._stirred.wait(pause_s):
                self._stirred.clear()

    def _wanted(self, what: str) -> bool:
        """Whether the thread of this name goes on."""
        with self._lock:
            if self._readers and not self._closed:
                return True
            del self._threads[what]
            return False

    def _tell_section(self, name: str) -> None:
        found = self._panel.section(name)
        text = json.dumps({**found, "at": 0})
        if self._said.get(name) != text:
            self._said[name] = text
            self._publish("section", {"name": name, "section": found})
