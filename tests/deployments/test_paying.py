"""Who has no money pauses as a whole, goes on as a whole, and does not start and stop again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from rios.deploy.lifecycle import State
from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.books import LOCAL_USER
from rios.services.deployments.metering import Means
from rios.services.deployments.paying import Paying
from rios.services.deployments.placing import Pass, dearest
from rios.services.deployments.platform import Platform
from rios.services.deployments.scaling import Scalers
from rios.services.deployments.store import NotLeader
from rios.services.deployments.values import App, NewReplica, Step
from rios.services.purse import Purse
from rios.storage.deployment_models import AppLoadRow
from rios.storage.gateway_models import QuotaRow
from rios.storage.models import OrganisationRow, PersonRow
from rios.words.config import settings
from rios.words.errors import InsufficientBalance
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_many_hosts import RESOURCES, WAIT_S, platform, verbs
from tests.deployments.test_metering import SECOND, Month
from tests.deployments.test_rent import spend_all
from tests.waiting import until

SMALL = {"command": ["x"], "resources": {"cpu": 1, "memory": "64MiB"}}


@pytest.fixture
def month(tmp_path: Path) -> Iterator[Month]:
    found = Month(tmp_path)
    found.metering.period_us, found.metering._held_us = 60 * SECOND, 120 * SECOND
    yield found
    found.ledger.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, SimulatedHost, int]]:
    """A platform with one host, and what is held there for one replica."""
    place, host = tmp_path_factory.mktemp("paying"), SimulatedHost("host-0")
    with Purse(settings().model_copy(update={"home": place / "home"}), background=False) as purse:
        found = platform(purse, [host], place)
        app = verbs(found).create(name="one", command=["serve"], resources=RESOURCES).wait(timeout=WAIT_S)
        held_wei = purse.books.ledger.balance(LOCAL_USER).held_wei
        app.delete(timeout=WAIT_S)
        yield found, host, held_wei
        found.close()


def ros(wei: int) -> str:
    return f"{wei / 10**18:.18f} ROS"


def began_anew(app: Any) -> int:
    return sum("there is money again" in one.cause for one in app.events)


def test_what_cannot_be_paid_as_a_whole_does_not_start_and_stop(stage: tuple[Platform, SimulatedHost, int]) -> None:
    found, host, held_wei = stage
    before = host.started
    app = verbs(found).create(
        name="flap", command=["serve"], resources=RESOURCES, replicas=3, budget=ros(5 * held_wei // 2)
    )
    until(lambda: app.status == "paused" and not app.replicas, deadline_s=WAIT_S)
    assert "the budget of flap" in app.reason
    assert "when all 3 replicas can be held for, or those that it is scaled down to" in app.reason
    cost = app.cost
    time.sleep(5)  # it is looked at every two seconds
    assert (app.status, began_anew(app), app.cost) == ("paused", 0, cost)
    assert host.started - before <= 2
    app.scale(2)
    app.wait(timeout=WAIT_S)
    until(lambda: len(app.replicas) == 2, deadline_s=WAIT_S)
    app.scale(3)
    until(lambda: app.status == "paused", deadline_s=WAIT_S)
    app.update(budget="1 ROS")
    app.wait(timeout=10)
    assert began_anew(app) == 2
    app.delete(timeout=WAIT_S)


def test_a_users_own_budget_counts(stage: tuple[Platform, SimulatedHost, int]) -> None:
    found, host, held_wei = stage
    ledger, before = found.store.ledger, host.started
    spent_wei = ledger.spent(LOCAL_USER, "day", at=ledger.now())
    ledger.set_budget(LOCAL_USER, spent_wei + 5 * held_wei // 2, period="day")
    app = verbs(found).create(name="bound", command=["serve"], resources=RESOURCES, replicas=3)
    try:
        until(lambda: app.status == "paused" and not app.replicas, deadline_s=WAIT_S)
        time.sleep(5)
        assert (app.status, began_anew(app)) == ("paused", 0)
        assert host.started - before <= 2
    finally:
        ledger.set_budget(LOCAL_USER, None, period="day")
    app.wait(timeout=10)
    app.delete(timeout=WAIT_S)


def test_what_is_over_is_posted_before_the_next_is_held_for(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app = month.deploy.create(name="frugal", **SMALL)
    name = month.begin(app)
    held_wei = month.ledger.balance(LOCAL_USER).held_wei
    spend_all(month)
    month.ledger.deposit("some", LOCAL_USER, 9 * held_wei // 10)
    month.at += 60 * SECOND
    month.turn(app, name)
    assert month.replica(app, name).period == 2, "what comes back of the one pays for the other"
    used_wei = int(app.cost)
    assert 0 < used_wei < held_wei
    spend_all(month)
    month.at += 60 * SECOND
    with pytest.raises(InsufficientBalance):
        month.turn(app, name)
    assert (month.replica(app, name).period, int(app.cost)) == (2, used_wei), "both or none"


def test_what_there_is_for_more_replicas(month: Month) -> None:
    ledger, metering = month.ledger, month.metering
    ledger.deposit("first", LOCAL_USER, 10**18)
    app, other = (month.deploy.create(name=name, **SMALL) for name in ("mine", "other"))
    means = metering.means(app._app(), "host-0", app.specification)
    assert means.room_wei == 10**18
    assert 0 < means.period_wei < means.each_wei
    month.store.write(new=[NewReplica(other._app(), "r", "host-0", "chosen")], at=month.at, lease=month.lease)

    def room_wei(**changes: Any) -> int:
        others = metering.unheld_wei().get(LOCAL_USER, {}).items()
        besides_wei = sum(wei for name, wei in others if name != app.id)
        specification = {**app.specification, **changes}
        return metering.means(app._app(), "host-0", specification, besides_wei=besides_wei).room_wei

    assert room_wei() == 10**18 - means.each_wei, "another deployment is about to start one"
    assert room_wei(budget=5 * means.each_wei) == 5 * means.each_wei
    ledger.set_budget(LOCAL_USER, 4 * means.each_wei, period="day")
    assert room_wei(budget=5 * means.each_wei) == 3 * means.each_wei
    whose = {"id": "o", "name": "o", "operator": True, "created_at": 0}
    who = {"id": LOCAL_USER, "organisation_id": "o", "login": "ann", "name": "", "role": "admin", "created_at": 0}
    quota = {"user_id": LOCAL_USER, "spend_wei": 2 * means.each_wei}
    for table, row in ((OrganisationRow, whose), (PersonRow, who), (QuotaRow, quota)):
        month.store.transact(lambda batch, table=table, row=row: batch.connection.execute(insert(table), [row]))
    assert room_wei() == means.each_wei, "what an admin allows"
    dear = metering.means(app._app(), "host-2", app.specification)
    assert dear.each_wei > means.each_wei
    assert Means(29, 10, 5).replicas(held=1) == 2
    assert Means(-5, 10, 5).replicas() == 0


def offer(name: str, ask_bp: int, **more: Any) -> HostOffer:
    room = Amounts(cpu_milli=4000, memory_bytes=1 << 33, disk_bytes=1 << 33, replicas=9)
    return HostOffer(**{"name": name, "total": room, "isolation": 3, "ask_bp": ask_bp, "region": "eu", **more})


def test_the_dearest_host_is_one_that_it_may_go_to(month: Month) -> None:
    app = month.deploy.create(name="there", schedule={"region": "eu"}, **SMALL)
    hosts = [
        offer("cheap", 10_000), offer("dear", 12_000, used=Amounts(cpu_milli=4000)), offer("us", 20_000, region="us"),
        offer("small", 20_000, total=Amounts()), offer("away", 20_000, cordoned=True),
        offer("weak", 20_000, isolation=0), offer("named", 20_000, by_name=True),
    ]  # fmt: skip
    found = Pass(month.at, {one.name: one for one in hosts}, {}, {}, asked=True)
    assert dearest(found, app.specification, frozenset()) == "dear", "it may have room when it is needed"
    assert dearest(found, app.specification, frozenset({"cheap"})) == "cheap", "where its volumes lie"
    assert dearest(found, app.specification, frozenset({"lost"})) == "lost"
    del found.offers["cheap"], found.offers["dear"]
    assert dearest(found, app.specification, frozenset()) in found.offers, "why not is said when it is placed"
    found.offers.clear()
    assert dearest(found, app.specification, frozenset()) is None


class Purses:
    """Metering whose means are set by hand."""

    def __init__(self, room_wei: int) -> None:
        self.room_wei = room_wei

    def means(self, *_: object, besides_wei: int) -> Means:
        return Means(self.room_wei - besides_wei, 10, 5)

    def unheld_wei(self) -> dict[str, dict[str, int]]:
        return {}


def poor(month: Month, name: str, **fields: Any) -> Any:
    app = month.deploy.create(name=name, **SMALL, **fields)
    month.store.change(app.id, lambda *_: ({"paid": False, "state": "paused"}, "state", "out of money"), at=month.at)
    return app


def looked(month: Month, paying: Paying, *apps: Any) -> list[App]:
    """What becomes of deployments without money in a pass."""
    found = Pass(month.at, {"host": offer("host", 10_000)}, {}, {}, asked=True)
    return [paying.again(found, app._app(), app.specification) for app in apps]


def goes_on(month: Month, paying: Paying, *apps: Any) -> list[bool]:
    month.at += 3 * SECOND
    return [one.paid for one in looked(month, paying, *apps)]


def test_whoever_is_soon_without_money_again_waits_longer_or_for_more(month: Month) -> None:
    purses, app = Purses(39), poor(month, "three", replicas=3)
    paying: Any = Paying(month.store, lambda: purses)  # type: ignore[arg-type,return-value]
    purses.room_wei = 29
    assert goes_on(month, paying, app) == [False]
    purses.room_wei = 39
    assert goes_on(month, paying, app) == [True], "there is enough"
    tries = [goes_on(month, paying, app)[0] for _ in range(200)]  # ten minutes, and somebody else always takes it
    assert sum(tries) == 4
    while not goes_on(month, paying, app)[0]:
        pass
    assert goes_on(month, paying, app) == [False]
    purses.room_wei = 45
    assert goes_on(month, paying, app) == [True], "after a deposit at once"
    app.scale(2)
    assert goes_on(month, paying, app) == [True], "and with fewer"
    month.at += 601 * SECOND
    (then,) = looked(month, paying, app)
    assert (then.paid, then.since) == (True, month.at), "a revision that is not ready has its time from now on"
    paying.keep(set())
    assert not paying._tried


def test_two_that_one_user_pays_for_do_not_go_on_by_the_same_money(month: Month) -> None:
    paying: Any = Paying(month.store, lambda: Purses(35))  # type: ignore[arg-type,return-value]
    assert goes_on(month, paying, poor(month, "one", replicas=2), poor(month, "two", replicas=2)) == [True, False]
    assert goes_on(month, paying, poor(month, "three", replicas=2), poor(month, "four")) == [True, True]


def test_one_that_may_have_fewer_goes_on_with_as_many_as_there_is_money_for(month: Month) -> None:
    app = poor(month, "ranges", replicas=(1, 9), port=80)
    month.store.change(app.id, lambda *_: ({"replicas": 5}, "scaled", "1 -> 5"), at=month.at)
    paying: Any = Paying(month.store, lambda: Purses(47))  # type: ignore[arg-type,return-value]
    month.at += SECOND
    (then,) = looked(month, paying, app)
    assert (then.paid, then.replicas) == (True, 3), "which are paid for in the next period, too"
    idle = poor(month, "idle", replicas=(0, 9), port=80)
    month.store.change(idle.id, lambda *_: ({"replicas": 0}, "scaled", "1 -> 0"), at=month.at)
    few: Any = Paying(month.store, lambda: Purses(9))  # type: ignore[arg-type,return-value]
    assert goes_on(month, few, idle) == [False], "the one that would be woken"
    (then,) = looked(month, paying, idle)
    assert (then.paid, then.replicas) == (True, 0)


def test_a_further_replica_that_cannot_be_held_for_is_not_begun(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    paying = Paying(month.store, lambda: month.metering)
    grows = month.deploy.create(name="grows", replicas=(2, 5), port=80, **SMALL)
    fixed = month.deploy.create(name="fixed", replicas=3, **SMALL)
    month.store.change(grows.id, lambda *_: ({"replicas": 4}, "scaled", "2 -> 4"), at=month.at)
    for app in (grows, fixed):
        for _ in range(2):
            month.begin(app)
        for n in range(2):
            new = NewReplica(app._app(), f"{app.name}-{n}", "host-0", "chosen")
            month.store.write(new=[new], at=month.at, lease=month.lease)
    for _ in range(2):
        paying.unbegun(grows._app(), "another", "there is none", lease=month.lease)
    assert (grows._app().paid, grows._app().replicas) == (True, 2)
    assert str(grows.events[-1]) == "scaled: 4 -> 2: there is none"
    paying.unbegun(fixed._app(), "another", "there is none", lease=month.lease)
    assert (fixed._app().paid, fixed.status) == (False, "paused")
    # Where it is held for, and what lies there for it is not, it counts for nothing.
    alone = month.deploy.create(name="alone", **SMALL)
    paying.unbegun(alone._app(), month.begin(alone), "its volume", lease=month.lease)
    assert (alone._app().paid, alone.status) == (False, "paused")


def test_volumes_beside_an_archive_are_still_to_be_held_for(month: Month) -> None:
    app = month.deploy.create(name="beside", volumes={"/data": "1GiB"}, **SMALL)
    rent, now = month.metering.rent, app._app()
    owed = rent.owed_wei(now, "host-0", app.specification)
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    month.store.transact_whole(rent.keeping(now, "host-0", lambda: 1 << 20))
    assert rent.owed_wei(now, "host-0", app.specification) == owed > 0
    month.store.transact_whole(rent.taking(now, "host-0", app.specification))
    assert rent.owed_wei(now, "host-0", app.specification) == 0


def test_no_room_that_comes_while_its_deployment_ends_stays_held_for(
    month: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app, rent = month.deploy.create(name="ends", **SMALL)._app(), month.metering.rent
    month.store.transact_whole(rent.keeping(app, "host-0", lambda: 1 << 20))
    held_wei = month.ledger.balance(LOCAL_USER).held_wei
    with monkeypatch.context() as patch:
        patch.setattr(rent, "_rooms", lambda _: [])  # read before it came
        with pytest.raises(NotLeader, match="came to a host meanwhile"):
            rent.end(app, lambda _: None, lease=month.lease)
    assert month.ledger.balance(LOCAL_USER).held_wei == held_wei > 0
    rent.end(app, lambda _: None, lease=month.lease)
    assert month.ledger.balance(LOCAL_USER).held_wei == 0


def test_a_step_that_there_is_not_holds_up_no_other(month: Month) -> None:
    one, other = (month.deploy.create(name=name, **SMALL)._app() for name in ("one", "other"))
    wrong = Step(one, State.DEGRADED, "there is no such way", changes={})
    late = month.store.write([wrong, Step(other, State.FAILED, "so it is", changes={})], at=month.at, lease=month.lease)
    assert late == [wrong]
    assert [month.store.app(app.id).state for app in (one, other)] == [State.REQUESTED, State.FAILED]
    assert month.deploy.get("other").events[-1].cause == "so it is"


def test_a_job_that_ends_badly_while_it_pauses_holds_up_nothing(stage: tuple[Platform, SimulatedHost, int]) -> None:
    found, host, _ = stage
    app = verbs(found).create(name="job", command=["work"], resources=RESOURCES, restart="never")
    app.wait(timeout=WAIT_S)
    (one,) = app.replicas
    with host._lock:  # no pass sees the one without the other
        app.pause()
        host.running[one.id] = replace(host.running[one.id], state="exited", exit_code=1)
    until(lambda: app.status == "paused" and not app.replicas, deadline_s=WAIT_S)
    app.resume()
    app.wait(timeout=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_no_more_are_wanted_than_there_is_money_for(month: Month) -> None:
    app = month.deploy.create(name="busy", replicas=(1, 9), port=80, scale={"target": 1.0, "stabilise": 1.0}, **SMALL)
    row = {"app_id": app.id, "router": "r", "requests": 0, "running": 6, "waiting": 0}
    month.store.transact(lambda batch: batch.connection.execute(insert(AppLoadRow), [{**row, "at": month.at}]))
    scalers, asked = Scalers(month.store), list[int]()

    def wanted(now: App, most: int | None) -> tuple[int, str]:
        month.at += SECOND
        month.store.transact(lambda batch: batch.connection.execute(update(AppLoadRow).values(at=month.at)))

        def affords() -> int | None:
            asked.append(1)
            return most

        return scalers.wanted(now, app.specification, [], {}, paid=lambda: None, affords=affords, now=month.at)

    one = app._app()
    assert wanted(one, 3) == (3, "a load of 6, for 1 each; there is money for no more")
    assert wanted(one, None)[0] > 3
    three = replace(one, replicas=3)
    assert wanted(three, 3) == (3, "as it is")
    assert wanted(three, 2) == (2, "there is money for 2")
    assert wanted(three, 0) == (1, "there is money for 1"), "what has to run is paid for, or nothing is"
    assert len(asked) == 5
    scalers.close()
