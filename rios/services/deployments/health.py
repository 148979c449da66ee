"""Probes of replicas: whether each has started, is ready, and lives.

Each replica is asked when it is due, in a thread of a pool, of which an owner's replicas have a part; what counts is so
many answers of one kind in a row. A new reconciler begins to count anew and knows from the tables who was ready.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rios.deploy.spec import PROBE_MAX_S
from rios.services.deployments.asking import get
from rios.services.deployments.shares import Shares
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

START_S = 0.1
"""A replica that is starting is asked this often at least: it is ready as soon as it can be."""
_THREADS, _SHARE = 64, 16
_FULL_S = 0.05
"""Where all threads of its owner ask, a replica is due again so soon."""
_LISTEN_S = 0.1
Exec = Callable[[Sequence[str], float], int]
"""Runs a command in the replica within so many seconds; its exit code."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a replica."""

    ready: bool | None = None
    """None where nothing is known yet."""
    alive: bool = True
    said: str = ""
    """The last answer that was not good."""


@dataclass(slots=True, eq=False)
class _Watched:
    owner: str
    address: str
    health: Mapping[str, Any]
    exec: Exec
    due: float = 0.0
    live_due: float = 0.0
    started: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    """By the name of a probe: good answers in a row, or below 0 bad ones."""
    verdict: Verdict = Verdict()
    asking: bool = False


class Prober:
    """Asks all replicas that it was told of. Close it."""

    def __init__(self, *, changed: Callable[[], None] = lambda: None) -> None:
        """changed: called when a verdict has changed."""
        self._changed = changed
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._pool = Shares(_THREADS, _SHARE, name="rios-probe")
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="rios-probes", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Prober of {len(self._watched)} replicas>"

    def watch(
        self, replica_id: str, address: str, health: Mapping[str, Any], run: Exec, *, owner: str, ready: bool
    ) -> None:
        """Ask a replica from now on; once, however often it is said. ready: whether it was found ready before."""
        with self._lock:
            if replica_id in self._watched:
                return
            verdict = Verdict(ready=True) if ready else Verdict()
            self._watched[replica_id] = _Watched(owner, address, health, run, started=ready, verdict=verdict)
        self._wake.set()

    def keep(self, replica_ids: set[str]) -> None:
        """Ask no others any more."""
        with self._lock:
            for name in self._watched.keys() - replica_ids:
                del self._watched[name]

    def verdict(self, replica_id: str) -> Verdict:
        """What is known of a replica."""
        with self._lock:
            found = self._watched.get(replica_id)
            return Verdict() if found is None else found.verdict

    def close(self) -> None:
        """Ask nobody any more."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._pool.close(wait=False)

    def _loop(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            with self._lock:
                due = [one for one in self._watched.values() if one.due <= now and not one.asking]
            for one in sorted(due, key=lambda one: one.due):  # who has waited longest comes first
                one.asking = True
                if not self._pool.begin(one.owner, partial(self._ask, one)):
                    one.due, one.asking = max(one.due, now) + _FULL_S, False
            with self._lock:
                waits = [one.due for one in self._watched.values() if not one.asking]
            self._wake.wait(max(min([*waits, now + 1.0]) - time.monotonic(), 0.01))
            self._wake.clear()

    def _ask(self, one: _Watched) -> None:
        try:
            before = one.verdict
            one.verdict = self._asked(one)
            # Fast until it is ready, so that nobody waits for a replica that could serve.
            steady = one.health["interval"] if one.verdict.ready else min(one.health["interval"], START_S)
            one.due = time.monotonic() + steady
            if (before.ready, before.alive) != (one.verdict.ready, one.verdict.alive):
                self._changed()
        except Exception:
            log.exception("a probe failed by an error of rios")
            one.due = time.monotonic() + 1.0
        finally:
            one.asking = False
            self._wake.set()

    def _asked(self, one: _Watched) -> Verdict:
        health, said = one.health, ""
        if not one.started and health.get("start") is not None:
            good, said = self._count(one, "start", health["start"])
            if not good:
                return Verdict(ready=None, said=said)
        one.started = True
        ready, said = self._count(one, "ready", health)
        alive = True
        if health.get("live") is not None and one.live_due <= time.monotonic():
            one.live_due = time.monotonic() + health["live"]["interval"]
            lives, why = self._count(one, "live", health["live"])
            alive, said = lives is not False, said or why
        known = one.verdict.ready if ready is None else ready
        return Verdict(ready=known, alive=alive, said=said)

    def _count(self, one: _Watched, name: str, probe: Mapping[str, Any]) -> tuple[bool | None, str]:
        """True or False once enough answers in a row say so, None before."""
        said = ask(one.address, probe, one.exec)
        count = one.counts.get(name, 0)
        count = (max(count, 0) + 1) if not said else (min(count, 0) - 1)
        one.counts[name] = count
        if count >= probe["successes"]:
            return True, ""
        return (False if -count >= probe["failures"] else None), said


def ask(address: str, probe: Mapping[str, Any], run: Exec) -> str:
    """Ask a replica once; empty for a good answer, else what was wrong with it. It takes PROBE_MAX_S at most."""
    timeout = min(probe["timeout"], PROBE_MAX_S)
    try:
        if probe.get("command") is not None:
            code = run(probe["command"], timeout)
            return "" if code == 0 else f"{' '.join(probe['command'])} ended with {code}"
        host, _, port = address.rpartition(":")
        if probe.get("tcp") is not None:
            return _tcp(host, int(port), timeout)
        status, _ = get(address, probe["http"], timeout_s=timeout)
        return "" if 200 <= status < 400 else f"GET {probe['http']} answers {status}"
    except (OSError, ValueError, http.client.HTTPException, RiosError) as error:
        return str(error) or type(error).__name__


def _tcp(host: str, port: int, timeout_s: float) -> str:
    with socket.create_connection((host, port), timeout_s) as connection:
        # A relay takes connections before whoever is behind it does, and hangs up where nobody is.
        connection.settimeout(min(_LISTEN_S, timeout_s))
        try:
            return "" if connection.recv(1, socket.MSG_PEEK) else f"port {port} hangs up at once"
        except TimeoutError:
            return ""
