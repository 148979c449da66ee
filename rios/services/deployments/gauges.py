"""What replicas are asked for scaling by anything else than requests: cores in use, tokens, a metric of their own.

Each is asked in a thread of a pool, of which an owner's replicas have a part, so that one that does not answer delays
no other owner's. What only grows counts by the second.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rios.deploy.exposition import TEXT_MAX, Said, read_metric, taken
from rios.services.deployments.asking import get
from rios.services.deployments.shares import Shares
from rios.words.errors import InvalidRequest, RiosError

if TYPE_CHECKING:
    from rios.services.deployments.hosts import Host

log = logging.getLogger(__name__)

EVERY_S = 1.0
FRESH_S = 5.0
"""What was said longer ago is not known any more."""
_TIMEOUT_S = 2.0
_THREADS, _SHARE = 32, 8
TOKENS = "*tokens_total"
"""The counters of tokens of those who name none."""


@dataclass(slots=True, eq=False)
class _Gauge:
    owner: str
    read: Callable[[], Said]
    last: tuple[float, float] | None = None
    """Moment and value of a counter."""
    value: float | None = None
    at: float = 0.0
    due: float = 0.0
    asking: bool = False
    silent: bool = False


class Gauges:
    """Asks all replicas that it was told of. Close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gauges: dict[str, _Gauge] = {}
        self._stop = threading.Event()
        self._pool: Shares | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Gauges of {len(self._gauges)} replicas>"

    def watch(self, replica_id: str, read: Callable[[], Said], *, owner: str) -> None:
        """Ask a replica from now on; once, however often it is said."""
        with self._lock:
            self._gauges.setdefault(replica_id, _Gauge(owner, read))
            if self._thread is None and not self._stop.is_set():
                self._pool = Shares(_THREADS, _SHARE, name="rios-gauge")
                self._thread = threading.Thread(target=self._loop, name="rios-gauges", daemon=True)
                self._thread.start()

    def keep(self, replica_ids: set[str]) -> None:
        """Ask no others any more."""
        with self._lock:
            for name in self._gauges.keys() - replica_ids:
                del self._gauges[name]

    def value(self, replica_id: str) -> float | None:
        """What a replica said last; None where that is not known, or too long ago."""
        with self._lock:
            found = self._gauges.get(replica_id)
            return None if found is None or time.monotonic() > found.at + FRESH_S else found.value

    def close(self) -> None:
        """Ask nobody any more."""
        self._stop.set()
        if self._thread is not None and self._pool is not None:
            self._thread.join()
            self._pool.close(wait=False)

    def _loop(self) -> None:
        assert self._pool is not None
        while not self._stop.wait(EVERY_S / 5):
            now = time.monotonic()
            with self._lock:
                due = [(name, one) for name, one in self._gauges.items() if one.due <= now and not one.asking]
            for name, one in sorted(due, key=lambda found: found[1].due):  # who has waited longest comes first
                one.asking = True
                if self._pool.begin(one.owner, partial(self._ask, name, one)):
                    one.due = now + EVERY_S
                else:
                    one.asking = False

    def _ask(self, name: str, one: _Gauge) -> None:
        try:
            said = one.read()
            now = time.monotonic()
            with self._lock:
                one.value, one.last = taken(one.last, said, now, one.value)
                one.at, one.silent = now, False
        except (RiosError, OSError, http.client.HTTPException) as error:
            if not one.silent:
                log.warning("a replica does not say its load", extra={"replica": name, "reason": str(error)})
            one.silent = True
        except Exception:
            log.exception("a gauge failed by an error of rios", extra={"replica": name})
        finally:
            one.asking = False


def cores_of(host: Host, replica_id: str, cores: float) -> Callable[[], Said]:
    """Asks the kernel: seconds of its cores that a replica has used, which by the second is the share in use."""
    return lambda: Said(host.metrics(replica_id).cpu_seconds / cores, is_counter=True)


def metric_of(address: str, metric: str, name: str = "") -> Callable[[], Said]:
    """Asks a replica. metric: the path, and after "#" which metric it is; `name` without."""
    path, _, named = metric.partition("#")

    def read() -> Said:
        status, body = get(address, path, timeout_s=_TIMEOUT_S, most_bytes=TEXT_MAX)
        if status != http.client.OK:
            raise InvalidRequest(f"GET {path} answers {status}")
        return read_metric(body.decode("utf-8", "replace"), named or name)

    return read
