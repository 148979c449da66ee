"""What ends is paid for: replicas that take their time, holds that ended before they were metered, empty accounts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.billing.ledger.values import HoldState
from rios.deploy.lifecycle import State
from rios.deploy.runtimes.protocol import Metrics
from rios.services.accounting import reconcile
from rios.services.books import LOCAL_USER
from rios.services.deployments.acting import Acting
from rios.services.deployments.hosts import Ended
from rios.services.deployments.service import Deployments
from rios.services.deployments.values import Replica, Step
from rios.words.errors import InsufficientBalance, SandboxFailed
from rios.words.keccak import keccak256
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_metering import HOUR, SECOND, Month
from tests.waiting import until

WAIT_S = 30.0
MEMORY = 64 << 20


class Stubborn(SimulatedHost):
    """A host whose replicas use all of their grace; the ledger's clock goes on by that."""

    def __init__(self, name: str, month: Month) -> None:
        super().__init__(name)
        self._month = month
        self.graces: list[float] = []
        self.hold_up: threading.Event | None = None

    def metrics(self, replica_id: str) -> Metrics:
        at = self._month.at / SECOND
        return Metrics(at=at, cpu_seconds=0.0, memory_bytes=1, memory_peak_bytes=1, pids=1, egress_bytes=0,
                       ingress_bytes=0)  # fmt: skip

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        if self.hold_up is not None:
            self.hold_up.wait(WAIT_S)
        self.graces.append(grace_s)
        self._month.at += round(grace_s * SECOND)
        return Ended(status=None, metrics=self.metrics(replica_id))


@pytest.fixture
def month(tmp_path: Path) -> Iterator[Month]:
    found = Month(tmp_path)
    found.metering.period_us, found.metering._held_us = 60 * SECOND, 120 * SECOND
    yield found
    found.ledger.close()


@pytest.fixture
def acting(month: Month) -> Iterator[Acting]:
    found = Acting(month.store, lambda: month.metering, lambda: month.secrets, None)
    yield found
    found.close()


def _app(month: Month, name: str, **fields: Any) -> Any:
    return month.deploy.create(name=name, command=["x"], resources={"cpu": 1, "memory": MEMORY}, **fields)


def _stopping(month: Month, app: Any, name: str) -> Replica:
    step = Step(month.replica(app, name), State.STOPPING, "fewer are wanted", changes={"ready_at": 0})
    month.store.write([step], at=month.at, lease=month.lease)
    return month.replica(app, name)


def _end(month: Month, acting: Acting, app: Any, one: Replica, host: SimulatedHost) -> None:
    acting.consider(
        app._app(), one, app.specification, host, status=None, lost=False, rotated=0, now=month.at, lease=month.lease
    )


def _until_ended(month: Month, app: Any, name: str) -> None:
    until(lambda: month.replica(app, name).ended_at, "its end", deadline_s=WAIT_S)


def _spend_all(month: Month) -> None:
    """Nothing more can be held."""
    rest = month.ledger.balance(LOCAL_USER).available_wei
    terms = month.charging.terms({"host-0": month.metering._hosts("host-0")})
    month.ledger.hold("rest", LOCAL_USER, rest, request_id="rest", terms=terms, expires_at=month.at + 1000 * HOUR)


def _memory_s(month: Month, name: str) -> float:
    return sum(one.quantity for one in month.ledger.usage(request_id=name) if one.resource == "memory") / MEMORY


def test_a_replica_is_metered_until_it_has_ended(month: Month, acting: Acting) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app, host = _app(month, "slow", grace=60), Stubborn("host-0", month)
    name, begun = month.begin(app), month.at
    month.at += 90 * SECOND  # its period was over some time ago
    _end(month, acting, app, _stopping(month, app, name), host)
    _until_ended(month, app, name)
    assert host.graces == [60.0]
    assert _memory_s(month, name) == pytest.approx((month.at - begun) / SECOND) == 150.0
    assert month.ledger.balance(LOCAL_USER).held_wei == 0


def test_without_money_it_has_the_time_that_is_held_for(month: Month, acting: Acting) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app, host = _app(month, "poor", grace=60), Stubborn("host-0", month)
    name, begun = month.begin(app), month.at
    _spend_all(month)
    month.at += 90 * SECOND
    _end(month, acting, app, _stopping(month, app, name), host)
    _until_ended(month, app, name)
    assert host.graces == [30.0]
    assert _memory_s(month, name) == (month.at - begun) / SECOND == 120.0, "all of it is paid"


@pytest.mark.parametrize("error", [SandboxFailed("the cluster does not answer"), OSError("no such device")])
def test_what_cannot_be_measured_ends_in_the_time_that_is_held_for(
    month: Month, acting: Acting, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app, host = _app(month, "blind", grace=60), Stubborn("host-0", month)
    name, real = month.begin(app), host.metrics

    def metrics(replica_id: str) -> Metrics:
        if not host.graces:
            raise error
        return real(replica_id)

    monkeypatch.setattr(host, "metrics", metrics)
    month.at += 90 * SECOND
    _end(month, acting, app, _stopping(month, app, name), host)
    _until_ended(month, app, name)
    assert host.graces == [30.0]


@pytest.fixture
def after_a_day(month: Month) -> tuple[Any, str]:
    """A deployment that nobody has metered for so long that what was held for it has come back; its replica."""
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app = _app(month, "forgotten")
    name = month.begin(app)
    month.at += 25 * HOUR
    assert [one.state for one in month.ledger.expire(month.at)] == [HoldState.EXPIRED]
    return app, name


def test_it_goes_on_after_a_day_without_anybody_who_meters(month: Month, after_a_day: tuple[Any, str]) -> None:
    app, name = after_a_day
    month.turn(app, name)
    assert _memory_s(month, name) == 120.0, "what was held for; the rest is the host's loss"
    month.at += 60 * SECOND
    month.turn(app, name)
    month.at += 30 * SECOND
    month.end(app, name)
    assert _memory_s(month, name) == 210.0
    usage = list(month.ledger.usage())
    assert app.cost == sum(one.amount_wei for one in usage)
    balance = month.ledger.balance(LOCAL_USER)
    assert (balance.held_wei, balance.available_wei) == (0, 10**24 - sum(one.amount_wei for one in usage))
    assert reconcile(month.ledger, None, keccak=keccak256).sound


def test_it_ends_after_a_day_without_anybody_who_meters(month: Month, after_a_day: tuple[Any, str]) -> None:
    app, name = after_a_day
    month.end(app, name)
    assert month.replica(app, name).ended_at
    assert _memory_s(month, name) == 120.0


def test_it_ends_also_where_there_is_no_money_for_what_it_used(month: Month, after_a_day: tuple[Any, str]) -> None:
    app, name = after_a_day
    _spend_all(month)
    with pytest.raises(InsufficientBalance):
        month.turn(app, name)
    month.end(app, name)
    assert month.replica(app, name).ended_at
    assert not list(month.ledger.usage())


def test_replicas_that_do_not_end_keep_no_other_owner_waiting(month: Month, acting: Acting) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    many, slow = _app(month, "many"), Stubborn("host-0", month)
    slow.hold_up = threading.Event()
    names = [month.begin(many) for _ in range(18)]
    other = Deployments(lambda: month, user_id=LOCAL_USER, organisation_id="other")  # type: ignore[arg-type,return-value]
    one = other.create(name="one", command=["x"], resources={"cpu": 1, "memory": MEMORY})
    mine, quick = month.begin(one), Stubborn("host-1", month)
    try:
        for name in names:
            _end(month, acting, many, _stopping(month, many, name), slow)
        _end(month, acting, one, _stopping(month, one, mine), quick)
        _until_ended(month, one, mine)
        assert not slow.graces, "none of the others has ended"
    finally:
        slow.hold_up.set()

    def ended() -> bool:
        left = month.store.replicas(many.id)
        for replica in left:  # as each pass does
            _end(month, acting, many, replica, slow)
        return not left

    until(ended, "the others end too", deadline_s=WAIT_S)
