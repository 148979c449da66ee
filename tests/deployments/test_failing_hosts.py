"""Hosts on which nothing starts, and others beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.deciding import SECOND
from rios.deploy.runtimes.protocol import Status
from rios.deploy.scheduling import Amounts, HostOffer, Need, choose
from rios.services.deployments.hosts import Order
from rios.services.deployments.places import failing
from rios.services.deployments.platform import Platform
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import SandboxFailed
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_many_hosts import platform, verbs
from tests.waiting import until

WAIT_S = 60.0
FIELDS: dict[str, Any] = {"command": ["serve"], "resources": {"cpu": 1, "memory": "64MiB"}}


class Failing(SimulatedHost):
    """The cheapest of all. What is to be done on it fails."""

    def __init__(self, name: str, *, at: str = "start") -> None:
        super().__init__(name)
        self._offer = replace(self._offer, ask_bp=5_000)
        self._at = at
        self.tried: list[str] = []

    def pulls(self, *_: Any) -> bool:
        return self._at == "prepare"

    def prepare(self, *_: Any, **__: Any) -> None:
        self._fail("prepare")

    def start(self, order: Order) -> Status:
        self._fail("start")
        return super().start(order)

    def _fail(self, at: str) -> None:
        if at == self._at:
            self.tried.append(at)
            raise SandboxFailed(f"nothing can {at} on {self.name}")


Begin = Callable[..., Platform]


@pytest.fixture
def purse(tmp_path: Path) -> Iterator[Purse]:
    with Purse(settings().model_copy(update={"home": tmp_path / "home"}), background=False) as found:
        yield found


@pytest.fixture
def begin(purse: Purse, tmp_path: Path) -> Iterator[Begin]:
    begun = []

    def one(*hosts: SimulatedHost) -> Platform:
        begun.append(platform(purse, list(hosts), tmp_path))
        return begun[-1]

    yield one
    for found in begun:
        found.close()


@pytest.mark.parametrize("at", ["start", "prepare"])
def test_what_does_not_start_on_a_host_is_ready_on_another(begin: Begin, at: str) -> None:
    bad, good = Failing("bad", at=at), SimulatedHost("good")
    app = verbs(begin(bad, good)).create(name="web", replicas=2, schedule={"objective": "cost"}, **FIELDS)
    app.wait(timeout=WAIT_S)
    assert {one.host for one in app.replicas} == {"good"}
    assert 1 <= len(bad.tried) <= 2
    assert "good: 2 of 2 hosts have room; bad passed over, for its last start failed there; " in str(app.events)
    tried = len(bad.tried)
    app.update(env={"A": "1"})
    until(lambda: app.status == "ready" and app._app().settled_revision == 2, deadline_s=WAIT_S)
    assert len(bad.tried) > tried, "another revision may start there"
    assert {one.host for one in app.replicas} == {"good"}


def test_where_there_is_no_other_host_it_is_tried_there_again(begin: Begin) -> None:
    bad = Failing("bad")
    app = verbs(begin(bad)).create(name="web", **FIELDS)
    until(lambda: app.status == "failed", deadline_s=WAIT_S)
    assert len(bad.tried) == 5, "each replica once"
    said = str(app.events)
    assert "on each of them its last start failed" in said
    assert "3 in a row, the next in 2 s" in said


def test_whoever_leads_next_avoids_it_too(begin: Begin, purse: Purse) -> None:
    bad, good = Failing("bad"), SimulatedHost("good")
    first = begin(bad)
    app = verbs(first).create(name="web", **FIELDS)
    until(lambda: app._app().failures == 3, "it is written", deadline_s=WAIT_S)
    first.close()
    tried = len(bad.tried)
    app = verbs(begin(bad, good)).get("web")
    app.wait(timeout=WAIT_S)
    assert [one.host for one in app.replicas] == ["good"]
    assert len(bad.tried) == tried


def test_what_ends_by_itself_is_no_fault_of_its_host(begin: Begin) -> None:
    cheap, good = SimulatedHost("cheap"), SimulatedHost("good")
    cheap._offer = replace(cheap._offer, ask_bp=5_000)
    found = begin(cheap, good)
    app = verbs(found).create(name="web", **FIELDS)
    app.wait(timeout=WAIT_S)
    (one,) = app.replicas
    with cheap._lock:
        cheap.running[one.id] = replace(cheap.running[one.id], state="exited", exit_code=1)
    until(lambda: [r for r in app.replicas if r.id != one.id and r.ready_at], deadline_s=WAIT_S)
    assert {each.host for each in app.replicas} == {"cheap"}
    store = found.store
    assert failing(store, store.app(app.id), store.replicas(app.id), now=store.ledger.now()) == frozenset()


def test_it_is_avoided_for_the_longest_back_off(begin: Begin) -> None:
    found = begin(Failing("bad"), SimulatedHost("good"))
    app = verbs(found).create(name="web", **FIELDS)
    app.wait(timeout=WAIT_S)
    store = found.store
    until(lambda: all(one.ended_at for one in store.replicas(app.id, ended=True) if one.outcome), deadline_s=WAIT_S)
    (ended,) = [one for one in store.replicas(app.id, ended=True) if one.ended_at]
    row = store.app(app.id)
    assert failing(store, row, (), now=ended.ended_at + 59 * SECOND) == {"bad"}
    assert failing(store, row, (), now=ended.ended_at + 61 * SECOND) == frozenset()
    assert failing(store, replace(row, revision=2), (), now=ended.ended_at) == frozenset(), "another may start there"
    later = replace(ended, id="later", created_at=ended.created_at + 1, started_at=ended.created_at + 2, outcome="")
    assert failing(store, row, [later], now=ended.ended_at) == frozenset(), "what was started last was"


def test_replicas_with_volumes_stay_where_these_lie(begin: Begin) -> None:
    bad, good = Failing("bad"), SimulatedHost("good")
    app = verbs(begin(bad, good)).create(name="kept", volumes={"/data": "1MiB"}, **FIELDS)
    until(lambda: len(bad.tried) >= 2, deadline_s=WAIT_S)
    assert "passed over" not in str(app.events)
    assert not good.started


def test_the_choice_says_what_it_avoids() -> None:
    hosts = [HostOffer(name=f"h{n}", total=Amounts(replicas=1), ask_bp=1000 + n) for n in range(9)]
    need = Need(amounts=Amounts(replicas=1), objective="cost")
    assert choose(need, hosts, avoided={"h1"}).host == "h0"
    many = choose(need, hosts, avoided={f"h{n}" for n in range(8)})
    assert many.host == "h8"
    assert "9 of 9 hosts have room; h0, h1, h2, h3, h4 and 3 more passed over, for its last start" in many.reason
    every = choose(need, hosts, avoided={host.name for host in hosts})
    assert every.host == "h0"
    assert "on each of them its last start failed" in every.reason
