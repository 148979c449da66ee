"""What is done about snapshots by whoever leads: they are taken, copied, dropped, and brought to where they are needed.

Each act may be cut off anywhere and is begun again from the tables. Chunks go by way of this process (`relaying`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, update

from rios.deploy.scheduling import admits
from rios.services.deployments import places
from rios.services.deployments.relaying import Relaying, snapshots_of
from rios.services.deployments.snapshots import (
    EVENT,
    FAILED,
    KEPT,
    LEAVING,
    WANTED,
    Known,
    by_id,
    copies,
    counted,
    due,
    is_archive,
    keepers,
    kept_on,
    note_paid,
    one_of,
    restored_from,
)
from rios.services.deployments.store import AppStore, Lease, NotLeader, NotYet, require_leader, write_event
from rios.services.reports import files as report_files
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
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.rent import Rent
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

_LOOK_S, _COUNT_S = 0.3, 5.0
_AGAIN_S, _NOWHERE_S = 5.0, 30.0
LOST_S = 600.0
"""A host that is not there for so long keeps nothing any more: another one gets a copy."""
STRAYS_S = 600.0
_ARRIVES_S = 120.0
"""An archive whose chunks are swept before it is kept is given again meanwhile by whoever deploys."""
_EXAMINED_S = 300.0
"""Copies that were not whole are read again after so long."""
_REASONS_MAX = 3
_QUOTAS_MAX = 2
"""A snapshot is paid for up to so many times its volume's quota: what begins each file in an archive is beyond it."""

Act = tuple[str, str, Callable[[], float | None]]
"""Whose share of threads it takes, what it is about, and what does it."""


class Snapshotting:
    """The acts about snapshots of one reconciler."""

    def __init__(self, store: AppStore, rent: Callable[[], Rent], closing: threading.Event) -> None:
        """closing: set when this process ends: acts are broken off then."""
        self._store, self._rent, self._closing = store, rent, closing
        self.relaying = Relaying(store, closing)
        self._looked_at = self._counted_at = 0.0
        self._hosts: Mapping[str, Host] = {}
        self._lease: Lease | None = None
        self._seen: dict[str, float] = {}
        """When hosts answered last in this term; those that have not, when they were first missed."""
        self._heard: set[str] = set()
        """Those that have."""
        self._cleared_at: dict[str, float] = {}
        self._whole: set[tuple[str, str]] = set()
        """Hosts and deployments whose copies were read since the host is back, and are not paid for yet."""

    def __repr__(self) -> str:
        return f"<Snapshotting on {len(self._hosts)} hosts>"

    def due(self, apps: Sequence[App], hosts: Mapping[str, Host], lease: Lease, *, lost_s: float) -> Iterator[Act]:
        """What is to be done, of what is looked up now and then. apps: all. hosts: those that answer.

        lost_s: a host that has not answered for so many seconds is lost, as replicas on it are.
        """
        now = time.monotonic()
        self._hosts = self.relaying.hosts = hosts
        if lease != self._lease:
            self._seen, self._heard = dict.fromkeys(keepers(self._store), now), set()
            self._lease = lease
        for name in hosts:
            if now - self._seen.get(name, now) > lost_s:  # it is back, with what was given up meanwhile
                self._cleared_at.pop(name, None)
        self._seen |= dict.fromkeys(hosts, now)
        self._heard |= hosts.keys()
        for name, host in hosts.items():
            if host.snapshots is not None and now - self._cleared_at.get(name, now - STRAYS_S) >= STRAYS_S:
                self._cleared_at[name] = now
                yield name, f"{name} strays", partial(self._clear_strays, host, lease, apps)
        if not apps or now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        counts = now - self._counted_at >= _COUNT_S
        if counts:
            self._counted_at = now
        found = due(self._store, self._lost(), all_kept=counts)
        known = {app.id: app for app in apps} if found or counts else {}
        if counts:
            yield from self._paid(known, lease, lost_s=lost_s)
        for one in found:
            if (app := known.get(one.app_id)) is not None:
                yield app.organisation_id, one.id, partial(self.act, one, app, lease)

    def _clear_strays(self, host: Host, lease: Lease, apps: Sequence[App]) -> None:
        """Have a host drop what it keeps of snapshots that no table knows, as where an act was cut off, and remove what
        was restored there for replicas that have been placed elsewhere. What is damaged of the others is mended; of
        reports that it does not have any more, as without the disk that it had, it counts as a keeper no longer."""
        snapshots = snapshots_of(host)
        whole = report_files.whole_on(self._store.ledger.database, host.name)  # before: what is whole is there by then
        there = snapshots.kept()
        known = by_id(self._store, [name for _, name in there])  # asked for after: what is there has its row by then
        reports = self._reports(host.name, [name for app_id, name in there if app_id == report_files.REPORTS], whole)
        for app_id, name in there:
            if name not in (reports if app_id == report_files.REPORTS else known):
                self.relaying.require(lease)
                snapshots.drop(app_id, name)
                log.info("a snapshot of no deployment was dropped", extra={"host": host.name, "snapshot": name})
        for left in places.elsewhere(self._store, host.name):
            for path, _, _ in restored_from(left.specification):
                if snapshots.is_made(left.organisation_id, left.app_id, path):
                    self.relaying.require(lease)
                    snapshots.unmake(left.organisation_id, left.app_id, path)
                    log.info("a restored volume was removed", extra={"host": host.name, "app": left.app_id})
        found = {app.id: app for app in apps}
        kept = [one for one in known.values() if one.state == KEPT]
        kept += [one.known(host.name) for one in reports.values()]
        for gone in self.relaying.mend(kept, host.name, lease):
            if gone.app_id == report_files.REPORTS:  # who has it in a folder gives it anew
                self._store.transact(partial(report_files.drop_all, one=reports[gone.id]))
            elif gone.app_id in found:
                known[gone.id] = self._failed(gone, found[gone.app_id], "no host can read it any more", lease)
            else:
                continue
            for name in gone.hosts:
                self._cleared_at.pop(name, None)
        for one in known.values():
            if one.state == FAILED and one.app_id in found:
                self._dropped(one, found[one.app_id], host, lease)

    def _reports(self, host: str, there: Sequence[str], whole: set[str]) -> dict[str, report_files.File]:
        """Those that a host is to keep of what is there of reports; of what was whole and is not, that is noted."""
        if gone := whole.difference(there):
            log.warning("a host has not what it kept", extra={"host": host, "reports": len(gone)})
            self._store.transact(partial(report_files.lacks, host=host, ids=gone))
        return report_files.kept_on(self._store.ledger.database, host, there)

    def settled(self, app: App, home: str) -> None:
        """The volumes of a deployment lie on a host from now on: others for which some were restored are looked at."""
        for name in places.hosts_of(self._store, app.id) - {home}:
            self._cleared_at.pop(name, None)

    def _lost(self) -> list[str]:
        """Hosts that have not answered for long; one that this process has never heard is given as long."""
        now = time.monotonic()
        return [name for name, at in self._seen.items() if now - at > LOST_S]

    def act(self, one: Known, app: App, lease: Lease) -> float:
        """Do what a snapshot asks for; for how many seconds nothing more is to be done."""
        if one.state == LEAVING:
            return self._let_go(one, app, lease)
        if one.state == WANTED:
            kept = self._arrived(one, app, lease) if is_archive(one) else self._taken(one, app, lease)
            if kept is None:
                return _AGAIN_S
            one = kept
        if one.state != KEPT:
            return 0.0
        return self._copied(one, app, self._store.specification(app.id, app.revision), lease)

    # --- who is paid -----------------------------------------------------------------------------------------

    def _paid(self, apps: Mapping[str, App], lease: Lease, *, lost_s: float) -> Iterator[Act]:
        """Have lost hosts be paid no more for the copies that they keep, and those that are back be paid again.

        One that has not answered in this term may be as busy coming back as whoever leads was: it is given longer.
        """
        now, at = time.monotonic(), self._store.ledger.now()
        away = {name: now - seen for name, seen in self._seen.items()}
        silent = {name: for_s for name, for_s in away.items() if for_s > (lost_s if name in self._heard else LOST_S)}
        for host, theirs in _by_host(apps, copies(self._store, paid=sorted(silent))).items():
            since = at - int(silent[host] * 1e6)
            yield host, f"{host} lost", partial(self._unpaid, host, theirs, since, lease)
        for host, theirs in _by_host(apps, copies(self._store)).items():
            if host in self._hosts:
                yield host, f"{host} back", partial(self._paid_again, host, theirs, lease)

    def _unpaid(self, host: str, apps: Sequence[App], since: int, lease: Lease) -> None:
        for app in apps:
            if self._closing.is_set():
                return
            self._whole.discard((host, app.id))
            also = partial(note_paid, app_id=app.id, host=host, paid=False)
            self._rent().lowered(app, host, lambda: 0, also, lease=lease, since=since)
            log.info("a lost host is not paid for copies", extra={"host": host, "app": app.id})

    def _paid_again(self, host: str, apps: Sequence[App], lease: Lease) -> float:
        """Look at what a host kept that was lost, and pay for it from now on; when to look again at what it lacks."""
        again_s = 0.0
        for app in apps:
            try:
                if (host, app.id) not in self._whole:
                    for one in kept_on(self._store, app.id, host):
                        self.relaying.verify(one, host, lease)
                    self._whole.add((host, app.id))
                also = partial(note_paid, app_id=app.id, host=host, paid=True)
                self._rent().returned(app, host, partial(self._room_bytes, host, app), also, lease=lease)
                self._whole.discard((host, app.id))
            except (InsufficientBalance, BudgetExceeded) as error:
                log.info("a host is not paid for copies", extra={"host": host, "app": app.id, "reason": str(error)})
                again_s = again_s or _NOWHERE_S
            except (InvalidRequest, NotFound, NotYet, SandboxFailed) as error:
                log.warning("a copy is not whole", extra={"host": host, "app": app.id, "reason": str(error)})
                again_s = _EXAMINED_S
        return again_s

    def _room_bytes(self, host: str, app: App, *, new: Known | None = None, gone: str = "") -> int:
        """What a host is paid for of a deployment's snapshots: those that it keeps, a new one, not one that is gone."""
        kept = {one.id: one for one in kept_on(self._store, app.id, host) if one.id != gone}
        if new is not None:
            kept[new.id] = new
        most_bytes = {path: _QUOTAS_MAX * size for path, size in self._rent().quotas(app.id).items()}
        return self.relaying.room_bytes(kept.values(), host, most_bytes)

    # --- archives --------------------------------------------------------------------------------------------

    def _arrived(self, one: Known, app: App, lease: Lease) -> Known | None:
        """An archive when the host that it was given to keeps it; or why not, and None where that may come yet."""
        (name,) = one.hosts
        host, age_s = self._hosts.get(name), (self._store.ledger.now() - one.created_at) / 1e6
        if host is None:
            gone = f"host {name}, to which it was given, does not answer"
            return self._failed(one, app, gone, lease) if age_s > LOST_S else None
        self.relaying.require(lease)
        try:
            if snapshots_of(host).keep(one.app_id, one.id, one.digest):
                gone = f"host {name} has not all of it"
                return self._failed(one, app, gone, lease) if age_s > _ARRIVES_S else None
            self._keeps(one, app, host, {"state": KEPT}, lease)
        except (InsufficientBalance, BudgetExceeded) as error:
            why = f"nobody is paid for keeping it: {error}"
            if one.reason != why:
                self._noted(one, app, {"reason": why}, lease)
            return None
        except (InvalidRequest, SandboxFailed) as error:
            return self._failed(one, app, str(error), lease)
        return self._read(one)

    # --- taking ----------------------------------------------------------------------------------------------

    def _taken(self, one: Known, app: App, lease: Lease) -> Known | None:
        """The snapshot when it was taken, or why that failed; None where its volume's host does not answer."""
        homes = places.hosts_of(self._store, app.id, volumes=True)
        if not homes:
            return self._failed(one, app, "no replica has been started yet, so there is no volume", lease)
        host = next((self._hosts[name] for name in sorted(homes) if name in self._hosts), None)
        if host is None:
            return None
        self.relaying.require(lease)
        try:
            snapshots = snapshots_of(host)
            with self.relaying.turn(host.name):
                taken = snapshots.take(one.organisation_id, one.app_id, one.path, one.id)
        except (HostLost, DeadlineExceeded, LedgerUnavailable, NetworkClosed, NotYet):  # to be asked for again
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
        except (InvalidRequest, SandboxFailed) as error:
            snapshots.drop(one.app_id, one.id)
            return self._failed(one, app, str(error), lease)
        return self._read(one)

    def _read(self, one: Known) -> Known:
        with self._store.ledger.database.reading() as connection:
            found = one_of(connection, one.organisation_id, one.id)
        if found is None:
            raise NotLeader(f"{one.id} was deleted meanwhile")
        return found

    def _keeps(self, one: Known, app: App, host: Host, columns: Mapping[str, Any], lease: Lease) -> None:
        """Write that a host keeps a snapshot, and that its room there is paid for from now on: both or none.

        Raises what `Relaying.shown` does where it does not.
        """
        new = replace(one, **columns)
        self.relaying.shown(new, host.name)
        room = self._rent().keeping(app, host.name, partial(self._room_bytes, host.name, app, new=new))
        at, row, copy = self._store.ledger.now(), AppSnapshotRow, AppSnapshotCopyRow

        def run(batch: Batch) -> None:
            connection = batch.connection
            require_leader(connection, *lease)
            mine = update(row).where(row.id == one.id, row.state == one.state)
            if connection.execute(mine.values(reason="", **columns)).rowcount != 1:
                raise NotLeader(f"{one.id} is no longer {one.state}")
            connection.execute(delete(copy).where(copy.snapshot_id == one.id, copy.host == host.name))
            connection.execute(insert(copy), [{"snapshot_id": one.id, "host": host.name}])
            counted(connection, one.id)
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
            if said := self._one_more(one, app, specification, lease):
                why = f"kept by {len(living)} of {one.copies} hosts: {said}"
                if one.reason != why:
                    self._noted(one, app, {"reason": why}, lease)
                return _NOWHERE_S
            one = self._read(one)
        homes = places.hosts_of(self._store, app.id, volumes=True)
        order = sorted(living, key=lambda name: (name not in homes, name))
        extra = order[one.copies :]
        if any(name in self._hosts for name in extra):
            for name in order[: one.copies]:  # one that was away may have come back without its disk
                self.relaying.complete(one, name, lease)
        for name in extra:
            if name in self._hosts:
                self._dropped(one, app, self._hosts[name], lease)
        return 0.0

    def _one_more(self, one: Known, app: App, specification: Mapping[str, Any], lease: Lease) -> str:
        """Have a host more keep a snapshot, the first that does; why none does, or nothing."""
        said: list[str] = []
        for host in self._further(one, specification):
            try:
                self._copy(one, app, host, lease)
            except (InsufficientBalance, BudgetExceeded, NotYet) as error:  # the same on every host
                return f"{host.name}: {error}"
            except (LedgerUnavailable, NetworkClosed, NotLeader):
                raise
            except RiosError as error:  # of that host alone
                said.append(f"{host.name}: {error}")
            else:
                return ""
        rest = f"; and {len(said) - _REASONS_MAX} more" if len(said) > _REASONS_MAX else ""
        return "; ".join(said[:_REASONS_MAX]) + rest or "no further one takes it"

    def _copy(self, one: Known, app: App, host: Host, lease: Lease) -> None:
        snapshots = snapshots_of(host)
        try:
            self.relaying.bring(one, lambda: snapshots.keep(one.app_id, one.id, one.digest), snapshots.put, lease)
            self._keeps(one, app, host, {}, lease)
        except (InsufficientBalance, BudgetExceeded, InvalidRequest, SandboxFailed):
            snapshots.drop(one.app_id, one.id)  # and with it what has come of it, which others may have room for
            raise

    def _further(self, one: Known, specification: Mapping[str, Any]) -> list[Host]:
        """Hosts that can keep a copy more, those with the most room first."""
        from rios.deploy.runtimes.protocol import Isolation

        wanted, found = specification["schedule"], list[tuple[int, str]]()
        for name, host in self._hosts.items():
            if name in one.hosts or host.snapshots is None:
                continue
            try:
                offer = host.offer()
            except HostLost:
                continue
            if admits(offer, isolation=Isolation.named(wanted["isolation"]), region=wanted["region"] or None):
                found.append((offer.total.disk_bytes, name))
        return [self._hosts[name] for _, name in sorted(found, reverse=True)]

    # --- the end ---------------------------------------------------------------------------------------------

    def _let_go(self, one: Known, app: App, lease: Lease) -> float:
        """Have all hosts forget it that answer; and the row, once none is left."""
        homes = places.hosts_of(self._store, app.id, volumes=True) if not one.hosts else frozenset()
        for name in homes & self._hosts.keys():  # one that was being taken is there without a row
            if (snapshots := self._hosts[name].snapshots) is not None:
                self.relaying.require(lease)
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
        """Have a host keep a snapshot no longer, and be paid for it no longer, also where there is no money."""
        snapshots = snapshots_of(host)
        self.relaying.require(lease)
        snapshots.drop(one.app_id, one.id)
        copy = AppSnapshotCopyRow

        def also(connection: Connection) -> None:
            connection.execute(delete(copy).where(copy.snapshot_id == one.id, copy.host == host.name))
            counted(connection, one.id)

        left = partial(self._room_bytes, host.name, app, gone=one.id)
        self._rent().lowered(app, host.name, left, also, lease=lease)


def _by_host(apps: Mapping[str, App], found: Collection[tuple[str, str]]) -> dict[str, list[App]]:
    """The deployments of each host."""
    hosts: dict[str, list[App]] = {}
    for app_id, host in found:
        if app_id in apps:
            hosts.setdefault(host, []).append(apps[app_id])
    return hosts
