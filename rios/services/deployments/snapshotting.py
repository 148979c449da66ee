"""What is done about snapshots by whoever leads: they are taken, copied, dropped, and brought to where they are needed.

Chunks go by way of the process that leads: hosts do not know each other's keys, and need not trust each other, for
what a snapshot consists of is known by its SHA-256. A chunk comes from whichever host has it. Each act may be cut off
anywhere and is begun again from the tables.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, update

from rios.services.deployments import places
from rios.services.deployments.snapshots import (
    EVENT,
    FAILED,
    KEPT,
    LEAVING,
    WANTED,
    Known,
    due,
    ids,
    keepers,
    one_of,
    restored_from,
)
from rios.services.deployments.store import AppStore, Lease, NotLeader, require_leader, write_event
from rios.storage.deployment_models import AppSnapshotCopyRow, AppSnapshotRow
from rios.words.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    HostLost,
    InsufficientBalance,
    InvalidRequest,
    LedgerUnavailable,
    NetworkClosed,
    NotFound,
    RiosError,
    SandboxFailed,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.batch import Batch
    from rios.services.deployments.host_snapshots import Snapshots
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.rent import Rent
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

_LOOK_S, _COUNT_S = 0.3, 5.0
_AGAIN_S, _NOWHERE_S = 5.0, 30.0
LOST_S = 600.0
"""A host that is not there for so long keeps nothing any more: another one gets a copy."""
STRAYS_S = 600.0
_ROUNDS_MAX = 2000

Act = tuple[str, str, Callable[[], float | None]]
"""Whose share of threads it takes, what it is about, and what does it."""


class NotYet(RiosError):
    """No host that keeps a snapshot answers: whoever needs it waits."""


class Snapshotting:
    """The acts about snapshots of one reconciler."""

    def __init__(self, store: AppStore, rent: Callable[[], Rent]) -> None:
        self._store, self._rent = store, rent
        self._looked_at = self._counted_at = 0.0
        self._hosts: Mapping[str, Host] = {}
        self._seen: dict[str, float] = {}
        self._cleared_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Snapshotting on {len(self._hosts)} hosts>"

    def due(self, apps: Sequence[App], hosts: Mapping[str, Host], lease: Lease) -> Iterator[Act]:
        """What is to be done, of what is looked up now and then. apps: all. hosts: those that answer."""
        now = time.monotonic()
        self._hosts = hosts
        self._seen |= dict.fromkeys(hosts, now)
        for name, host in hosts.items():
            if host.snapshots is not None and now - self._cleared_at.get(name, now - STRAYS_S) >= STRAYS_S:
                self._cleared_at[name] = now
                yield name, f"{name} strays", partial(self._clear_strays, host)
        if not apps or now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        counts = now - self._counted_at >= _COUNT_S
        if counts:
            self._counted_at = now
            for name in keepers(self._store):
                self._seen.setdefault(name, now)
        found = due(self._store, self._lost(), all_kept=counts)
        known = {app.id: app for app in apps} if found else {}
        for one in found:
            if (app := known.get(one.app_id)) is not None:
                yield app.organisation_id, one.id, partial(self.act, one, app, lease)

    def _clear_strays(self, host: Host) -> None:
        """Have a host drop what it keeps of snapshots that no table knows: whoever had it keep them was cut off."""
        snapshots = _of(host)
        there = snapshots.kept()
        known = ids(self._store, [name for _, name in there])  # asked for after: what is there has its row by then
        for app_id, name in there:
            if name not in known:
                snapshots.drop(app_id, name)
                log.info("a snapshot of no deployment was dropped", extra={"host": host.name, "snapshot": name})

    def _lost(self) -> list[str]:
        """Hosts that have not answered for long; one that this process has never heard is given as long."""
        now = time.monotonic()
        return [name for name, at in self._seen.items() if now - at > LOST_S]

    def act(self, one: Known, app: App, lease: Lease) -> float:
        """Do what a snapshot asks for; for how many seconds nothing more is to be done."""
        if one.state == LEAVING:
            return self._let_go(one, app, lease)
        if one.state == WANTED:
            kept = self._taken(one, app, lease)
            if kept is None:
                return _AGAIN_S
            one = kept
        if one.state != KEPT:
            return 0.0
        return self._copied(one, app, self._store.specification(app.id, app.revision), lease)

    # --- taking ----------------------------------------------------------------------------------------------

    def _taken(self, one: Known, app: App, lease: Lease) -> Known | None:
        """The snapshot when it was taken, or why that failed; None where its volume's host does not answer."""
        homes = places.hosts_of(self._store, app.id, volumes=True)
        if not homes:
            return self._failed(one, app, "no replica has been started yet, so there is no volume", lease)
        host = next((self._hosts[name] for name in sorted(homes) if name in self._hosts), None)
        if host is None:
            return None
        try:
            snapshots = _of(host)
            taken = snapshots.take(one.organisation_id, one.app_id, one.path, one.id)
        except (HostLost, DeadlineExceeded, LedgerUnavailable, NetworkClosed):  # to be asked for again
            raise
        except RiosError as error:
            return self._failed(one, app, str(error), lease)
        kept = {
            "state": KEPT, "digest": taken.digest, "size_bytes": taken.size_bytes, "quota_bytes": taken.quota_bytes
        }  # fmt: skip
        try:
            self._keeps(one, app, host, kept, lease)
        except (InsufficientBalance, BudgetExceeded) as error:
            snapshots.drop(one.app_id, one.id)
            return self._failed(one, app, f"it is not paid for: {error}", lease)
        return self._read(one)

    def _read(self, one: Known) -> Known:
        with self._store.ledger.database.reading() as connection:
            found = one_of(connection, one.organisation_id, one.id)
        if found is None:
            raise NotLeader(f"{one.id} was deleted meanwhile")
        return found

    def _keeps(self, one: Known, app: App, host: Host, columns: Mapping[str, Any], lease: Lease) -> None:
        """Write that a host keeps a snapshot, and that its room there is paid for from now on: both or none."""
        room = self._rent().keeping(app, host.name, lambda: _of(host).room_bytes(app.id))
        at, row, copy = self._store.ledger.now(), AppSnapshotRow, AppSnapshotCopyRow

        def run(batch: Batch) -> None:
            connection = batch.connection
            require_leader(connection, *lease)
            mine = update(row).where(row.id == one.id, row.state == one.state)
            if connection.execute(mine.values(reason="", **columns)).rowcount != 1:
                raise NotLeader(f"{one.id} is no longer {one.state}")
            connection.execute(delete(copy).where(copy.snapshot_id == one.id, copy.host == host.name))
            connection.execute(insert(copy), [{"snapshot_id": one.id, "host": host.name}])
            write_event(connection, app, at, EVENT, f"{one.id} of {one.path} is kept on {host.name}")
            room(batch)

        self._store.transact_whole(run)

    def _failed(self, one: Known, app: App, why: str, lease: Lease) -> Known:
        self._noted(one, app, {"state": FAILED, "reason": why}, lease, told=f"{one.id} of {one.path}: {why}")
        return self._read(one)

    def _noted(self, one: Known, app: App, columns: Mapping[str, Any], lease: Lease, *, told: str = "") -> None:
        at, row = self._store.ledger.now(), AppSnapshotRow

        def run(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            mine = update(row).where(row.id == one.id, row.state == one.state)
            if batch.connection.execute(mine.values(**columns)).rowcount == 1 and told:
                write_event(batch.connection, app, at, EVENT, told)

        self._store.transact(run)

    # --- copies ----------------------------------------------------------------------------------------------

    def _copied(self, one: Known, app: App, specification: Mapping[str, Any], lease: Lease) -> float:
        """As many hosts keep it as are to; how long to wait where there are no more."""
        lost = self._lost()
        while len(living := [name for name in one.hosts if name not in lost]) < one.copies:
            host = self._further(one, specification)
            if host is None:
                why = f"kept by {len(living)} of {one.copies} hosts: no further one takes it"
                if one.reason != why:
                    self._noted(one, app, {"reason": why}, lease)
                return _NOWHERE_S
            try:
                self._copy(one, app, host, lease)
            except (InsufficientBalance, BudgetExceeded, InvalidRequest, SandboxFailed, NotYet) as error:
                why = f"kept by {len(living)} of {one.copies} hosts; {host.name}: {error}"
                if one.reason != why:
                    self._noted(one, app, {"reason": why}, lease)
                return _NOWHERE_S
            one = self._read(one)
        homes = places.hosts_of(self._store, app.id, volumes=True)
        order = sorted(living, key=lambda name: (name not in homes, name))
        extra = order[one.copies :]
        if any(name in self._hosts for name in extra):
            for name in order[: one.copies]:  # one that was away may have come back without its disk
                self._complete(one, name)
        for name in extra:
            if name in self._hosts:
                self._dropped(one, app, self._hosts[name], lease)
        return 0.0

    def _complete(self, one: Known, name: str) -> None:
        """Have a host that is to keep a snapshot keep all of it. Raises HostLost where it does not answer."""
        if name not in self._hosts:
            raise HostLost(f"host {name} does not answer")
        snapshots = _of(self._hosts[name])
        self._bring(one, lambda: snapshots.keep(one.app_id, one.id, one.digest), snapshots.put)

    def _copy(self, one: Known, app: App, host: Host, lease: Lease) -> None:
        snapshots = _of(host)
        self._bring(one, lambda: snapshots.keep(one.app_id, one.id, one.digest), snapshots.put)
        try:
            self._keeps(one, app, host, {}, lease)
        except (InsufficientBalance, BudgetExceeded):
            snapshots.drop(one.app_id, one.id)
            raise

    def _further(self, one: Known, specification: Mapping[str, Any]) -> Host | None:
        """A host that can keep a copy more: the one with the most room."""
        from rios.deploy.runtimes.protocol import Isolation

        wanted, found = specification["schedule"], list[tuple[int, str]]()
        for name, host in self._hosts.items():
            if name in one.hosts or host.snapshots is None:
                continue
            try:
                offer = host.offer()
            except HostLost:
                continue
            weak = offer.isolation < Isolation.named(wanted["isolation"])
            if not (offer.cordoned or weak or (wanted["region"] and offer.region != wanted["region"])):
                found.append((offer.total.disk_bytes, name))
        return self._hosts[max(found)[1]] if found else None

    def _bring(
        self,
        one: Known,
        ask: Callable[[], list[str]],
        put: Callable[[str, bytes], None],
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Give a host what it says that it is missing, until nothing is. check: raises where that is not wanted now."""
        for _ in range(_ROUNDS_MAX):
            missing = ask()
            if not missing:
                return
            for digest in missing:
                check()
                put(digest, self._from(one, digest))
        raise SandboxFailed(f"{one.id} is not complete after {_ROUNDS_MAX} rounds: its host loses what it is given")

    def _from(self, one: Known, digest: str) -> bytes:
        """An object of a snapshot from whichever host has it, verified."""
        why = []
        for name in one.hosts:
            host = self._hosts.get(name)
            if host is None or host.snapshots is None:
                why.append(f"{name} does not answer")
                continue
            try:
                data = host.snapshots.get(digest)
            except (HostLost, NotFound) as error:
                why.append(str(error))
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            why.append(f"{name} gives something else for {digest}")
        raise NotYet(f"{one.id} cannot be read: {'; '.join(why) or 'no host keeps it'}")

    # --- the end ---------------------------------------------------------------------------------------------

    def _let_go(self, one: Known, app: App, lease: Lease) -> float:
        """Have all hosts forget it that answer; and the row, once none is left."""
        homes = places.hosts_of(self._store, app.id, volumes=True) if not one.hosts else frozenset()
        for name in homes & self._hosts.keys():  # one that was being taken is there without a row
            if (snapshots := self._hosts[name].snapshots) is not None:
                snapshots.drop(one.app_id, one.id)
        left = [name for name in one.hosts if name not in self._hosts]
        for name in one.hosts:
            if name in self._hosts:
                self._dropped(one, app, self._hosts[name], lease)
        if left:
            return _AGAIN_S
        row = AppSnapshotRow

        def run(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            batch.connection.execute(delete(row).where(row.id == one.id, row.state == LEAVING))

        self._store.transact(run)
        return 0.0

    def _dropped(self, one: Known, app: App, host: Host, lease: Lease) -> None:
        snapshots = _of(host)
        snapshots.drop(one.app_id, one.id)
        room = self._rent().keeping(app, host.name, lambda: snapshots.room_bytes(app.id))
        copy = AppSnapshotCopyRow

        def run(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            batch.connection.execute(delete(copy).where(copy.snapshot_id == one.id, copy.host == host.name))
            room(batch)

        self._store.transact_whole(run)

    # --- restoring -------------------------------------------------------------------------------------------

    def unmade(self, app: App, specification: Mapping[str, Any], host: Host) -> Collection[str]:
        """Where volumes of a deployment are to be made out of snapshots on a host."""
        found = [path for path, _, _ in restored_from(specification)]
        return [path for path in found if not _of(host).is_made(app.organisation_id, app.id, path)]

    def restore(
        self, app: App, specification: Mapping[str, Any], host: Host, lease: Lease, *, check: Callable[[], None]
    ) -> None:
        """Make the volumes that begin with a snapshot, where they are not there. check: raises where it is to end.

        Raises NotFound where a snapshot is gone, SandboxFailed, and NotYet where no host that keeps it answers: the
        deployment says so.
        """
        try:
            self._restored(app, specification, host, check=check)
        except NotYet as error:
            why = f"it waits for a snapshot: {error}"

            def change(now: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
                require_leader(connection, *lease)
                return ({}, "", "") if now.reason == why else ({"reason": why}, EVENT, why)

            self._store.change(app.id, change, at=self._store.ledger.now())
            raise

    def _restored(self, app: App, specification: Mapping[str, Any], host: Host, *, check: Callable[[], None]) -> None:
        missing = self.unmade(app, specification, host)
        for path, name, size in restored_from(specification):
            if path not in missing:
                continue
            with self._store.ledger.database.reading() as connection:
                one = one_of(connection, app.organisation_id, name)
            if one is None or one.state == FAILED:
                raise NotFound(f"the snapshot {name}, which {path} is to begin with, was deleted")
            if one.state == WANTED:
                raise NotYet(f"{name} is not taken yet")
            snapshots = _of(host)

            def ask(path: str = path, size: int = size, one: Known = one, to: Snapshots = snapshots) -> list[str]:
                return to.restore(app.organisation_id, app.id, path, size_bytes=size, digest=one.digest)

            self._bring(one, ask, snapshots.put, check=check)


def _of(host: Host) -> Snapshots:
    if host.snapshots is None:
        raise InvalidRequest(f"host {host.name} makes no snapshots: what it runs has its volumes elsewhere")
    return host.snapshots
