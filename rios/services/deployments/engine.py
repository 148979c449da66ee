"""The engine of one process: the models that it serves for deployments, from the workers of its network.

Whoever leads writes which engine is to serve what, and acts on nothing there: each engine looks at the rows that name
it, whether its process leads or not, starts and ends models, and writes what came of it under a lease of its own. The
renewal of that lease is its heartbeat; where it stops, its models have gone with its process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.deploy.lifecycle import State
from rios.services.deployments import bound
from rios.services.deployments.bound import new_id
from rios.services.deployments.copies import Copies, copies_at_first
from rios.services.deployments.leader import LEASE_S, RENEWED, Leadership
from rios.services.deployments.store import AppStore, NotLeader, require_leader
from rios.services.deployments.values import App, Replica, Step
from rios.words.errors import DeploymentFailed, LedgerUnavailable, NetworkClosed, NotFound, RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.deploy.spec import App as Specification
    from rios.services.generation import Model

log = logging.getLogger(__name__)

ENGINE = "engine"
"""What the names of engines begin with, and what a model asks for as its runtime."""
Deploy = Callable[..., "Model"]
"""As `models.start_model`, without its network."""
_LATER = (LedgerUnavailable, NetworkClosed, NotLeader)
"""Nothing is wrong with the model: it is tried again, or whoever leads has given this engine up."""
_AGAIN_S = 1.0
_SAID_S = 60.0
"""What is loaded waits so long for the ledger, where its deploy has no deadline of its own."""
_LOOK_S = 0.25
_ENDING = 4
"""Models that are closed at the same time, while others start."""
_CLOSED = "it was closed"


def is_engine(host: str) -> bool:
    """Whether a host of that name is an engine."""
    return host.startswith(f"{ENGINE}-")


def is_named(checkpoint: str) -> bool:
    """Whether a checkpoint is the name of a folder, which says something to gateways alone."""
    return checkpoint != "demo" and not Path(checkpoint).is_absolute()


def model_of(specification: Mapping[str, Any]) -> dict[str, Any]:
    """What a specification says to `start_model`."""
    return {
        "path": specification["model"],
        "name": specification.get("served_name") or specification["name"],
        "copies": copies_at_first(specification),
        **{name: specification.get(name) for name in ("dtype", "wire_dtype")},
        **{name: bool(specification.get(name)) for name in ("partial", "private")},
    }


@dataclass(slots=True)
class Served:
    """A model that is served here. The network holds its models, and an engine does not: threads hold it."""

    model: weakref.ref[Model]
    app_id: str
    organisation_id: str
    name: str
    """What requests call it."""
    bound: bool
    ready: bool = False
    """Whether its row says so."""
    leaving: bool = False
    """Whether this engine closes it."""

    def lives(self) -> Model | None:
        """The model, unless it was closed or nobody holds its network any more."""
        model = self.model()
        return None if model is None or model._closed else model


class Engine:
    """Close it before the network. It costs nothing until `begin`."""

    def __init__(self, store: AppStore, deploy: Deploy, *, lease_s: float = LEASE_S) -> None:
        """lease_s: infinite where nobody else looks at the ledger."""
        self.name = f"{ENGINE}-{os.getpid()}-{secrets.token_hex(3)}"
        self.changed: Callable[[], None] = lambda: None
        """Told when something was written that whoever leads may have to do with."""
        self._where: Callable[[str], str] | None = None
        self._store, self._deploy, self._lease_s = store, deploy, lease_s
        self._leasing = threading.Lock()
        self._lease = Leadership(store, name=self.name, lease_s=lease_s)
        self._copies = Copies(store, lambda: self._lease.lease)
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        """By replica."""
        self._left: set[str] = set()
        """Replicas whose checkpoints only another process can find."""
        self._busy: set[str] = set()
        self._over: dict[str, str] = {}
        """Bound deployments that are over and whose rows do not say so yet, with the cause."""
        self._seq = -1
        # Set where something happened that no event tells of.
        self._other = threading.Event()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        # One after the other: each fills the hosts' memory, and the next has to know what is left of it.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="rios-starting")
        self._ender = ThreadPoolExecutor(_ENDING, thread_name_prefix="rios-ending")

    def __repr__(self) -> str:
        return f"<Engine {self.name} of {len(self._served)} models>"

    def begin(self, *, takes: bool = False) -> None:
        """Hold the lease and look at the rows from now on. takes: also what is bound to no other engine."""
        with self._leasing:
            if self._stop.is_set():
                raise NetworkClosed("this network was closed; make another one")
            anew = takes and not self._lease.says
            if anew:
                self._lease.says = {"takes": True}
            if self._thread is None or anew or not self._lease.leads:
                # One that was lost is taken anew.
                _ = self._lease.look(renew=True) or self._lease.look()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="rios-engine", daemon=True)
                self._thread.start()

    def nudge(self) -> None:
        """Something has changed: look now."""
        self._wake.set()

    def find_by(self, where: Callable[[str], str]) -> None:
        """Take models by name, too. where: the place of a checkpoint on this machine. Raises InvalidRequest."""
        with self._lock:
            self._where = where
            self._left.clear()
        self._look_again()

    def finds(self, checkpoint: str) -> bool:
        """Whether this process may look for a checkpoint."""
        return self._where is not None or not is_named(checkpoint)

    @property
    def is_blind(self) -> bool:
        """Whether it finds no checkpoint by a name."""
        return self._where is None

    # --- what it serves --------------------------------------------------------------------------------------

    def model(self, replica_id: str) -> Model:
        """The model that a replica is. Raises NotFound."""
        with self._lock:
            found = self._served.get(replica_id)
        model = None if found is None else found.lives()
        if model is None:
            raise NotFound(f"replica {replica_id} is served by another process, or by none")
        return model

    def _serves(self, replica_id: str) -> bool:
        with self._lock:
            found = self._served.get(replica_id)
        return found is not None and found.lives() is not None

    def serving(self, organisation_id: str) -> list[tuple[str, str, Model]]:
        """What serves now of an organisation and is bound to no engine: deployment, name, and model; newest last."""
        with self._lock:
            known = [one for one in self._served.values() if one.organisation_id == organisation_id]
        found = [(one, one.lives()) for one in known if one.ready and not one.bound and not one.leaving]
        return [(one.app_id, one.name, model) for one, model in found if model is not None]

    def deploy(
        self, wanted: Specification, *, user_id: str, organisation_id: str, progress: bool, timeout: float | None
    ) -> Model:
        """Deploy a model that is bound to this engine, and wait until it serves: see `net.dmoe.deploy`."""
        self.begin()
        begun = time.monotonic()
        app_id, replica_id = new_id(), f"{wanted.name[:30]}-{secrets.token_hex(5)}"
        with self._occupied(replica_id):
            try:
                app, one = bound.begin(
                    self._store, wanted, self.name, replica_id,
                    app_id=app_id, user_id=user_id, organisation_id=organisation_id,
                )  # fmt: skip
                self._load(app, one, wanted.stored(), progress=progress, timeout=timeout)
                deadline = time.monotonic() + _SAID_S if timeout is None else begun + timeout
                if not self._ready_by(one, deadline):
                    raise DeploymentFailed(f"{app.name} was deleted while it was being deployed")
            except BaseException as error:
                self._close_model(replica_id)
                # Also where nobody knows whether its rows were written: they are not there, or end here.
                self._end_bound(app_id, str(error) or type(error).__name__)
                raise
        self.changed()
        return self.model(replica_id)

    def _load(
        self,
        app: App,
        one: Replica,
        specification: Mapping[str, Any],
        *,
        progress: bool = False,
        timeout: float | None = None,
    ) -> None:
        wanted = model_of(specification)

        def closed(_: Model) -> None:
            self._closed(one.id)

        if self._where is not None:
            wanted["path"] = self._where(str(wanted["path"]))
        model = self._deploy(**wanted, progress=progress, timeout=timeout, closed=closed)
        name = str(wanted["name"])
        with self._lock:
            self._served[one.id] = Served(weakref.ref(model), app.id, app.organisation_id, name, bool(app.bound))
        self._copies.follow(one, specification, model)

    def _ready(self, one: Replica) -> bool:
        found = bound.ready(self._store, one, lease=self._lease.lease)
        with self._lock:
            if one.id in self._served:
                self._served[one.id].ready = found
        return found

    def _ready_by(self, one: Replica, deadline: float) -> bool:
        """As `_ready`; a ledger that is away for a moment is waited for: what is loaded is not thrown away for that."""
        while True:
            try:
                return self._ready(one)
            except _LATER as error:
                if self._stop.is_set():
                    raise NetworkClosed("this network was closed; make another one") from error
                if time.monotonic() > deadline:
                    raise
                log.info("a model is not yet said to be ready", extra={"replica": one.id, "reason": str(error)})
            self._stop.wait(_LOOK_S)

    def _closed(self, replica_id: str) -> None:
        """A model was closed, by whoever uses it or by this engine."""
        with self._lock:
            found = self._served.get(replica_id)
        if found is None or found.leaving or self._stop.is_set():
            return
        if found.bound:
            self._end_bound(found.app_id, _CLOSED)
            self.changed()
        self._look_again()

    def _look_again(self) -> None:
        self._other.set()
        self._wake.set()

    def _end_bound(self, app_id: str, cause: str) -> None:
        """Say that a bound deployment is over; later where that cannot be written now."""
        try:
            bound.end(self._store, app_id, cause, lease=self._lease.lease)
        except _LATER as error:
            log.warning("the end of a model is not written yet", extra={"app": app_id, "reason": str(error)})
            self._over[app_id] = cause
            self._wake.set()

    def _close_model(self, replica_id: str) -> None:
        with self._lock:
            found = self._served.get(replica_id)
        if found is not None:
            found.leaving = True
            model = found.lives()
            if model is not None:
                model.close()
        with self._lock:
            self._served.pop(replica_id, None)

    # --- what its rows ask for -------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            again = False
            try:
                self.look()
            except _LATER as error:
                log.warning("models are not looked after now", extra={"reason": str(error)})
                again = True
            except Exception:
                log.exception("a look at the models of this process failed")
                again = True
            renew_s = min(self._lease_s * RENEWED, threading.TIMEOUT_MAX)
            if again:
                self._other.set()
            self._wake.wait(min(renew_s, _AGAIN_S) if again else renew_s)

    def look(self) -> None:
        """Renew the lease, and begin what the rows ask for where one has changed. Raises LedgerUnavailable."""
        with self._leasing:
            if not self._lease.look():
                return
        for app_id, cause in list(self._over.items()):
            bound.end(self._store, app_id, cause, lease=self._lease.lease)
            self._over.pop(app_id)
        if other := self._other.is_set():  # what is set after this question is left for the next look
            self._other.clear()
        seq = self._store.seq()
        if seq == self._seq and not other:
            return
        self._seq = -1
        # Before the rows: a model that is there has its row by then, or its row has ended.
        with self._lock:
            served = set(self._served)
        rows = self._store.on_host(self.name)
        self._seq = seq
        with self._lock:
            self._left &= {one.id for one in rows}
            left = set(self._left)
        for one in rows:
            if one.state is State.STOPPING:
                self._act(one.id, self._ender, self._end, one)
            elif one.id in left:
                continue
            elif not one.started_at and not one.outcome:
                self._act(one.id, self._starter, self._start, one)
            elif not one.outcome and not self._serves(one.id):
                self._act(one.id, self._ender, self._gone, one)
        for replica_id in served - {one.id for one in rows}:
            self._act(replica_id, self._ender, self._close_model, replica_id)

    def _act(self, replica_id: str, pool: ThreadPoolExecutor, act: Callable[..., None], *what: Any) -> None:
        with self._lock:
            if replica_id in self._busy or self._stop.is_set():
                return
            self._busy.add(replica_id)
        pool.submit(self._run, replica_id, act, what)

    def _run(self, replica_id: str, act: Callable[..., None], what: tuple[Any, ...]) -> None:
        try:
            act(*what)
        except NotLeader as error:
            log.info("an act came too late", extra={"replica": replica_id, "reason": str(error)})
            self._hold_still()
        except _LATER as error:
            log.info("an act is put off", extra={"replica": replica_id, "reason": str(error)})
            self._stop.wait(_AGAIN_S)
        except Exception:
            log.exception("an act failed by an error of rios", extra={"replica": replica_id})
            self._stop.wait(_AGAIN_S)
        finally:
            with self._lock:
                self._busy.discard(replica_id)
            self._look_again()
            self.changed()

    def _hold_still(self) -> None:
        """Find out whether the lease was lost: an act that begins anew under the same one would come too late again."""
        with self._leasing, contextlib.suppress(LedgerUnavailable, NetworkClosed):
            if not self._stop.is_set():
                self._lease.look(renew=True)

    @contextlib.contextmanager
    def _occupied(self, replica_id: str) -> Iterator[None]:
        """Somebody acts on a replica, whose row may already be there."""
        with self._lock:
            self._busy.add(replica_id)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(replica_id)
            self._look_again()

    def _start(self, one: Replica) -> None:
        app, specification = self._store.app(one.app_id), self._store.specification(one.app_id, one.revision)
        if self._leaves(one, str(specification["model"])):
            return
        if one.state is not State.STARTING:
            one = self._moved(one, Step(one, State.STARTING, f"its host {self.name} starts it", changes={}))
        try:
            if not self._serves(one.id):  # it may be loaded, and only its row not have been written
                self._load(app, one, specification)
        except _LATER:
            raise
        except RiosError as error:
            self._failed(one, str(error), type(error).__name__)
            return
        except Exception:
            log.exception("a model could not be started", extra={"replica": one.id})
            self._failed(one, "an error of rios; its log says more", RiosError.__name__)
            return
        if not self._ready(one):
            log.info("a model is not wanted any more", extra={"replica": one.id})

    def _leaves(self, one: Replica, checkpoint: str) -> bool:
        """Whether a replica waits for a process that can find its checkpoint: nothing is wrong with the model."""
        with self._lock:
            if self.finds(checkpoint):
                return False
            self._left.add(one.id)
        log.info("a model waits for a gateway, which knows its checkpoint", extra={"replica": one.id})
        return True

    def _failed(self, one: Replica, why: str, error: str) -> None:
        changes = {"outcome": str(State.FAILED), "said": why, "error": error}
        self._moved(one, Step(one, one.state, f"it could not be started: {why}", changes=changes, kind="failed"))

    def _gone(self, one: Replica) -> None:
        """A model that is wanted was closed by whoever uses it."""
        self._close_model(one.id)
        app = self._store.app(one.app_id)
        if app.bound:
            self._end_bound(app.id, _CLOSED)
            return
        changes = {"outcome": str(State.STOPPED), "said": _CLOSED}
        self._moved(one, Step(one, one.state, _CLOSED, changes=changes, kind="closed"))

    def _end(self, one: Replica) -> None:
        self._close_model(one.id)
        outcome = State(one.outcome or State.STOPPED)
        self._moved(one, Step(one, outcome, "nothing of it is left", changes={}))

    def _moved(self, one: Replica, step: Step) -> Replica:
        """The replica after a step. Raises NotLeader where somebody else changed it meanwhile: this act is over."""
        if self._store.write([step], at=self._store.ledger.now(), lease=self._lease.lease):
            raise NotLeader(f"replica {one.id} is no longer {one.state}")
        return replace(one, state=step.to, **step.changes)

    # --- its end ---------------------------------------------------------------------------------------------

    def end_bound(self) -> None:
        """Close the models that are bound to this engine."""
        with self._lock:
            found = [(replica_id, one.app_id) for replica_id, one in self._served.items() if one.bound]
        for replica_id, app_id in found:
            self._close_model(replica_id)
            self._end_bound(app_id, _PROCESS)

    def close(self) -> None:
        """Close all models, and say so. Others serve on what is bound to no engine."""
        with self._leasing:
            self._stop.set()
        self._wake.set()
        if self._thread is None:
            return
        self._thread.join()
        self._copies.close()
        for pool in (self._starter, self._ender):
            pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            found = list(self._served)
        for replica_id in found:
            self._close_model(replica_id)
        try:
            self._said_to_end()
            self._lease.give_up(forget=True)
        except _LATER as error:
            log.warning("whoever leads finds the end of this process", extra={"reason": str(error)})

    def _said_to_end(self) -> None:
        rows = self._store.on_host(self.name)
        for app_id in {one.app_id for one in rows}:
            if self._store.app(app_id).bound:
                bound.end(self._store, app_id, _PROCESS, lease=self._lease.lease)
        lease, now = self._lease.lease, self._store.ledger.now()

        def run(connection: Connection) -> None:
            require_leader(connection, *lease)
            for one in rows:
                bound.end_replica(connection, one, _PROCESS, at=now)

        if rows:
            self._store.transact(lambda batch: run(batch.connection))


_PROCESS = "its process ended"
