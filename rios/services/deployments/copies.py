"""Copies of models' experts, and with them stand-by trunks, follow a load between the bounds of `replicas`.

Whoever leads decides how many processes serve a model; each such process scales what it serves itself, by the requests
that it has, for nobody else knows those. The scaler is that of applications (`rios.deploy.autoscale`). A change is
written as an event before it is made; hosts load what is missing while requests go on, so no token is another for it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rios.deploy.autoscale import Scaler, Target
from rios.deploy.exposition import Said, taken
from rios.deploy.lifecycle import State
from rios.services.deployments.store import AppStore, Lease, NotLeader
from rios.services.deployments.values import Replica, Step
from rios.words.errors import LedgerUnavailable, NetworkClosed, RiosError

if TYPE_CHECKING:
    from rios.services.generation import Model

log = logging.getLogger(__name__)

EVERY_S = 1.0
now = time.monotonic
"""The clock of scalers."""


def copies_of(specification: Mapping[str, Any]) -> tuple[int, int] | None:
    """Between how many copies of its experts a model is scaled; None where it has as many as it says.

    Who names `copies` has that many.
    """
    said = specification["replicas"]
    if specification.get("copies") is not None or said["min"] == said["max"]:
        return None
    return max(int(said["min"]), 1), int(said["max"])


def copies_at_first(specification: Mapping[str, Any]) -> int | None:
    """How many copies a model begins with; None for as many as its hosts have room for."""
    named: int | None = specification.get("copies")
    if named is not None:
        return named
    span = copies_of(specification)
    most = int(specification["replicas"]["max"])
    return span[0] if span is not None else most if most > 1 else None


@dataclass(slots=True, eq=False)
class _Followed:
    model: weakref.ref[Model]
    replica: Replica
    on: str
    target: Target
    scaler: Scaler
    asked: int
    last: tuple[float, float] | None = None
    """Moment and value of the counter of tokens."""
    rate: float | None = None


class Copies:
    """Scales the models of one engine. Close it. It costs nothing until there is one to scale."""

    def __init__(self, store: AppStore, lease: Callable[[], Lease]) -> None:
        self._store, self._lease = store, lease
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._followed: dict[str, _Followed] = {}
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Copies of {len(self._followed)} models>"

    def follow(self, one: Replica, specification: Mapping[str, Any], model: Model) -> None:
        """Scale a model from now on, where its specification leaves room for that."""
        span, scale = copies_of(specification), specification["scale"]
        if span is None:
            return
        low, high = span
        target = Target(minimum=low, maximum=high, per_replica=scale["target"], window_s=scale["stabilise"])
        found = _Followed(weakref.ref(model), one, scale["on"], target, Scaler(target), low)
        with self._lock:
            self._followed[one.id] = found
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._loop, name="rios-copies", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Scale nothing any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            with self._lock:
                followed = list(self._followed.items())
            for name, one in followed:
                try:
                    goes_on = self._look(one, now())
                except (LedgerUnavailable, NetworkClosed, NotLeader) as error:
                    log.info("copies are not scaled now", extra={"replica": name, "reason": str(error)})
                except Exception:
                    log.exception("the copies of a model could not be scaled", extra={"replica": name})
                else:
                    if not goes_on:
                        with self._lock:
                            self._followed.pop(name, None)

    def _look(self, one: _Followed, at_s: float) -> bool:
        """Whether there is still something to scale."""
        model = one.model()
        if model is None or model._closed:
            return False
        load = self._load(one, model, at_s)
        if load is None:
            return True
        # More copies than hosts there cannot be; what is there was asked for when there were more of them.
        most = max(min(one.target.maximum, model.hosts_count), one.target.minimum)
        one.scaler.target = replace(one.target, maximum=most)
        wanted, why = one.scaler.decide(at_s, load=load, waiting=0.0, current=one.asked)
        if wanted == one.asked:
            return True
        cause = f"{one.asked} -> {wanted} copies of each expert: {why}"
        step = Step(replace(one.replica, state=State.READY), State.READY, cause, changes={}, kind="scaled")
        if self._store.write([step], at=self._store.ledger.now(), lease=self._lease()):
            return True  # it is not ready yet, or being ended
        model.want_copies(wanted)
        one.asked = wanted
        return True

    def _load(self, one: _Followed, model: Model, at_s: float) -> float | None:
        if one.on == "requests":
            return float(model.under_way)
        try:
            said = model.trunk_stats()
        except RiosError as error:
            log.info("a trunk does not say its load", extra={"replica": one.replica.id, "reason": str(error)})
            return None
        if not said:
            return None
        if one.on == "queue":
            return float(said["waiting"])
        one.rate, one.last = taken(one.last, Said(float(said["tokens"]), is_counter=True), at_s, one.rate)
        return one.rate
