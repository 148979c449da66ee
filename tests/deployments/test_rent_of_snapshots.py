"""Hosts are paid for the snapshots that they keep, as long as they keep them; what nobody could pay is owed to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import delete, event, insert

from rios.billing.pricing import Host
from rios.services.books import LOCAL_USER
from rios.services.deployments import places, snapshots, snapshotting
from rios.services.deployments.metering import Metering
from rios.services.deployments.rent import SNAPSHOTS
from rios.services.owners import Owners
from rios.storage.deployment_models import AppSnapshotCopyRow, AppSnapshotRow
from rios.words.errors import InsufficientBalance
from rios.words.ids import Address
from tests.deployments.test_metering import EVERY_H, GIB, HOUR, OWNERS, SECOND, Month, month
from tests.deployments.test_rent import ROS, disk, room_usage, spend_all
from tests.storage.databases import KINDS, drop_database, new_tables

__all__ = ["month"]


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Month]:
    """As `month`, on each kind of database."""
    monkeypatch.setattr("rios.services.deployments.rent._PERIODS", 1)
    url = new_tables(request.param, tmp_path)
    found = Month(tmp_path, url)
    yield found
    found.ledger.close()
    drop_database(url)


def test_snapshots_are_paid_for_by_what_they_take_of_each_host(either: Month) -> None:
    rent = either.metering.rent
    either.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(either)
    one = either.begin(app)
    either.end(app, one)
    (home,) = {room.host for room in rent._rooms(app.id)}
    other = next(name for name in sorted(OWNERS) if name != home)

    def keeps(host: str, size: int) -> None:
        either.store.transact_whole(rent.keeping(app._app(), host, lambda: size))

    def sizes() -> dict[str, int]:
        return {room.host: sum(room.sizes.values()) // GIB for room in rent._rooms(app.id) if room.period}

    either.at += HOUR
    keeps(home, 2 * GIB)
    keeps(other, 3 * GIB)
    keeps(other, 3 * GIB)
    assert sizes() == {home: 16, other: 3}
    either.at += EVERY_H * HOUR
    either.turn_volumes()
    app.update(volumes={"/data": "20GiB"})
    either.end(app, either.begin(app))
    assert sizes() == {home: 23, other: 3}, "volumes that grow leave snapshots as they are"
    either.at += HOUR
    keeps(home, GIB)
    keeps(other, 0)
    either.at += 2 * EVERY_H * HOUR
    either.turn_volumes()
    keeps(other, GIB)
    either.at += HOUR
    either.delete(app)
    hours = {home: 14 + 16 * EVERY_H + 23 + 22 * (2 * EVERY_H + 1), other: 3 * (EVERY_H + 1) + 1}
    for host, wanted in hours.items():
        assert sum(one.quantity for one in room_usage(either, app) if one.worker == host) == wanted * 3600 * GIB, host
    assert either.ledger.balance(LOCAL_USER).held_wei == 0


def _snapshots(month: Month) -> tuple[Any, str, str]:
    """A deployment without replicas, the host with its 14 GiB of volumes and 2 GiB of snapshots, and one with 3 GiB."""
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(month)
    month.end(app, month.begin(app))
    (home,) = {room.host for room in month.metering.rent._rooms(app.id)}
    other = next(name for name in sorted(OWNERS) if name != home)
    for host, size in ((home, 2 * GIB), (other, 3 * GIB)):
        month.store.transact_whole(month.metering.rent.keeping(app._app(), host, lambda size=size: size))
    return app, home, other


def _lower(month: Month, app: Any, host: str, **more: Any) -> None:
    month.metering.rent.lowered(app._app(), host, lambda: 0, lambda _: None, lease=month.lease, **more)


def _took(month: Month, app: Any, host: str) -> int:
    return sum(one.quantity for one in room_usage(month, app) if one.worker == host)


def test_snapshots_that_are_deleted_without_money_cost_nothing_more(month: Month) -> None:
    app, home, other = _snapshots(month)
    spend_all(month)
    held_us = month.metering.rent._held_us
    month.at += 3 * EVERY_H * HOUR
    with pytest.raises(InsufficientBalance):
        month.turn_volumes()
    for host in (home, other, home):
        _lower(month, app, host)
    assert [room.sizes for room in month.metering.rent._rooms(app.id) if SNAPSHOTS in room.sizes] == []
    assert _took(month, app, other) == 3 * GIB * held_us // SECOND, "what was held"
    assert _took(month, app, home) == 16 * GIB * held_us // SECOND
    month.at += 10 * HOUR
    with pytest.raises(InsufficientBalance):
        month.turn_volumes()
    month.ledger.deposit("some", LOCAL_USER, 1000 * ROS)
    month.turn_volumes()
    hours = {home: 16 * 3 * EVERY_H + 14 * 10, other: 3 * 3 * EVERY_H}
    assert {host: _took(month, app, host) for host in hours} == {host: n * 3600 * GIB for host, n in hours.items()}
    assert month.metering.rent.due() == []
    month.at += HOUR
    month.delete(app)
    assert _took(month, app, home) == (hours[home] + 14) * 3600 * GIB
    assert _took(month, app, other) == hours[other] * 3600 * GIB


def test_a_lost_host_is_paid_for_copies_until_it_was_seen_last(either: Month) -> None:
    app, home, other = _snapshots(either)
    either.at += HOUR
    seen = either.at
    either.at += HOUR
    for host in (home, other):
        _lower(either, app, host, since=seen)
    either.at += HOUR
    either.store.transact_whole(either.metering.rent.keeping(app._app(), other, lambda: 3 * GIB))
    either.at += HOUR
    either.delete(app)
    assert _took(either, app, other) == 3 * 2 * 3600 * GIB
    assert _took(either, app, home) == (14 * 4 + 2) * 3600 * GIB
    assert either.ledger.balance(LOCAL_USER).held_wei == 0


def test_what_a_lost_host_kept_while_there_was_no_money_is_owed_to_it(month: Month) -> None:
    app, home, other = _snapshots(month)
    rent = month.metering.rent
    spent = spend_all(month)
    month.at += 3 * 24 * HOUR
    month.ledger.expire(month.at)
    spent += spend_all(month)
    seen = month.at
    month.at += HOUR
    _lower(month, app, other, since=seen)
    assert _kept_on(month, app) == [home]
    month.at += HOUR
    rent.returned(app._app(), other, lambda: 3 * GIB, lambda _: None, lease=month.lease)
    assert (_kept_on(month, app), _took(month, app, other)) == (sorted([home, other]), 0)
    assert (app.id, other) in rent.due()
    owed = rent.owed_wei(app._app(), home, app.specification)
    month.at += 2 * HOUR
    assert rent.owed_wei(app._app(), home, app.specification) > owed > 0
    month.ledger.deposit("some", LOCAL_USER, 1000 * ROS)
    month.turn_volumes()
    assert _took(month, app, other) == (3 * 24 + 2) * 3 * 3600 * GIB
    assert _took(month, app, home) == (3 * 24 + 4) * 16 * 3600 * GIB
    month.delete(app)
    assert month.ledger.balance(LOCAL_USER).held_wei == spent


def test_what_is_owed_fits_whatever_is_left_there(month: Month) -> None:
    app, _, other = _snapshots(month)
    rent = month.metering.rent
    month.store.transact_whole(rent.keeping(app._app(), other, lambda: 64 * GIB))
    spend_all(month)
    begun = month.at
    for size in (10_000, 10, 0):
        month.at += 30 * 24 * HOUR
        rent.lowered(app._app(), other, lambda size=size: size, lambda _: None, lease=month.lease)
    (room,) = [one for one in rent._rooms(app.id) if one.host == other]
    assert (room.sizes, room.period_at, room.owed > 2**63) == ({}, month.at, True)
    month.ledger.deposit("some", LOCAL_USER, 10**6 * ROS)
    month.turn_volumes()
    month.turn_volumes()
    took = _took(month, app, other)
    assert took == (64 * GIB + 10_000 + 10) * (month.at - begun) // 3 // SECOND


def _kept_on(month: Month, app: Any) -> list[str]:
    """The hosts that are paid for snapshots of a deployment."""
    return sorted(room.host for room in month.metering.rent._rooms(app.id) if SNAPSHOTS in room.sizes)


def _keep(month: Month, app: Any, kept: Mapping[str, Sequence[str]]) -> None:
    """Have it written that there are snapshots, by id, and the hosts that keep them."""
    rows = [
        {
            "id": name, "app_id": app.id, "organisation_id": "org", "path": "/data", "state": snapshots.KEPT,
            "reason": "", "digest": "", "size_bytes": 1, "quota_bytes": 0, "copies": 2, "created_by": "",
            "created_at": 1,
        }
        for name in kept
    ]  # fmt: skip
    copies = [{"snapshot_id": name, "host": host} for name, hosts in kept.items() for host in hosts]

    def write(batch: Any) -> None:
        batch.connection.execute(insert(AppSnapshotRow), rows)
        batch.connection.execute(insert(AppSnapshotCopyRow), copies)

    month.store.transact(write)


def test_a_host_that_is_not_back_yet_after_a_restart_is_paid_as_before(
    month: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, home, other = _snapshots(month)
    _keep(month, app, {"snap-1": (home, other)})
    month.at += EVERY_H * HOUR
    month.turn_volumes()
    wallet, clock = Address(f"0x{77:040x}"), [1000.0]
    owners = Owners(dict, wallet=lambda: wallet, before=partial(places.paid_before, month.store))
    metering = Metering(
        month.store, month.charging, lambda name: Host(name, owners.lasting(name), "cpu"), period_s=EVERY_H * 3600
    )
    monkeypatch.setattr(snapshotting, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    acts = snapshotting.Snapshotting(month.store, lambda: metering.rent, threading.Event())

    def look(after_s: float) -> list[str]:
        clock[0] += after_s
        month.at += int(after_s * SECOND)
        begun = [(what, act) for _, what, act in acts.due([app._app()], {}, month.lease, lost_s=4.0) if "lost" in what]
        for _, act in begun:
            act()
        return [what for what, _ in begun]

    assert (look(0.0), look(5.1)) == ([], []), "nobody has missed it for long"
    assert len(look(snapshotting.LOST_S)) == 2
    assert snapshots.copies(month.store, paid=[home, other]) == []
    month.at += EVERY_H * HOUR
    metering.rent.turn(app._app(), home, month.lease)
    metering.rent.end(app._app(), lambda _: None, lease=month.lease)
    rows = room_usage(month, app)
    asked = {host: 10_000 + 100 * int(host[-1]) for host in (home, other)}
    assert {(one.worker, one.owner) for one in rows} == {(host, OWNERS[host]) for host in asked}
    assert all(one.ask_bp == asked[one.worker] for one in rows if one.at < month.at), "as it asked when it was held for"
    assert owners.lasting("host-unknown") == wallet


def test_what_is_asked_of_the_database_about_snapshots_is_bounded(
    either: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _, _ = _snapshots(either)
    names, store = [f"snap-{n}" for n in range(7)], either.store
    _keep(either, app, {name: ("a", f"host-{n}") for n, name in enumerate(names)})
    monkeypatch.setattr(snapshots, "_AT_ONCE", 3)
    most: list[int] = []
    engine = either.ledger.database.engine
    event.listen(engine, "before_cursor_execute", lambda _a, _b, _c, values, *_: most.append(len(values)))
    assert snapshots.due(store, [], all_kept=True) == []
    lost = [f"host-{n}" for n in range(1, 5)]
    found = snapshots.due(store, lost, all_kept=True)
    assert [(one.id, one.hosts) for one in found] == [(f"snap-{n}", ("a", f"host-{n}")) for n in range(1, 5)]
    assert len(snapshots.due(store, ["a", *lost], all_kept=True)) == 7
    assert {*snapshots.by_id(store, [*names, "none"])} == {*names}
    assert [one.id for one in app.snapshots.list()] == names
    assert sorted(snapshots.keepers(store)) == ["a", *(f"host-{n}" for n in range(7))]
    assert snapshots.copies(store) == []
    assert snapshots.copies(store, paid=["a", "none", *lost]) == [(app.id, host) for host in ("a", *lost)]
    store.transact(lambda batch: snapshots.note_paid(batch.connection, app.id, "a", paid=False))
    assert snapshots.copies(store) == [(app.id, "a")]
    assert snapshots.copies(store, paid=["a", "none", *lost]) == [(app.id, host) for host in lost]
    assert 0 < max(most) <= 3 + 3


def test_a_snapshot_that_more_or_fewer_hosts_keep_than_are_to_is_looked_at(either: Month) -> None:
    app, _, _ = _snapshots(either)
    _keep(either, app, {"snap-0": ("a", "host-0"), "snap-1": ("a", "host-1")})
    copy = AppSnapshotCopyRow

    def changed(statement: Any) -> list[str]:
        def run(batch: Any) -> None:
            batch.connection.execute(statement)
            snapshots.counted(batch.connection, "snap-1")

        either.store.transact(run)
        return [one.id for one in snapshots.due(either.store, [], all_kept=True)]

    assert changed(delete(copy).where(copy.snapshot_id == "snap-1", copy.host == "a")) == ["snap-1"]
    assert changed(insert(copy).values(snapshot_id="snap-1", host="b")) == []
    assert changed(insert(copy).values(snapshot_id="snap-1", host="c")) == ["snap-1"]
    assert snapshots.due(either.store, ["c"], all_kept=True) == [], "who is lost does not count"
    assert snapshots.due(either.store, [], all_kept=False) == []


def test_what_is_looked_for_now_and_then_is_found_without_reading_all(month: Month) -> None:
    app, home, _ = _snapshots(month)
    _keep(month, app, {"snap-0": ("a", "host-0")})
    month.store.transact(lambda batch: places.known(batch.connection, app.id, "host-9"))
    asked: list[tuple[str, Any]] = []
    engine = month.ledger.database.engine
    event.listen(engine, "before_cursor_execute", lambda _a, _b, said, values, *_: asked.append((said, values)))
    assert snapshots.due(month.store, ["a"], all_kept=True)
    assert snapshots.copies(month.store, paid=["a"])
    assert not snapshots.copies(month.store)
    assert snapshots.kept_on(month.store, app.id, "a")
    assert snapshots.by_id(month.store, ["snap-0"])
    assert places.elsewhere(month.store, "host-9")
    month.at += 2 * EVERY_H * HOUR
    assert month.metering.rent.due()
    assert not places.left(month.store, [home, "host-9"])
    assert not places.is_any_left(month.store)
    looks = [one for one in asked if one[0].startswith("SELECT")]
    assert len(looks) > 8
    with engine.connect() as connection:
        plans = [
            (plan, said, values) for said, values in looks
            for *_, plan in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", values)
        ]  # fmt: skip
    # Nor by an index that all of them, or all that live, or all that are kept share.
    few = ("ix_app_places_ended", "ix_app_places_due")
    read = [one for one in plans if one[0].startswith("SCAN") and not one[0].endswith(few)]
    assert read + [one for one in plans if "ix_apps_ended_at" in one[0]] == []
    assert [one for one in plans if one[0].endswith("(state=?)") and snapshots.KEPT in one[2]] == []
