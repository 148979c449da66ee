"""What applications use is held for, measured by the kernel, posted once, and paid to the owner of the host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from rios.billing.pricing import DEFAULT_BOOK
from rios.deploy.lifecycle import State
from rios.services.accounting import reconcile
from rios.services.books import LOCAL_USER
from rios.services.deployments import budgets
from rios.words.errors import InsufficientBalance
from rios.words.keccak import keccak256
from tests.deployments.stage import RESOURCES, Stage
from tests.deployments.test_traffic import load, ready
from tests.waiting import until

WAIT_S = 60.0
BUSY = "import signal, time\nwhile time.process_time() < 1.5: pass\nprint('done', flush=True)\nsignal.pause()"
"""It computes for so long, however busy the machine is, and nothing more after that."""


@pytest.fixture(scope="module")
def short() -> Iterator[Stage]:
    """A stage whose accounting periods are of 1 s."""
    with Stage(period_s=1) as found:
        yield found


def usage(stage: Stage, app: Any) -> list[Any]:
    """What was posted for all replicas of a deployment."""
    replicas = stage.platform.store.replicas(app.id, ended=True)
    return [one for replica in replicas for one in stage.ledger.usage(request_id=replica.id)]


@pytest.mark.needs("root")
def test_what_the_kernel_counted_is_what_is_paid(short: Stage) -> None:
    app = short.deploy.create(
        name="busy", command=["python3", "-c", BUSY], resources={"cpu": 1, "memory": "64MiB"}, grace=5
    )
    until(lambda: app.logs() == ["done"], "what it computes", deadline_s=WAIT_S)
    until(lambda: len({one.step for one in usage(short, app)}) >= 2, "several periods", deadline_s=WAIT_S)
    last = app.metrics()[0]["cpu_seconds"]
    app.pause()
    until(lambda: not app.replicas, "its end", deadline_s=WAIT_S)
    posted = usage(short, app)
    cpu_ns = sum(one.quantity for one in posted if one.resource == "cpu")
    assert cpu_ns / 1e9 >= last > 1.0, "all that was seen, and what came after"
    assert cpu_ns / 1e9 == pytest.approx(last, rel=0.01, abs=0.05)
    (replica,) = short.platform.store.replicas(app.id, ended=True)
    seconds = sum(one.quantity for one in posted if one.resource == "memory") / (64 << 20)
    lived = (replica.ended_at - replica.period_at) / 1e6
    assert 0 < seconds <= (replica.ended_at - replica.created_at) / 1e6
    assert seconds > lived
    assert sum(one.amount_wei for one in posted) == int(app.cost)
    app.delete()


def test_ninety_per_cent_are_the_hosts_owners_and_the_books_agree(short: Stage) -> None:
    app = short.deploy.create(name="owner", command=["sleep", "0.5"], restart="on-failure", resources=RESOURCES)
    app.wait("stopped", timeout=WAIT_S)
    posted = usage(short, app)
    assert {one.owner for one in posted} == {short.purse.books.address}
    assert all(abs(one.worker_wei - 9 * one.amount_wei / 10) <= 1 for one in posted)
    assert {one.deployment for one in posted} == {app.id}
    line = DEFAULT_BOOK.lines["memory"]
    memory = [one for one in posted if one.resource == "memory"]
    assert all(one.amount_wei == int(line.price(one.quantity)) for one in memory)
    app.delete()
    found = reconcile(short.ledger, None, keccak=keccak256)
    assert found.sound
    assert found.difference_wei == 0
    assert short.ledger.balance(LOCAL_USER).held_wei == 0


def test_without_money_it_pauses_and_with_a_deposit_it_goes_on(short: Stage) -> None:
    ledger = short.ledger
    app = short.web("poor", volumes={"/data": {"size": "2MiB"}})
    app.wait(timeout=WAIT_S)
    app.exec(["sh", "-c", "echo kept > /data/file"])
    before = usage(short, app)
    # All that is there is held by something else.
    from rios.services.accounting import pinned_terms

    replica = app.replicas[0]
    terms = pinned_terms(ledger, f"{replica.id}:{replica.period}")

    def held() -> bool:
        rest = ledger.balance(LOCAL_USER).available_wei
        try:
            ledger.hold("elsewhere", LOCAL_USER, rest, request_id="elsewhere", terms=terms)
        except InsufficientBalance:  # a period was posted in between
            return False
        return True

    until(held, deadline_s=WAIT_S)
    until(lambda: app.status == "paused", deadline_s=WAIT_S)
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    assert "out of money" in str(app.events)
    assert ledger.balance(LOCAL_USER).overdrawn_wei == 0
    posted = usage(short, app)
    assert len(posted) > len(before)
    used = sum(one.quantity for one in posted if one.resource == "memory") / (64 << 20)
    replicas = short.platform.store.replicas(app.id, ended=True)
    paused = next(one.at for one in app.events if one.cause.startswith("out of money"))
    assert used >= (paused - replicas[-1].started_at) / 1e6 - 0.001, "also after its last period it is paid for"
    assert used <= sum((one.ended_at - one.created_at) / 1e6 for one in replicas)
    ledger.deposit("some", LOCAL_USER, 10**18)
    app.wait(timeout=WAIT_S)
    assert app.exec(["cat", "/data/file"]).stdout == b"kept\n", "nothing is lost"
    assert any(one.cause == "there is money again" for one in app.events)
    app.delete()
    ledger.release("elsewhere")
    assert ledger.balance(LOCAL_USER).held_wei == 0
    assert reconcile(ledger, None, keccak=keccak256).sound


def test_who_has_nothing_starts_nothing(short: Stage) -> None:
    ledger = short.ledger
    ledger.set_budget(LOCAL_USER, 1, period="day")
    try:
        app = short.deploy.create(name="none", command=["sleep", "9"], resources=RESOURCES, grace=1)
        # Whether there is money again is tried now and then: for a moment it is scheduled, without a reason.
        until(lambda: "budget" in app.reason and app.status == "paused", deadline_s=WAIT_S)
        assert not [one for one in app.replicas if one.state is State.READY]
    finally:
        ledger.set_budget(LOCAL_USER, None, period="day")
    app.wait(timeout=WAIT_S)
    app.delete()


@pytest.mark.needs("root")
def test_a_budget_of_its_own_bounds_its_replicas_and_pauses_it(short: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_DAY_US", 2 * 86_400 * 10**6)  # so that a day is left, whenever it is
    metering = short.platform._metering
    app = short.web("thrifty", replicas=(1, 3), scale={"target": 2.0, "stabilise": 1.0}, budget="1 ROS")
    app.wait(timeout=WAIT_S)
    host, specification = app.replicas[0].host, app.specification
    terms = metering._charging.terms({host: metering._hosts(host)})
    held_wei = metering._most(terms, host, specification, metering._held_us)
    assert held_wei * 10 < 10**18
    app.update(budget=f"{(6 * held_wei + int(app.cost)) / 10**18:.18f} ROS")
    app.wait(timeout=WAIT_S)
    with load(f"{app.url}/slow?0.2", 6) as found:
        until(lambda: found.good() > 60, deadline_s=WAIT_S)
        assert app._app().replicas == 1, "six holds are paid for, and two replicas for the rest of the day are not"
        app.update(budget="9 ROS")
        until(ready(app, 3), deadline_s=WAIT_S)
    before = app.cost
    app.update(budget=f"{(held_wei + int(before)) / 10**18:.18f} ROS", replicas=1)
    until(lambda: app.status == "paused" and not app.replicas, deadline_s=WAIT_S)
    assert "the budget of thrifty" in app.reason
    assert app.cost >= before
    time.sleep(2.5)
    assert app.status == "paused", "it is not begun again and again"
    app.update(budget=None)
    app.wait(timeout=WAIT_S)
    app.delete()
    assert reconcile(short.ledger, None, keccak=keccak256).sound


def test_days_are_counted_apart(short: Stage) -> None:
    app = short.deploy.create(name="days", command=["sleep", "0.1"], restart="never", resources=RESOURCES)
    app.wait("stopped", timeout=WAIT_S)
    day, cost = 86_400 * 10**6, int(app.cost)
    noon = short.ledger.now() // day * day + day // 2 + day

    def run(connection: Any) -> list[int]:
        budgets.spend(connection, app.id, 5, at=noon)
        budgets.spend(connection, app.id, 2, at=noon + 9)
        found = [budgets.spent_today_wei(connection, app.id, at=at) for at in (noon + 10, noon + day)]
        budgets.spend(connection, app.id, 3, at=noon + day)
        return [*found, budgets.spent_today_wei(connection, app.id, at=noon + day)]

    assert short.platform.store.transact(lambda batch: run(batch.connection)) == [7, 0, 3]
    assert int(app.cost) == cost + 10
    app.delete()
