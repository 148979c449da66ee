"""Where replicas with volumes go, and hosts that do not answer while a deployment is deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from rios.deploy.lifecycle import State
from rios.services.deployments.places import hosts_of, is_any_left, settle
from rios.services.lazy import Lazy
from rios.services.network import _go_on
from rios.services.purse import Purse
from rios.storage.deployment_models import AppPlaceRow
from rios.words.config import settings
from rios.words.errors import HostLost, InvalidRequest, NotFound
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_many_hosts import platform, verbs
from tests.waiting import until

WAIT_S = 30.0
FIELDS: dict[str, Any] = {"command": ["serve"], "resources": {"cpu": 1, "memory": "64MiB"}}


class Forgetting(SimulatedHost):
    """A host that keeps which deployments it was told to forget, which may be told again while that is written."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.forgot: list[str] = []

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        self._here()
        assert organisation_id
        assert specification["name"]
        self.forgot.append(app_id)


class Two:
    """Two hosts, and what is deployed on them."""

    def __init__(self, purse: Purse, home: Path) -> None:
        self.purse = purse
        self.hosts = {name: Forgetting(name) for name in ("a", "b")}
        self.platform = platform(purse, list(self.hosts.values()), home)
        self.deploy = verbs(self.platform)

    def on(self, app: Any) -> set[str]:
        return {one.host for one in app.replicas}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    monkeypatch.setattr("rios.services.deployments.reconciler.HOST_LOST_S", 0.5)
    monkeypatch.setattr("rios.services.deployments.reconciler._ORPHANS_S", 0.5)
    monkeypatch.setattr("rios.services.deployments.acting._LEFT_S", 0.2)
    with Purse(settings().model_copy(update={"home": tmp_path / "home"}), background=False) as purse:
        found = Two(purse, tmp_path)
        yield found
        found.platform.close()


def _renewed(app: Any, before: set[str], count: int = 1) -> None:
    def done() -> bool:
        now = {one.id for one in app.replicas}
        return len(now) == count and not now & before

    until(done, "other replicas", deadline_s=WAIT_S)
    app.wait(timeout=WAIT_S)


def test_a_replica_is_replaced_where_its_volume_lies(two: Two) -> None:
    app = two.deploy.create(name="kept", volumes={"/data": "1MiB"}, **FIELDS)
    app.wait(timeout=WAIT_S)
    (home,) = two.on(app)
    for change in (app.restart, lambda: app.update(env={"A": "1"}), app.restart):
        before = {one.id for one in app.replicas}
        change()
        _renewed(app, before)
        assert two.on(app) == {home}
    app.scale(3)
    until(lambda: len(app.replicas) == 3, deadline_s=WAIT_S)
    assert two.on(app) == {home}, "they share it"
    app.scale(1)
    until(lambda: len(app.replicas) == 1, deadline_s=WAIT_S)
    two.hosts[home].gone = True
    until(lambda: f"its volumes are on {home}" in app.reason, "it says what it waits for", deadline_s=WAIT_S)
    assert not two.on(app) - {home}, "an empty volume elsewhere is none"
    two.hosts[home].gone = False
    until(lambda: app.status == "ready", "it goes on", deadline_s=WAIT_S)
    assert two.on(app) == {home}


def test_replicas_of_one_pass_share_a_volume_and_those_without_any_spread(two: Two) -> None:
    shared = two.deploy.create(name="shared", volumes={"/data": "1MiB"}, replicas=3, **FIELDS)
    spread = two.deploy.create(name="spread", replicas=2, **FIELDS)
    for app in (shared, spread):
        app.wait(timeout=WAIT_S)
    assert len(two.on(shared)) == 1
    assert two.on(spread) == {"a", "b"}


def test_a_command_runs_in_a_replica_that_is_there(two: Two) -> None:
    app = two.deploy.create(name="asked", replicas=2, **FIELDS)
    app.wait(timeout=WAIT_S)
    first, second = app.replicas
    two.hosts[first.host].running.pop(first.id)  # which the tables do not know yet
    assert app.exec(["x"]).stdout != first.id.encode()
    assert app.exec(["x"], replica=second.id).stdout == second.id.encode()
    with pytest.raises(NotFound, match=f"no running replica {first.id}"):
        app.exec(["x"], replica=first.id)
    app.delete(timeout=WAIT_S)


def test_replicas_that_share_a_volume_take_its_disk_once(two: Two) -> None:
    app = two.deploy.create(name="large", volumes={"/data": "600GiB"}, replicas=2, **FIELDS)
    app.wait(timeout=WAIT_S)
    (home,) = two.on(app)
    app.scale(3)
    until(lambda: len(app.replicas) == 3, deadline_s=WAIT_S)
    assert two.on(app) == {home}, "of the 1024 GiB that it has"
    others = [two.deploy.create(name=f"o{n}", volumes={"/data": "600GiB"}, **FIELDS) for n in range(2)]
    others[0].wait(timeout=WAIT_S)
    assert two.on(others[0]).isdisjoint({home})
    until(lambda: "of 600 GiB" in others[1].reason, "there is no more", deadline_s=WAIT_S)


def test_a_volume_is_nowhere_before_what_it_stands_on_is_there(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[str] = []

    def prepare(host: Forgetting) -> None:
        first.append(host.name)
        if host.name == first[0]:
            host.gone = True
            raise HostLost("it goes down while it fetches")

    for host in two.hosts.values():
        monkeypatch.setattr(host, "pulls", lambda *_: True)
        monkeypatch.setattr(host, "prepare", lambda *_, host=host: prepare(host))
    app = two.deploy.create(name="late", volumes={"/data": "1MiB"}, **FIELDS)
    app.wait(timeout=WAIT_S)
    (other,) = two.hosts.keys() - {first[0]}
    assert two.on(app) == {other} == hosts_of(two.platform.store, app.id, volumes=True)


def test_who_is_about_to_begin_decides_for_the_others(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = threading.Event()
    for host in two.hosts.values():
        monkeypatch.setattr(host, "pulls", lambda *_: True)
        monkeypatch.setattr(host, "prepare", lambda *_: fetched.wait(WAIT_S))
    app = two.deploy.create(name="slow", volumes={"/data": "1MiB"}, **FIELDS)
    try:
        until(lambda: [one.state for one in app.replicas] == [State.PULLING], deadline_s=WAIT_S)
        app.scale(3)
        until(lambda: len(app.replicas) == 3, deadline_s=WAIT_S)
        assert not hosts_of(two.platform.store, app.id, volumes=True)
        assert len(two.on(app)) == 1
    finally:
        fetched.set()
    app.wait(timeout=WAIT_S)


def test_volumes_that_lie_on_one_host_begin_on_no_other(two: Two) -> None:
    app = two.deploy.create(name="kept", volumes={"/data": "1MiB"}, **FIELDS)
    app.wait(timeout=WAIT_S)
    (home,) = two.on(app)
    (other,) = two.hosts.keys() - {home}
    (one,) = app.replicas
    with pytest.raises(InvalidRequest, match=f"its volumes are on {home} by now"):
        two.platform.store.transact(lambda batch: settle(batch.connection, replace(one, host=other)))


def test_a_host_on_which_it_never_ran_is_not_waited_for(two: Two) -> None:
    app = two.deploy.create(name="one", volumes={"/data": "1MiB"}, **FIELDS)
    app.wait(timeout=WAIT_S)
    (home,) = two.on(app)
    (other,) = two.hosts.keys() - {home}
    two.hosts[other].gone = True
    app.delete(timeout=WAIT_S)
    assert set(two.hosts[home].forgot) == {app.id}


def test_a_lost_host_forgets_what_was_deleted_when_it_is_back(two: Two) -> None:
    app = two.deploy.create(name="both", replicas=2, **FIELDS)
    app.wait(timeout=WAIT_S)
    assert two.on(app) == {"a", "b"}
    two.hosts["b"].gone = True
    app.delete(timeout=WAIT_S)
    assert set(two.hosts["a"].forgot) == {app.id}
    assert not two.hosts["b"].forgot
    two.hosts["b"].gone = False
    until(lambda: app.id in two.hosts["b"].forgot, "what it had is not kept for ever", deadline_s=WAIT_S)
    until(lambda: not two.hosts["b"].running, "nor does it run", deadline_s=WAIT_S)


def _left(two: Two, name: str) -> str:
    """The id of a deployment that was deleted while one of its two hosts, b, was lost."""
    app = two.deploy.create(name=name, replicas=2, **FIELDS)
    app.wait(timeout=WAIT_S)
    two.hosts["b"].gone = True
    app.delete(timeout=WAIT_S)
    return str(app.id)


def _on_host_0(two: Two, app_id: str) -> None:
    """A deployment that was deleted is said to be on a host that nobody has heard of."""
    row = {"app_id": app_id, "host": "0", "volumes": False, "ended": True}
    two.platform.store.transact(lambda batch: batch.connection.execute(insert(AppPlaceRow), [row]))


def test_hosts_that_are_never_back_keep_no_other_from_forgetting(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.services.deployments.places._LEFT_MAX", 1)
    never = two.deploy.create(name="never", **FIELDS)
    never.wait(timeout=WAIT_S)
    never.delete(timeout=WAIT_S)
    _on_host_0(two, never.id)
    later = _left(two, "later")
    _on_host_0(two, later)
    two.hosts["b"].gone = False
    until(lambda: later in two.hosts["b"].forgot, deadline_s=WAIT_S)
    assert is_any_left(two.platform.store), "host 0 may still be back"


def test_whoever_comes_next_has_hosts_forget_also_where_no_deployment_is_left(two: Two, tmp_path: Path) -> None:
    app_id = _left(two, "last")
    two.platform.close()
    two.hosts["b"].gone = False
    next_one = Lazy(lambda: platform(two.purse, list(two.hosts.values()), tmp_path))
    try:
        _go_on(next_one, two.purse.books.ledger)
        until(lambda: app_id in two.hosts["b"].forgot, deadline_s=WAIT_S)
        until(lambda: not is_any_left(two.platform.store), deadline_s=WAIT_S)
    finally:
        next_one.close()
