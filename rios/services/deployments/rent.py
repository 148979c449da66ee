"""What volumes cost: the room that a deployment has on a host's disk, posted once, whoever of its replicas mounts it.

Snapshots of them are in it, by what they take of each host that keeps them.

A volume takes its room from the moment in which a replica with it is first started until its deployment is deleted:
also while that is paused, or has no replica, or is at a revision without it, to which it may go back. So each place of
volumes has periods of its own, held for and posted as those of replicas are. Where the next cannot be held for, nothing
is lost: the deployment pauses, and what the volumes cost meanwhile is posted when there is money, before anything else
of it starts. Snapshots come and go on hosts whether there is money or not (`lowered`, `returned`): what is gone costs
nothing more, and what it took until then is owed on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import literal_column, select, update

from rios.billing.ledger import holds, settling
from rios.billing.ledger.values import Wanted
from rios.billing.pricing import Host, Terms
from rios.billing.rating import Charge, rate, total_wei
from rios.billing.usage import resource_record
from rios.deploy.deciding import SECOND
from rios.services.accounting import pinned_terms
from rios.services.deployments import budgets, places
from rios.services.deployments.store import AppStore, Lease, NotLeader, require_leader
from rios.storage.deployment_models import AppPlaceRow, AppRow
from rios.words.errors import BudgetExceeded, InsufficientBalance

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.batch import Batch
    from rios.services.charging import Charging
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

SNAPSHOTS = "snapshots"
"""Among the sizes of what lies on a host: what snapshots take of it, each chunk once. No volume is called so."""

_OWED = "owed"
"""Beside the sizes: what was taken in earlier periods without money, in bytes times microseconds. Of any size."""
_PERIODS = 60
"""Of replicas in one of a volume, which changes seldom: an hour, so that a year is some thousand rows."""
_DUE_MAX = 200
_DAY = 86_400 * SECOND
"""After so long without anybody who meters, a hold ends by itself."""


@dataclass(frozen=True, slots=True)
class Room:
    """Volumes of a deployment on a host, and the accounting period that they are in; 0 before the first."""

    app_id: str
    host: str
    sizes: Mapping[str, int]
    """Quotas in bytes, by where they are mounted."""
    period: int
    period_at: int
    owed: int = 0
    """Bytes times microseconds of earlier periods, to be posted with this one."""

    @property
    def bytes_taken(self) -> int:
        """By all of them."""
        return sum(self.sizes.values())

    @property
    def hold_id(self) -> str:
        """The hold of its period."""
        return budgets.room_hold_id(self.app_id, self.host, self.period)


class Rent:
    """Holds for volumes and posts what they took."""

    def __init__(
        self,
        store: AppStore,
        charging: Charging,
        hosts: Callable[[str], Host],
        *,
        period_us: int,
        reserve_us: int,
    ) -> None:
        """hosts: who is paid for the host of a name, and what it asks. period_us: of replicas."""
        self._store = store
        self._charging = charging
        self._hosts = hosts
        self.period_us = _PERIODS * period_us
        self._held_us = self.period_us + reserve_us

    def __repr__(self) -> str:
        return f"<Rent every {self.period_us / SECOND:g} s>"

    def due(self) -> list[tuple[str, str]]:
        """Deployments and hosts whose volumes' next period is to be held for: the longest due first, some at a time."""
        row, before = AppPlaceRow, self._store.ledger.now() - self.period_us
        over = (row.period_at <= before) | row.sizes.contains(json.dumps(_OWED))
        wanted = (
            select(row.app_id, row.host)
            .join(AppRow, AppRow.id == row.app_id)
            .where(~row.ended, row.sizes != literal_column("''"), over)
            .order_by(AppRow.paid.desc(), row.period_at)  # those without money stay due, and hold nobody up
            .limit(_DUE_MAX)
        )
        with self._store.ledger.database.reading() as connection:
            return [(one[0], one[1]) for one in connection.execute(wanted)]

    def taking(
        self, app: App, host: str, specification: Mapping[str, object], *, since: int | None = None
    ) -> Callable[[Batch], None]:
        """What writes, in a transaction, that the volumes of a specification have room on a host from then on.

        It holds for their first period; where a quota has grown, it posts the one that was under way and holds for
        another. It raises InsufficientBalance, BudgetExceeded, and NotLeader where somebody did so meanwhile.

        since: that moment, in microseconds of UTC since 1970; now, where it is None.
        """
        room = self._room(app.id, host)
        sizes = dict(room.sizes)
        for path, size in sizes_of(specification).items():
            sizes[path] = max(size, sizes.get(path, 0))  # none is ever made smaller
        if room.period and sizes == room.sizes:
            return lambda _batch: None
        return self._turned(app, room, sizes, since=since)

    def keeping(self, app: App, host: str, room_bytes: Callable[[], int]) -> Callable[[Batch], None]:
        """What writes, in a transaction, that snapshots of a deployment take so much of a host from then on.

        They are held for and posted together with the volumes that it has there; it raises what `taking` does.
        """
        room = self._room(app.id, host)  # first: where it was written meanwhile, what was asked for below is too old
        sizes = _with_snapshots(room.sizes, room_bytes())
        if sizes == room.sizes:
            return lambda _batch: None
        run = self._turned(app, room, sizes)

        def write(batch: Batch) -> None:
            places.known(batch.connection, app.id, host)
            run(batch)

        return write

    def lowered(
        self,
        app: App,
        host: str,
        room_bytes: Callable[[], int],
        also: Callable[[Connection], None],
        *,
        lease: Lease,
        since: int | None = None,
    ) -> None:
        """Write, together with what `also` writes, that snapshots take no more of a host than so much from then on.

        As `end`, it does so in any case. Where there is no money for what was taken until then, that is owed on, and
        posted with the room's next period when there is.

        since: the moment from which on it takes no more, in microseconds of UTC since 1970; now, where it is None.
        """
        room = self._room(app.id, host)
        sizes = _with_snapshots(room.sizes, min(room_bytes(), room.sizes.get(SNAPSHOTS, 0)))
        self._changed(app, room, sizes, also, lease=lease, since=since)

    def returned(
        self, app: App, host: str, room_bytes: Callable[[], int], also: Callable[[Connection], None], *, lease: Lease
    ) -> None:
        """Write, together with what `also` writes, that snapshots take so much of a host from now on, which has kept
        them and was lost meanwhile.

        It does so in any case: where there is no money for it, it is owed, as that of volumes.
        """
        room = self._room(app.id, host)
        self._changed(app, room, _with_snapshots(room.sizes, room_bytes()), also, lease=lease)

    def quotas(self, app_id: str) -> dict[str, int]:
        """The quotas in bytes of all volumes that a deployment has anywhere, by where they are mounted."""
        found: dict[str, int] = {}
        for room in self._rooms(app_id):
            for path in room.sizes.keys() - {SNAPSHOTS}:
                found[path] = max(room.sizes[path], found.get(path, 0))
        return found

    def turn(self, app: App, host: str, lease: Lease) -> None:
        """Post the period that is over, and hold for the next: both or none.

        Raises InsufficientBalance, BudgetExceeded: what is owed is asked for again, and all of it then.
        """
        room = self._room(app.id, host)
        run = self._turned(app, room, room.sizes)

        def write(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            run(batch)

        self._store.transact_whole(write)

    def end(self, app: App, also: Callable[[Connection], None], *, lease: Lease, at: int | None = None) -> None:
        """Post what the volumes of a deleted deployment took up to a moment, together with what `also` writes.

        It ends in any case: where there is no money for what nobody held for, that is not posted.

        at: that moment, in microseconds of UTC since 1970; now, where it is None.
        """
        at = self._store.ledger.now() if at is None else at
        rooms = [(room, self._pinned(room)) for room in self._rooms(app.id) if room.period]

        def making(most_us: int | None) -> Callable[[Batch], None]:
            untils = [at if most_us is None else min(at, room.period_at + most_us) for room, _ in rooms]
            took = [
                (room, terms, self._charges(app, room, terms, until=until, owed=room.owed if most_us is None else 0))
                for (room, terms), until in zip(rooms, untils, strict=True)
            ]

            def run(batch: Batch) -> None:
                require_leader(batch.connection, *lease)
                row = AppPlaceRow
                there = set(batch.connection.scalars(select(row.host).where(row.app_id == app.id, row.period > 0)))
                if there != {room.host for room, _ in rooms}:  # its hold would be nobody's
                    raise NotLeader(f"something of {app.id} came to a host meanwhile")
                for room, terms, charges in took:
                    _write(batch, room, {"period": 0, "period_at": 0})
                    self._post(batch, app, room, charges, terms, at=at)
                also(batch.connection)

            return run

        self._in_any_case(making, lambda why: log.warning("what volumes took is not all paid for", extra=why), app)

    def owed_wei(self, app: App, host: str, specification: Mapping[str, object]) -> int:
        """What is to be paid or held for volumes before a replica of `app` can start on `host`, in wei."""
        now, owed = self._store.ledger.now(), 0
        rooms = self._rooms(app.id)
        for room in rooms:
            if room.period and (room.owed or now - room.period_at >= self.period_us):
                terms = self._pinned(room)
                hold = self._store.ledger.hold_of(room.hold_id)
                held = hold.amount_wei if hold is not None and hold.state in holds.LIVE else 0
                took = sum(charge.amount_wei for charge in self._charges(app, room, terms, until=now, owed=room.owed))
                owed += max(took - held, 0) + self._price(terms, room.host, room.sizes, self._held_us)
        there: dict[str, int] = {}
        for room in rooms:
            if room.period:
                there |= {path: max(size, there.get(path, 0)) for path, size in room.sizes.items()}
        wanted = sizes_of(specification).items()
        more = {path: size - there.get(path, 0) for path, size in wanted if size > there.get(path, 0)}
        return owed + (self._price(self._terms(app, host), host, more, self._held_us) if more else 0)

    def price(self, app: App) -> Callable[[int], int]:
        """What its volumes cost in wei for so many microseconds, at the prices of now."""
        rooms = [(self._terms(app, room.host), room) for room in self._rooms(app.id) if room.period]
        return lambda for_us: sum(self._price(terms, room.host, room.sizes, for_us) for terms, room in rooms)

    def _in_any_case(
        self, making: Callable[[int | None], Callable[[Batch], None]], say: Callable[[dict[str, str]], None], app: App
    ) -> None:
        """Write what is owed; where there is no money for it, what was held for; at last nothing of it.

        making: what writes so many microseconds of it at most, or all. say: told what there was no money for.
        """
        for most_us in (None, self._held_us, 0):
            try:
                self._store.transact_whole(making(most_us))
            except (InsufficientBalance, BudgetExceeded) as error:
                if not most_us and most_us is not None:
                    raise
                say({"app": app.id, "reason": str(error)})
            else:
                return

    def _changed(
        self,
        app: App,
        room: Room,
        sizes: Mapping[str, int],
        also: Callable[[Connection], None],
        *,
        lease: Lease,
        since: int | None = None,
    ) -> None:
        def making(most_us: int | None) -> Callable[[Batch], None]:
            turned = None if sizes == room.sizes else self._turned(app, room, sizes, since=since, most_us=most_us)

            def run(batch: Batch) -> None:
                require_leader(batch.connection, *lease)
                also(batch.connection)
                if turned is not None:
                    turned(batch)

            return run

        self._in_any_case(making, lambda why: log.info("what snapshots took is not all paid for", extra=why), app)

    # --- one period ------------------------------------------------------------------------------------------

    def _turned(
        self,
        app: App,
        room: Room,
        sizes: Mapping[str, int],
        *,
        since: int | None = None,
        most_us: int | None = None,
    ) -> Callable[[Batch], None]:
        """What ends a room's period at `since`, which is now without one, and begins the next with those sizes.

        most_us: of the period so much is posted, the rest is owed on, and nothing is held for the next.
        """
        at = self._store.ledger.now()
        since = max(at if since is None else since, room.period_at)
        until = since if most_us is None else min(since, room.period_at + most_us)
        owed = 0 if most_us is None or not room.period else room.owed + room.bytes_taken * (since - until)
        terms = self._terms(app, room.host)
        pinned = self._pinned(room) if room.period else None
        posted = room.owed if most_us is None else 0
        charges = () if pinned is None else self._charges(app, room, pinned, until=until, owed=posted)
        period = room.period + 1
        most = self._price(terms, room.host, sizes, self._held_us) if most_us is None else 0
        name = budgets.room_hold_id(app.id, room.host, period)
        wanted = Wanted(name, app.user_id, most, request_id=app.id, terms=terms)

        def run(batch: Batch) -> None:
            kept = {**sizes, **({_OWED: owed} if owed else {})}
            said = json.dumps(kept, sort_keys=True) if kept else ""
            _write(batch, room, {"sizes": said, "period": period, "period_at": since})
            if pinned is not None:
                self._post(batch, app, room, charges, pinned, at=at)
            holds.place(batch, wanted, at=at, expires_at=at + _DAY)

        return run

    def _post(self, batch: Batch, app: App, room: Room, charges: tuple[Charge, ...], terms: Terms, *, at: int) -> None:
        """Post what a room took, in the period that it is in, however long that was."""
        hold_id, total = room.hold_id, sum(charge.amount_wei for charge in charges)
        hold = holds.get(batch, hold_id)
        if charges and (hold["state"] not in holds.LIVE or total > hold["amount_wei"]):
            # Nobody metered it, or there was no money: the room was taken all the same.
            settling.settle(batch, hold_id, (), deployment=app.id, final=True, at=at)
            hold_id = f"{hold_id}:again"
            wanted = Wanted(hold_id, hold["user_id"], total, request_id=app.id, terms=terms)
            holds.place(batch, wanted, at=at, expires_at=at + _DAY)
        settled = settling.settle(batch, hold_id, charges, deployment=app.id, final=True, at=at)
        if settled.new:
            budgets.spend(batch.connection, app.id, settled.amount_wei, at=at)

    def _charges(self, app: App, room: Room, terms: Terms, *, until: int, owed: int) -> tuple[Charge, ...]:
        """What a room took in its period, and what is owed of earlier ones."""
        byte_us = owed + room.bytes_taken * max(until - room.period_at, 0)
        return self._rated(terms, app.id, app.name, room.host, byte_us, room.period)

    def _price(self, terms: Terms, host: str, sizes: Mapping[str, int], for_us: int) -> int:
        return total_wei(self._rated(terms, "highest", "", host, sum(sizes.values()) * for_us, 1))

    def _rated(self, terms: Terms, source: str, name: str, host: str, byte_us: int, period: int) -> tuple[Charge, ...]:
        byte_seconds = byte_us // SECOND
        if not byte_seconds:
            return ()
        who = terms.as_held(self._hosts(host))
        return (rate(resource_record(source, who, "storage", byte_seconds, period=period, model=name), terms),)

    def _pinned(self, room: Room) -> Terms:
        """Under which its period was held for."""
        return pinned_terms(self._store.ledger, room.hold_id)

    def _terms(self, app: App, host: str) -> Terms:
        return self._charging.terms({host: self._hosts(host)}, user=app.user_id)

    def _room(self, app_id: str, host: str) -> Room:
        found = next((room for room in self._rooms(app_id) if room.host == host), None)
        return found or Room(app_id, host, {}, 0, 0)

    def _rooms(self, app_id: str) -> list[Room]:
        row = AppPlaceRow
        mine = (row.app_id == app_id, row.volumes | (row.period > 0))
        wanted = select(row.host, row.sizes, row.period, row.period_at).where(*mine).order_by(row.host)
        with self._store.ledger.database.reading() as connection:
            return list(_read(app_id, connection.execute(wanted)))


def sizes_of(specification: Mapping[str, object]) -> dict[str, int]:
    """The quotas of a specification's volumes in bytes, by where they are mounted."""
    volumes = specification["volumes"]
    assert isinstance(volumes, Mapping)
    return {path: volume["size"] for path, volume in volumes.items()}


def _with_snapshots(sizes: Mapping[str, int], taken: int) -> dict[str, int]:
    """What lies on a host when snapshots take so many bytes of it."""
    found = {path: size for path, size in sizes.items() if path != SNAPSHOTS}
    return {**found, SNAPSHOTS: taken} if taken else found


def _read(app_id: str, rows: object) -> Iterator[Room]:
    for host, sizes, period, period_at in rows:  # type: ignore[attr-defined]
        known: dict[str, int] = json.loads(sizes) if sizes else {}
        owed = known.pop(_OWED, 0)
        yield Room(app_id, host, known, period, period_at, owed)


def _write(batch: Batch, room: Room, values: Mapping[str, object]) -> None:
    """Change the row of a room. Raises NotLeader where somebody else has posted its period meanwhile."""
    row = AppPlaceRow
    mine = (
        row.app_id == room.app_id, row.host == room.host, row.period == room.period, row.period_at == room.period_at
    )  # fmt: skip
    if batch.connection.execute(update(row).where(*mine).values(**values)).rowcount != 1:
        raise NotLeader(f"the volumes of {room.app_id} on {room.host} are no longer in period {room.period}")
