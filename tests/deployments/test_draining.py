"""A replica that leaves answers what it has in its hands, by whichever gateway it came."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rios.services.deployments.platform import Platform
from rios.services.deployments.routing import Endpoint, Routes
from rios.services.purse import Purse
from rios.storage.deployment_models import LeaseRow
from rios.words.config import settings
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_many_hosts import RESOURCES, WAIT_S, platform, verbs
from tests.waiting import until

LONGER_S = 1.0
"""No gateway needs so long to read that a replica leaves."""


@pytest.fixture
def purse(tmp_path: Path) -> Iterator[Purse]:
    with Purse(settings().model_copy(update={"home": tmp_path / "home"}), background=False) as found:
        yield found


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost("host-0")


@pytest.fixture
def here(purse: Purse, host: SimulatedHost, tmp_path: Path) -> Iterator[Platform]:
    found = platform(purse, [host], tmp_path)
    yield found
    found.close()


@pytest.fixture
def other(here: Platform) -> Iterator[Routes]:
    """The routes of another gateway of the network."""
    found = Routes(here.store, lambda _host, _replica, address: address)
    yield found
    found.close()


def web(here: Platform) -> Any:
    app = verbs(here).create(name="web", command=["serve"], resources=RESOURCES, replicas=1, grace=30)
    app.wait(timeout=WAIT_S)
    return app


def taken(routes: Routes, app: Any) -> Endpoint:
    """A request that came to a gateway and is in the replica's hands."""

    def take() -> Endpoint | None:
        route = routes.of(app.id)
        return None if route is None else routes.take(route)

    return until(take, "there is a replica to send to", deadline_s=WAIT_S)


def rows(here: Platform) -> set[str]:
    """The names of the routers that say that they are alive."""
    with here.store.ledger.database.reading() as connection:
        return set(connection.scalars(select(LeaseRow.name).where(LeaseRow.name.startswith("router-"))))


def stop_saying(routes: Routes) -> None:
    """The gateway's process is frozen, or gone without a word."""
    routes._stop.set()
    routes._thread.join(WAIT_S)


def test_what_another_gateway_has_in_a_replicas_hands_is_waited_for(
    here: Platform, other: Routes, host: SimulatedHost
) -> None:
    app = web(here)
    endpoint = taken(other, app)
    app.scale(0)
    until(lambda: other.is_leaving(endpoint.replica_id), "it leaves", deadline_s=WAIT_S)
    time.sleep(LONGER_S)
    assert host.running, "the request of the other gateway is not answered yet"
    other.give_back(endpoint, good=True)
    begun = time.monotonic()
    until(lambda: not host.running, "nothing is in its hands", deadline_s=WAIT_S)
    assert time.monotonic() - begun < 30.0, "it ends by that, and not because its grace is over"
    app.delete()


def test_a_gateway_that_has_not_read_yet_may_still_send(here: Platform, other: Routes, host: SimulatedHost) -> None:
    app = web(here)
    endpoint = taken(other, app)
    other.give_back(endpoint, good=True)
    stop_saying(other)
    app.scale(0)
    until(lambda: here.routes.is_leaving(endpoint.replica_id), "it leaves", deadline_s=WAIT_S)
    time.sleep(LONGER_S)
    assert host.running, "the other gateway, which is idle, does not know yet"
    late = taken(other, app)
    other.refresh()
    other._say()
    time.sleep(LONGER_S)
    assert host.running, "it knows, and has sent a request before"
    other.give_back(late, good=True)
    other._say()
    until(lambda: not host.running, "the other gateway knows, and has nothing there", deadline_s=WAIT_S)
    app.delete()


def test_a_gateway_that_is_gone_is_not_waited_for(
    here: Platform, other: Routes, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rios.services.deployments.routers.DEAD_S", 2.5)
    app = web(here)
    taken(other, app)
    stop_saying(other)
    assert other.router in rows(here)
    begun = time.monotonic()
    app.scale(0)
    until(lambda: not host.running, "its row does not change any more", deadline_s=WAIT_S)
    assert time.monotonic() - begun < 30.0, "its grace is not over"
    assert other.router not in rows(here), "and the next one that ends does not wait for it"
    app.delete()


def test_who_leaves_says_so_and_who_is_alone_says_nothing(here: Platform, other: Routes) -> None:
    app = web(here)
    taken(other, app)
    assert other.router in rows(here)
    other.close()
    assert other.router not in rows(here)
    alone = Routes(here.store, lambda _host, _replica, address: address, alone=True)
    taken(alone, app)
    assert alone.router not in rows(here)
    alone.close()
    app.delete()
