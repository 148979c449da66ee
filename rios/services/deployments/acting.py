"""What is done on hosts for one replica: starting, metering, ending it. Each in a thread, one at a time per replica.

Each act begins from what the tables say and may be cut off anywhere: another process begins it again from there.
Nothing here decides; a start that failed is told to the reconciler (`failure`), which counts it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rios.deploy.lifecycle import State
from rios.services.deployments import inheriting, places
from rios.services.deployments.bringing import Bringing
from rios.services.deployments.paying import Paying
from rios.services.deployments.retention import Keeps, Retention
from rios.services.deployments.routers import Drains
from rios.services.deployments.shares import Shares
from rios.services.deployments.snapshots import dropped, restored_from
from rios.services.deployments.snapshotting import Snapshotting
from rios.services.deployments.specified import asks_gateway, probes_of
from rios.services.deployments.store import ROTATED, AppStore, Lease, NotLeader, NotYet, require_leader, take_step
from rios.services.deployments.values import App, Replica, Step
from rios.words.errors import (
    BudgetExceeded,
    HostLost,
    InsufficientBalance,
    LedgerUnavailable,
    NetworkClosed,
    NotFound,
    RiosError,
)

if TYPE_CHECKING:
    from pydantic import SecretBytes
    from sqlalchemy import Connection

    from rios.billing.ledger.batch import Batch
    from rios.deploy.runtimes.protocol import Status
    from rios.services.deployments.gateway_keys import GatewayKeys
    from rios.services.deployments.health import Exec
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.metering import Metering
    from rios.services.deployments.routing import Routes
    from rios.services.deployments.secrets import SecretStore

log = logging.getLogger(__name__)

_STARTS, _ENDS, _METERS, _SNAPSHOTS, _SHARE = 64, 128, 32, 64, 16
"""Threads that fetch and start, end, meter, see to snapshots; and how many of each an owner has. A start may fetch for
minutes, an end waits for who ignores it, a snapshot is copied: no owner waits for another's, nor a start for copies."""
_AGAIN_S = 1.0
_LEFT_S = _VOLUMES_S = 5.0
_HISTORY_S = 600.0
_OWED_S = 60.0
"""How often who has no money for volumes that lie there is asked again."""
_LATER = (LedgerUnavailable, NetworkClosed, NotLeader, NotYet)
"""Nothing is wrong with the replica: it is tried again, here or by whoever leads now."""


class Acting:
    """The acts of one reconciler. Close it."""

    def __init__(
        self,
        store: AppStore,
        metering: Callable[[], Metering],
        secrets: Callable[[], SecretStore],
        routes: Callable[[], Routes] | None,
        keeps: Keeps | None = None,
    ) -> None:
        """routes: those of this process, to know when a replica has answered all that it had in its hands.

        They are asked for when an application is to be done something about. keeps: of what deployments have been
        through.
        """
        self._store = store
        self._metering = metering
        self.paying = Paying(store, metering)
        self._secrets = secrets
        self._retention = Retention(store, keeps or Keeps())
        self._starts = Shares(_STARTS, _SHARE, name="rios-acting")
        self._ends = Shares(_ENDS, _SHARE, name="rios-ending")
        self._meters = Shares(_METERS, _SHARE, name="rios-metering")
        self._snapshots = Shares(_SNAPSHOTS, _SHARE, name="rios-snapshots")
        self._closing = threading.Event()
        self._drains = Drains(store, routes, self._closing)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, tuple[str, State]] = {}
        """Why replicas could not be started, and in which state they are since."""
        self._given_up: set[str] = set()
        """Replicas that are to end while something is still fetched for them."""
        self._snapshotting = Snapshotting(store, lambda: self._metering().rent, self._closing)
        self._bringing = Bringing(store, self._snapshotting.relaying)
        self._hosts: dict[str, Host] = {}
        self._left_at, self._volumes_at, self._history_at = 0.0, 0.0, time.monotonic() + _HISTORY_S
        self._delivered: dict[str, int] = {}
        """By replica: the event whose secrets it has."""
        self.done: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Acting on {len(self._busy)} replicas>"

    def close(self) -> None:
        """Begin nothing more, and wait for what was begun: each ends by a deadline of its own, or is given up.

        Hosts know by now that this process ends (`Hosts.leave`): what they take long for is broken off.
        """
        self._closing.set()
        with self._lock:
            busy, hosts = list(self._busy), list(self._hosts.values())
        for replica_id in busy:
            for host in hosts:
                host.give_up(replica_id)
        for pool in (self._starts, self._ends, self._meters, self._snapshots):
            pool.close(wait=True)

    def is_busy(self, replica_id: str) -> bool:
        """Whether something is done for a replica now."""
        with self._lock:
            return replica_id in self._busy

    def failure(self, one: Replica) -> str | None:
        """Why a replica could not be started, where that is so; until it has ended, so that nobody starts it again."""
        why, state = self._failures.get(one.id, (None, None))
        return why if state is one.state and not one.started_at else None

    def lead(self) -> None:
        """This process leads from now on: of what could not be started here before, another one knows more."""
        with self._lock:
            self._failures.clear()

    def runner(self, one: Replica) -> Exec:
        """What runs a probe's command in a replica."""

        def run(command: Sequence[str], timeout_s: float) -> int:
            host = self._hosts.get(one.host)
            if host is None:
                raise NotFound(f"host {one.host} is not there")
            return host.exec(one.id, command, timeout_s=timeout_s).exit_code

        return run

    # --- what is to be done ----------------------------------------------------------------------------------

    def consider(
        self,
        app: App,
        one: Replica,
        specification: Mapping[str, Any],
        host: Host | None,
        *,
        status: Status | None,
        lost: bool,
        rotated: int,
        now: int,
        lease: Lease,
    ) -> None:
        """Begin what the state of a replica asks for, unless something is under way for it.

        rotated: the event by which secrets of the deployment were given anew last; 0 for none.
        """
        if host is not None:
            self._hosts[one.host] = host
        mine = app.organisation_id
        if one.state is State.STOPPING:
            if host is not None and not one.started_at and self.is_busy(one.id):
                host.give_up(one.id)
                self._given_up.add(one.id)
            if host is not None or lost:
                there = None if lost else host
                ended = status is not None and status.state == "exited"
                self._begin(self._ends, mine, one.id, self._end, app, one, specification, there, ended, lease)
        elif host is None or lost or self.failure(one) is not None:
            return
        elif not one.started_at:
            self._begin(self._starts, mine, one.id, self._start, app, one, specification, host, lease)
        elif rotated > self._delivered.get(one.id, 0):
            self._begin(self._starts, mine, one.id, self._rotate, app, one, specification, host, rotated, lease)
        elif one.period and now - one.period_at >= self._metering().period_us:
            # By hosts: an owner's many replicas are no reason to be late, and a host that does not answer is one.
            self._begin(self._meters, one.host, one.id, self._meter, app, one, specification, host, lease)

    def clear(self, host: Host, instance: str) -> None:
        """Take an instance away that belongs to no living replica."""
        self._begin(self._ends, host.name, instance, self._cleared, host, instance)

    def forget_left(self, hosts: Mapping[str, Host], *, lease: Lease) -> None:
        """Have hosts that answer forget deployments that were deleted while they did not, and remove volumes that are
        not kept any longer. Looked up now and then."""
        if time.monotonic() < self._left_at:
            return
        self._left_at = time.monotonic() + _LEFT_S
        for one in places.left(self._store, hosts.keys()):
            key = f"{one.host} {one.app_id}"
            self._begin(self._ends, one.host, key, self._forgotten, hosts[one.host], one, lease)
        for owner, key, act in inheriting.due(self._store, hosts, lease):
            self._begin(self._ends, owner, key, act)

    def see_to_volumes(self, apps: Sequence[App], hosts: Mapping[str, Host], *, lease: Lease, lost_s: float) -> None:
        """Have the volumes paid for whose period is over, and snapshots taken, copied and dropped. Looked up now and
        then. hosts: those that answer. lost_s: those that have not for so long are lost."""
        for owner, key, act in self._snapshotting.due(apps, hosts, lease, lost_s=lost_s):
            self._begin(self._snapshots, owner, key, act)
        if not apps or time.monotonic() < self._volumes_at:
            return
        self._volumes_at = time.monotonic() + _VOLUMES_S
        found = {app.id: app for app in apps}
        for app_id, host in self._metering().rent.due():
            if app_id in found:
                self._begin(self._meters, host, f"{host} {app_id}", self._rented, found[app_id], host, lease)

    def forget_history(self, *, lease: Lease) -> None:
        """Have what nobody keeps of what deployments have been through deleted. Done now and then."""
        if time.monotonic() >= self._history_at:
            self._history_at = time.monotonic() + _HISTORY_S
            self._begin(self._ends, "", "history", self._history, lease)

    def finish(self, app: App, specification: Mapping[str, Any], hosts: Mapping[str, Host], *, lease: Lease) -> None:
        """Take away what is left of a deleted deployment without replicas, and say that it has stopped."""
        self._begin(self._ends, app.organisation_id, app.id, self._finished, app, specification, hosts, lease)

    def _begin(self, pool: Shares, owner: str, key: str, act: Callable[..., float | None], *what: Any) -> None:
        """Have an act done, unless one of the key is under way. Beyond the owner's share, a later pass asks again.

        act: may say for how many seconds it is not begun again.
        """
        with self._lock:
            if key in self._busy or time.monotonic() < self._not_before.get(key, 0.0):
                return
            self._busy.add(key)
        if not pool.begin(owner, partial(self._run, key, act, what)):
            with self._lock:
                self._busy.discard(key)

    def _run(self, key: str, act: Callable[..., float | None], what: tuple[Any, ...]) -> None:
        again_s = 0.0
        try:
            again_s = act(*what) or 0.0
        except _LATER as error:
            log.info("an act is put off", extra={"replica": key, "reason": str(error)})
            again_s = _AGAIN_S
        except RiosError as error:
            log.warning("an act failed", extra={"replica": key, "reason": str(error)})
            again_s = _AGAIN_S
        except Exception:
            log.exception("an act failed by an error of rios", extra={"replica": key})
            again_s = 5 * _AGAIN_S
        finally:
            with self._lock:
                self._busy.discard(key)
                if again_s:
                    self._not_before[key] = time.monotonic() + again_s
                else:
                    self._not_before.pop(key, None)
            self.done()

    # --- the acts --------------------------------------------------------------------------------------------

    def _start(self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, lease: Lease) -> None:
        try:
            self._started(app, one, specification, host, lease)
        except (InsufficientBalance, BudgetExceeded) as error:
            self.paying.unbegun(app, one.id, str(error), lease=lease)
        except _LATER:
            raise
        except RiosError as error:
            # A look that began before it had come so far knows another state, and its step would not be taken.
            there = {each.id: each.state for each in self._store.snapshot(app.id)[1].get(app.id, ())}
            with self._lock:
                self._failures[one.id] = str(error), there.get(one.id, one.state)

    def _started(self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, lease: Lease) -> None:
        from rios.services.deployments.hosts import Order
        from rios.services.deployments.images import image_of, resolved_on

        image = image_of(self._store, app.id, one.revision) if specification["image"] is not None else None
        restores = bool(restored_from(specification) and self._bringing.unmade(app, specification, host))
        if one.state is State.SCHEDULED and (restores or host.pulls(specification, image)):
            one = self._moved(one, Step(one, State.PULLING, "its host fetches what it stands on", changes={}), lease)
        if specification["image"] is not None and image is None:
            image = resolved_on(host, self._store, app, one.revision, specification, lease=lease)
        elif one.state is State.PULLING and specification["rootfs"] is None:
            host.prepare(specification, image)
        check = partial(self._require_wanted, one)
        self._bringing.bring(app, specification, host, lease, restores=restores, check=check)
        self._metering().begin(app, one, specification, lease)
        if one.state is not State.STARTING:
            one = self._settled(app, one, specification, host, lease)
            if restores:
                self._snapshotting.settled(app, host.name)
        order = Order(
            replica_id=one.id, app_id=app.id, organisation_id=app.organisation_id, revision=one.revision,
            specification=specification, secrets=self._secrets_of(app, one, specification, lease), image=image,
        )  # fmt: skip
        inheriting.brought(self._store, app.id, host, lease)
        status = host.start(order)
        address = "" if status.endpoint is None else f"{status.endpoint[0]}:{status.endpoint[1]}"
        now = self._store.ledger.now()
        changes = {"started_at": now, "address": address}
        if probes_of(specification) is None:
            step = Step(one, State.READY, "its process has started", changes={**changes, "ready_at": now})
        else:
            step = Step(one, State.STARTING, "its process has started", changes=changes, kind="started")
        self._moved(one, step, lease)

    def _require_wanted(self, one: Replica) -> None:
        """Raise NotLeader where a replica is to be ended, or this process ends."""
        if one.id in self._given_up or self._closing.is_set():
            raise NotLeader(f"replica {one.id} is not to be started any more")

    def _secrets_of(self, app: App, one: Replica, says: Mapping[str, Any], lease: Lease) -> dict[str, SecretBytes]:
        """What a replica finds under /run/secrets."""
        found = self._secrets().of(app, says["secrets"], revision=one.revision)
        if asks_gateway(says):
            from rios.deploy.spec import TOKEN

            found[TOKEN] = self._keys().of(app, lease=lease)
        return found

    def _keys(self) -> GatewayKeys:
        from rios.services.deployments.gateway_keys import GatewayKeys

        return GatewayKeys(self._store, self._secrets())

    def _moved(self, one: Replica, step: Step, lease: Lease) -> Replica:
        """The replica after a step. Raises NotLeader where somebody else changed it meanwhile: this act is over."""
        if self._store.write([step], at=self._store.ledger.now(), lease=lease):
            raise NotLeader(f"replica {one.id} is no longer {one.state}")
        return replace(one, state=step.to, **step.changes)

    def _settled(self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, lease: Lease) -> Replica:
        """The replica that its host is about to start, and whose volumes lie there, and are paid for, from now on; not
        before, for where something cannot be fetched there is nothing to come back to."""
        step, at = Step(one, State.STARTING, f"its host {host.name} starts it", changes={}), self._store.ledger.now()
        rent = self._metering().rent
        takes = rent.taking(app, one.host, specification, since=at) if specification["volumes"] else None

        def run(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            if not take_step(batch.connection, step, at=at):
                raise NotLeader(f"replica {one.id} is no longer {one.state}")
            if takes is not None:
                inheriting.settle(batch.connection, one, specification)
                takes(batch)

        self._store.transact_whole(run)
        return replace(one, state=step.to)

    def _meter(self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, lease: Lease) -> None:
        try:
            self._metering().turn(app, one, specification, host.metrics(one.id), lease)
        except (InsufficientBalance, BudgetExceeded) as error:
            self.paying.pause(app, str(error), lease=lease)

    def _rented(self, app: App, host: str, lease: Lease) -> float:
        try:
            self._metering().rent.turn(app, host, lease)
        except (InsufficientBalance, BudgetExceeded) as error:
            self.paying.pause(app, f"its volumes: {error}", lease=lease)
            return _OWED_S
        return 0.0

    def _rotate(
        self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, rotated: int, lease: Lease
    ) -> None:
        host.put_secrets(one.id, self._secrets_of(app, one, specification, lease))
        self._moved(one, Step(one, one.state, "it has its secrets anew", changes={}, kind=ROTATED), lease)
        self._delivered[one.id] = rotated

    def _end(
        self, app: App, one: Replica, specification: Mapping[str, Any], host: Host | None, ended: bool, lease: Lease
    ) -> None:
        metrics, until = None, self._store.ledger.now()
        if host is not None:
            grace_s = specification["grace"]
            if one.ready_at and one.address and not ended:
                one, held_s = self._held(app, one, specification, host, lease)
                self._drains.wait(one, min(grace_s, held_s))
            if not ended:
                one, held_s = self._held(app, one, specification, host, lease)
                grace_s = min(grace_s, held_s)
            found = host.end(one.id, grace_s=grace_s)
            metrics = found.metrics
            until = self._store.ledger.now()
            if found.status is not None and found.status.finished_at is not None:
                until = min(until, int(found.status.finished_at * 1e6))
        outcome = State(one.outcome or State.STOPPED)
        cause = "nothing of it is left" if host is not None else f"host {one.host} is lost"
        step = Step(one, outcome, cause, changes={})
        self._metering().finish(app, one, specification, metrics, step, until=until, lease=lease)
        self._delivered.pop(one.id, None)
        self._given_up.discard(one.id)
        self._failures.pop(one.id, None)
        if host is not None:
            host.clear(one.id)

    def _held(
        self, app: App, one: Replica, specification: Mapping[str, Any], host: Host, lease: Lease
    ) -> tuple[Replica, float]:
        """A replica that is to end, and for how long it is held for: where its grace is longer, for a period more.

        What ends runs on until it does, so it is metered; who has no money for it, or cannot be measured, is given less
        time.
        """
        metering = self._metering()
        if one.started_at and one.period and metering.covered_s(one) < specification["grace"]:
            try:
                one = metering.turn(app, one, specification, host.metrics(one.id), lease)
            except (InsufficientBalance, BudgetExceeded) as error:
                log.info("a replica is given less time to end", extra={"replica": one.id, "reason": str(error)})
            except NotFound:  # there is nothing of it, which `end` says too
                return one, 0.0
            except (*_LATER, HostLost):
                raise
            except (RiosError, OSError) as error:  # who cannot be measured is ended all the same
                log.warning("a replica that is to end is not measured", extra={"replica": one.id, "reason": str(error)})
        return one, metering.covered_s(one)

    def _history(self, lease: Lease) -> None:
        if gone := self._retention.forget(lease=lease):
            log.info("old history of deployments was deleted", extra={"rows": gone})

    def _cleared(self, host: Host, instance: str) -> None:
        host.end(instance, grace_s=0.0)
        host.clear(instance)
        log.info("an instance of no replica was cleared away", extra={"host": host.name, "replica": instance})

    def _forgotten(self, host: Host, one: places.Left, lease: Lease) -> None:
        inheriting.forgets(self._store, host, one.organisation_id, one.app_id, one.specification, lease)

        def run(connection: Connection) -> None:
            require_leader(connection, *lease)
            places.forgotten(connection, one.app_id, one.host)

        self._store.transact(lambda batch: run(batch.connection))

    def _finished(self, app: App, specification: Mapping[str, Any], hosts: Mapping[str, Host], lease: Lease) -> None:
        forgot = inheriting.forgot(self._store, app, specification, hosts, lease)
        at = self._store.ledger.now()

        def also(connection: Connection) -> None:
            if not take_step(connection, Step(app, State.STOPPED, "nothing of it is left", changes={}), at=at):
                raise NotLeader(f"deployment {app.id} is no longer {app.state}")
            inheriting.left(connection, app, specification, at=at)
            for name in forgot:
                places.forgotten(connection, app.id, name)
            self._keys().revoke(connection, app, at=at)
            self._secrets().drop(connection, app)
            dropped(connection, app.id)

        def run(connection: Connection) -> None:
            require_leader(connection, *lease)
            also(connection)

        if specification["model"] is None:
            self._metering().rent.end(app, also, lease=lease, at=at)
        else:
            self._store.transact_whole(lambda batch: run(batch.connection))
