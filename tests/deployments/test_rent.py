"""Volumes are paid for as long as they lie there, once, whoever mounts them and whoever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rios.billing.ledger import holds
from rios.billing.ledger.values import Wanted
from rios.deploy.lifecycle import State
from rios.services.books import LOCAL_USER
from rios.services.deployments.platform import Platform
from rios.services.deployments.rent import Rent
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import NotLeader
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import InsufficientBalance
from tests.deployments.simulated_hosts import SimulatedHost, SimulatedHosts
from tests.deployments.test_many_hosts import verbs
from tests.deployments.test_metering import EVERY_H, GIB, HOUR, SECOND, Month, month
from tests.waiting import until

WAIT_S = 30.0
ROS = 10**18
__all__ = ["month"]


def disk(month: Month, **more: Any) -> Any:
    volumes = {"/data": "13GiB", "/more": "1GiB"}
    return month.deploy.create(name="disk", command=["x"], **{"replicas": 3, "volumes": volumes, **more})


def spend_all(month: Month) -> int:
    """Have all that is left set aside for something else; how much."""
    left = month.ledger.balance(LOCAL_USER).available_wei
    wanted = Wanted(f"else-{month.at}", LOCAL_USER, left, request_id="else", terms=month.charging.terms({}))
    month.store.transact(lambda batch: holds.place(batch, wanted, at=month.at, expires_at=10 * month.at))
    return left


def enough(month: Month, app: Any) -> bool:
    """Whether one replica could be held for beside what the volumes ask for."""
    means = month.metering.means(app._app(), "host-0", app.specification)
    return means.room_wei >= means.each_wei


def room_usage(month: Month, app: Any) -> list[Any]:
    return [one for one in month.ledger.usage(request_id=app.id) if one.resource == "storage"]


def test_room_is_paid_for_once_and_also_while_nothing_runs(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app, begun = disk(month), month.at
    names = [month.begin(app) for _ in range(3)]
    assert len({one.host for one in app.replicas}) == 1
    for hours in (EVERY_H, EVERY_H, 3):
        month.at += hours * HOUR
        month.turn_volumes()
    for name in names:  # it is paused
        month.end(app, name)
    for _ in range(4):
        month.at += EVERY_H * HOUR
        month.turn_volumes()
        month.turn_volumes()
    last = month.begin(app)
    month.at += HOUR
    month.end(app, last)
    month.delete(app)
    month.delete(app)
    assert not month.metering.rent._rooms(app.id)[0].period
    took = Fraction(14 * GIB * (month.at - begun), SECOND)
    assert sum(one.quantity for one in room_usage(month, app)) == took
    usage = list(month.ledger.usage())
    assert {one.resource for one in usage if one.request_id != app.id} == {"bytes", "cpu", "memory"}
    assert len(usage) == len({one.usage_id for one in usage})
    assert sum(one.amount_wei for one in usage) == int(app.cost)
    assert month.ledger.balance(LOCAL_USER).held_wei == 0


def test_a_period_is_posted_once_however_often_it_is_begun(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(month)
    month.begin(app)
    month.at += EVERY_H * HOUR
    rent, before = month.metering.rent, month.ledger.balance(LOCAL_USER)
    (room,) = rent._rooms(app.id)
    turned = rent._turned(app._app(), room, room.sizes)

    def killed(batch: Any) -> None:
        turned(batch)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        month.store.transact_whole(killed)
    assert (rent._rooms(app.id), month.ledger.balance(LOCAL_USER)) == ([room], before)
    month.turn_volumes()
    after = month.ledger.balance(LOCAL_USER)
    with pytest.raises(NotLeader, match="no longer in period 1"):
        month.store.transact_whole(turned)
    assert month.ledger.balance(LOCAL_USER) == after
    assert len(room_usage(month, app)) == 1


def test_a_larger_quota_is_paid_for_from_when_it_is_there_and_none_gets_smaller(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(month)
    month.begin(app)
    month.at += HOUR
    app.update(volumes={"/data": "20GiB"})
    month.begin(app)
    assert [one.quantity for one in room_usage(month, app)] == [14 * GIB * 3600]
    app.update(volumes={"/data": "2GiB"})
    month.begin(app)
    month.at += HOUR
    month.delete(app)
    assert [one.quantity for one in room_usage(month, app)] == [14 * GIB * 3600, 21 * GIB * 3600], "to go back to"


def test_what_lay_there_without_money_is_paid_when_there_is_some(month: Month) -> None:
    rent = month.metering.rent
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(month)
    one = month.begin(app)
    month.at += SECOND
    month.end(app, one)
    begun = rent._rooms(app.id)[0].period_at
    spend_all(month)
    for _ in range(10):
        month.at += EVERY_H * HOUR
        with pytest.raises(InsufficientBalance):
            month.turn_volumes()
    assert not room_usage(month, app)
    owed = rent.owed_wei(app._app(), "host-0", app.specification)
    assert not enough(month, app)
    month.ledger.deposit("some", LOCAL_USER, owed - 1)
    assert not enough(month, app)
    month.ledger.deposit("more", LOCAL_USER, ROS)
    assert enough(month, app)
    month.turn_volumes()
    (usage,) = room_usage(month, app)
    assert usage.quantity == 14 * GIB * (month.at - begun) // SECOND
    assert int(app.cost) >= usage.amount_wei > 0
    assert not month.metering.rent.due()


def test_a_deletion_without_money_posts_what_is_held(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    app = disk(month)
    one = month.begin(app)
    month.end(app, one)
    spend_all(month)
    month.at += 10 * EVERY_H * HOUR
    month.delete(app)
    (usage,) = room_usage(month, app)
    assert usage.quantity == 14 * GIB * (month.metering.rent._held_us // SECOND)
    assert month.ledger.balance(LOCAL_USER).available_wei == 0
    assert not month.metering.rent._rooms(app.id)[0].period


def test_a_budget_of_the_day_leaves_room_for_volumes(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 1000 * ROS)
    free = month.deploy.create(name="free", command=["x"], budget="5 ROS")
    kept = month.deploy.create(name="kept", command=["x"], budget="5 ROS", volumes={"/data": "20TiB"})
    month.begin(kept)
    without, beside = (month.metering.replicas_paid(one._app(), "host-0", one.specification) for one in (free, kept))
    assert without is not None
    assert beside is not None
    assert beside < without


class Kept:
    """A platform whose periods are seconds, and a host that runs nothing."""

    def __init__(self, home: Path) -> None:
        self.purse = Purse(settings().model_copy(update={"home": home / "home"}), background=False)
        self.host = SimulatedHost("host-0")
        self.platform = Platform(
            self.purse.charging, lambda _: SimulatedHosts([self.host]), lambda _name: self.purse.books.address,
            home=home, period_s=1, lease_s=2.0,
        )  # fmt: skip
        self.deploy: Deployments = verbs(self.platform)

    def rows(self, app: Any) -> list[Any]:
        return list(self.purse.books.ledger.usage(request_id=app.id))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr("rios.services.deployments.rent._PERIODS", 1)
    monkeypatch.setattr("rios.services.deployments.acting._VOLUMES_S", 0.1)
    found = Kept(tmp_path)
    yield found
    found.platform.close()
    found.purse.close()


def test_a_deployment_with_volumes_is_paid_for_from_its_first_start_to_its_deletion(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = kept.deploy.create(
        name="kept", command=["x"], replicas=2, volumes={"/data": "1GiB"}, resources={"cpu": 1, "memory": "64MiB"}
    )
    app.wait(timeout=WAIT_S)
    until(lambda: len(kept.rows(app)) >= 2, "periods are posted", deadline_s=WAIT_S)
    app.pause()
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    paused = len(kept.rows(app))
    until(lambda: len(kept.rows(app)) >= paused + 2, "also while it is paused", deadline_s=WAIT_S)
    app.resume()
    app.wait(timeout=WAIT_S)

    real, asked = Rent.turn, []

    def poor(*what: Any) -> None:
        asked.append(what)
        raise InsufficientBalance("nothing is left")

    monkeypatch.setattr(Rent, "turn", poor)
    until(lambda: "out of money: its volumes: nothing is left" in str(app.events), "it pauses", deadline_s=WAIT_S)
    until(lambda: app.status == "ready", "it goes on: there is money for all that it owes", deadline_s=WAIT_S)
    assert len(asked) == 1, "who has none is not asked all the time"
    monkeypatch.setattr(Rent, "turn", real)
    app.delete(timeout=WAIT_S)
    rows, now = kept.rows(app), app._app()
    began = min(event.at for event in app.events if event.state == State.STARTING and event.replica)
    took = sum(row.quantity for row in rows)
    assert {row.resource for row in rows} == {"storage"}
    lay = Fraction(GIB * (now.ended_at - began), SECOND)
    assert 0 <= lay - took < len(rows), "up to the deletion: of each period less than a byte-second is rounded away"
    assert kept.purse.books.ledger.balance(LOCAL_USER).held_wei == 0
    assert int(app.cost) == sum(row.amount_wei for row in kept.purse.books.ledger.usage() if row.deployment == app.id)
