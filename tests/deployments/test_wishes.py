"""What is wanted of a deployment, and when it is there: waiting, going back, scaling, and files applied again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from rios.client import apps as remote
from rios.client.apps import RemoteDeployments
from rios.deploy.lifecycle import State
from rios.deploy.runtimes.protocol import Status
from rios.deploy.spec import App
from rios.services.deployments import awaiting
from rios.services.deployments.awaiting import Look, Wished, awaited
from rios.services.deployments.hosts import Order
from rios.services.deployments.platform import Platform
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import ROLLED_BACK
from rios.services.deployments.values import Event
from rios.services.purse import Purse
from rios.storage.deployment_models import AppRevisionRow
from rios.words.config import settings
from rios.words.errors import DeadlineExceeded, DeploymentFailed, InvalidRequest
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_many_hosts import RESOURCES, WAIT_S, platform, verbs
from tests.waiting import until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    place = tmp_path_factory.mktemp("wishes")
    with Purse(settings().model_copy(update={"home": place / "home"}), background=False) as purse:
        found = platform(purse, [SimulatedHost("host-0")], place)
        yield found
        found.close()


@pytest.fixture
def deploy(stage: Platform) -> Iterator[Deployments]:
    found = verbs(stage)
    yield found
    for app in found.list():
        app.delete(timeout=WAIT_S)


def ready(deploy: Deployments, **more: Any) -> Any:
    return deploy.create(name="web", command=["serve"], resources=RESOURCES, **more).wait(timeout=WAIT_S)


def test_waiting_is_for_what_was_wished_last(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ready(deploy)
    first = app.replicas[0].id
    host, may_start = stage.hosts.now()["host-0"], threading.Event()
    real = host.start
    monkeypatch.setattr(host, "start", lambda order: may_start.wait(WAIT_S) and real(order))
    try:
        number = app.update(env={"A": "1"})
        assert app.status == "updating", "from the moment of the wish on"
    finally:
        may_start.set()
    assert app.wait(timeout=WAIT_S)._app().settled_revision == number
    second = app.replicas[0].id
    assert second != first
    app.restart()
    app.wait(timeout=WAIT_S)
    assert {one.round for one in app.replicas if one.lives} == {1}
    app.rollback()
    app.wait(timeout=WAIT_S)
    assert app._app().settled_revision == 1


def test_whoever_waits_for_an_update_that_is_taken_back_is_told(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ready(deploy)
    host = stage.hosts.now()["host-0"]
    real = host.start

    def start(replica_id: str, *arguments: Any, **more: Any) -> Any:
        raise InvalidRequest("no such program")

    monkeypatch.setattr(host, "start", start)
    app.update(command=["none"], replicas=4)
    with pytest.raises(DeploymentFailed, match=r"web is at revision 1 again: revision 2 .*no such program"):
        app.wait(timeout=WAIT_S)
    assert app.update(command=["nothing"], replicas=4) == 3
    until(lambda: app.revision == 1, "it is taken back before anybody looks", deadline_s=WAIT_S)
    with pytest.raises(DeploymentFailed, match=r"web is at revision 1 again: revision 3 .*no such program"):
        app.wait(timeout=WAIT_S)
    monkeypatch.setattr(host, "start", real)
    app.wait(timeout=WAIT_S)
    found = app._app()
    assert (found.revision, found.replicas_min, found.replicas_max, found.replicas) == (1, 1, 1, 1)


def is_late(app: Any) -> None:
    """Its revision was wished so long ago that it would be gone back from, where it could run meanwhile."""
    store = app._store
    store.change(app.id, lambda *_: ({"since": 1}, "note", "it was wished long ago"), at=store.ledger.now())


def test_an_update_of_what_is_paused_has_its_time_from_when_it_may_run(deploy: Deployments) -> None:
    app = ready(deploy)
    app.pause()
    app.wait("paused", timeout=WAIT_S)
    number = app.update(env={"A": "1"})
    is_late(app)
    app.resume()
    app.wait(timeout=WAIT_S)
    assert app._app().settled_revision == number == 2


def test_a_job_whose_update_failed_stays_so_until_it_is_begun_anew(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ready(deploy, restart="never")
    host = stage.hosts.now()["host-0"]
    real = host.start

    def start(order: Order) -> Status:
        raise InvalidRequest("no such program")

    monkeypatch.setattr(host, "start", start)
    app.update(command=["none"])
    until(lambda: app.status == "failed", deadline_s=WAIT_S)
    is_late(app)
    deploy.create(name="other", command=["serve"], resources=RESOURCES)
    until(lambda: "no such program" in str(deploy.get("other").events), "what others wish is done", deadline_s=WAIT_S)
    assert (app.status, app.revision) == ("failed", 2)
    monkeypatch.setattr(host, "start", real)
    app.restart()
    app.wait(timeout=WAIT_S)
    assert app._app().settled_revision == 2


def test_an_update_while_none_is_wanted_is_tried_when_one_is(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ready(deploy)
    app.scale(0)
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    host = stage.hosts.now()["host-0"]
    real = host.start

    def start(order: Order) -> Status:
        if order.specification["command"] == ["none"]:
            raise InvalidRequest("no such program")
        return real(order)

    monkeypatch.setattr(host, "start", start)
    app.update(command=["none"])
    is_late(app)
    app.wait(timeout=WAIT_S)
    assert "revision 2 is tried when one is" in str(app.events)
    assert (app.status, app.revision, app._app().good_revision) == ("ready", 2, 1)
    app.scale(1)
    assert app.status == "updating", "from the moment of the wish on"
    with pytest.raises(DeploymentFailed, match=r"web is at revision 1 again: revision 2 .*no such program"):
        app.wait(timeout=WAIT_S)
    app.wait(timeout=WAIT_S)
    until(lambda: [one.state for one in app.replicas if one.revision == 1] == [State.READY], deadline_s=WAIT_S)
    assert app._app().good_revision == 1


def test_what_never_had_a_replica_is_changed_and_woken(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = stage.hosts.now()["host-0"]
    with monkeypatch.context() as patched:
        patched.setattr(host, "offer", lambda: replace(SimulatedHost("host-0").offer(), cordoned=True))
        app = deploy.create(name="web", command=["serve"], resources=RESOURCES)
        app.scale(0)
        app.wait(timeout=WAIT_S)
    assert app._app().settled_revision is None
    assert app.update(env={"A": "1"}) == 2
    app.wait(timeout=WAIT_S)
    assert app.update(replicas=2) == 3
    app.wait(timeout=WAIT_S)
    found = app._app()
    assert (found.settled_revision, found.good_revision, len(app.replicas)) == (3, 3, 2)


def waits(looks: Sequence[tuple[State, str, int]], wished: Wished, *, happened: Sequence[Event] = ()) -> None:
    seen = (Look(*one) for one in looks)
    awaited("web", State.READY, lambda: next(seen), events=lambda: happened, timeout=WAIT_S, look_s=0, wished=wished)


def test_an_update_that_was_over_between_two_looks_is_told_with_its_reason() -> None:
    looks = [(State.UPDATING, "", 2), (State.READY, "", 1)]
    cause = "revision 2 does not become ready: back to 1; no such program"
    happened = [
        Event(seq=n, at=0, kind=ROLLED_BACK, state="", replica="", cause=said)
        for n, said in enumerate((cause, "revision 7 was too"))
    ]
    for found, wished in ((looks, Wished()), (looks[1:], Wished(2))):
        with pytest.raises(DeploymentFailed, match=f"^web is at revision 1 again: {cause}$"):
            waits(found, wished, happened=happened)
        waits(looks[1:], wished)  # once is enough
    with pytest.raises(DeploymentFailed, match=r"^web is at revision 1 again: revision 3 was left$"):
        waits([(State.UPDATING, "", 3), (State.READY, "", 1)], Wished())


def test_what_was_waited_for_is_not_wished_any_more() -> None:
    wished = Wished(2)
    waits([(State.UPDATING, "", 2), (State.READY, "", 2)], wished)
    waits([(State.READY, "", 1)], wished)  # somebody else went back
    with pytest.raises(DeploymentFailed, match="web is failed: no money"):
        waits([(State.FAILED, "no money", 3)], wished)
    waits([(State.READY, "", 1)], wished)


def test_what_sleeps_untried_is_still_wished() -> None:
    wished, asleep = Wished(2), Look(State.READY, "", 2, tried=False)
    for look in (asleep, asleep):
        awaited("web", State.READY, lambda look=look: look, events=list, timeout=0, look_s=0, wished=wished)
    with pytest.raises(DeploymentFailed, match=r"^web is at revision 1 again: revision 2 was left$"):
        waits([(State.READY, "", 1)], wished)
    waits([(State.READY, "", 1)], wished)


class Answers:
    """A gateway whose deployments are at revision 1 again when somebody looks."""

    url = "http://gateway"

    def get(self, path: str) -> dict[str, Any]:
        return {"status": "ready", "reason": "", "revision": 1, "replicas": 1}

    def pages(self, path: str) -> list[dict[str, Any]]:
        return [
            {"seq": 1, "at": 0, "kind": ROLLED_BACK, "state": "", "replica": "", "cause": "revision 2 does not become"}
        ]

    def post(self, path: str, body: object) -> dict[str, Any]:
        row = {"name": "web", "revision": 2}
        return {"data": [row]} if path.endswith("/apply") else row

    def ask(self, method: str, path: str, **_: object) -> dict[str, Any]:
        return {"revision": 2}


def test_whoever_applies_a_file_from_afar_is_told_of_what_was_taken_back_meanwhile() -> None:
    deploy = RemoteDeployments(Answers())  # type: ignore[arg-type]
    wanted = App.model_validate({"name": "web", "command": ["serve"], "resources": {"cpu": 1, "memory": "64MiB"}})
    (applied,) = deploy.apply([wanted])
    updated, rolled = deploy.get("web"), deploy.get("web")
    assert updated.update_to(wanted) == rolled.rollback(2) == 2
    for app in (applied, updated, rolled):
        with pytest.raises(DeploymentFailed, match="web is at revision 1 again: revision 2 does not become"):
            app.wait(timeout=WAIT_S)
        app.wait(timeout=WAIT_S)


def test_each_revision_brings_its_own_number_of_replicas(deploy: Deployments) -> None:
    app = ready(deploy)

    def span() -> tuple[int, int, int]:
        found = app._app()
        return found.replicas_min, found.replicas_max, found.replicas

    app.update(replicas=4)
    assert span() == (4, 4, 4)
    app.rollback()
    assert span() == (1, 1, 1)
    app.wait(timeout=WAIT_S)
    until(lambda: len(app.replicas) == 1, deadline_s=WAIT_S)


def test_what_it_was_scaled_to_stays_and_a_plan_says_so(deploy: Deployments, tmp_path: Path) -> None:
    file = tmp_path / "rios.yaml"
    text = "version: 1\napps:\n- {name: web, command: [serve], resources: {cpu: 1, memory: 64MiB}, env: {A: '1'}}\n"
    file.write_text(text)
    (app,) = deploy.apply(file)
    app.wait(timeout=WAIT_S)
    assert str(deploy.plan(file)) == "nothing web"
    app.scale(3)
    assert str(deploy.plan(file)) == "nothing web\n  replicas: 'scaled to 3 to 3' -> 'stays so'"
    file.write_text(text.replace("'1'", "'2'"))
    deploy.apply(file)
    assert (app.revision, app._app().replicas_min, app._app().replicas) == (2, 3, 3)
    file.write_text(text.replace("env:", "replicas: 2, env:"))
    assert "stays so" not in str(deploy.plan(file))
    deploy.apply(file)
    assert app._app().replicas_max == 2
    for wrong in (1001, (0, 5000), -1, True):
        with pytest.raises(InvalidRequest, match="no number of replicas up to 1000"):
            app.scale(wrong)


def test_what_was_stored_before_its_times_had_bounds_is_within_them(deploy: Deployments, stage: Platform) -> None:
    asks = {"tcp": 80, "start": {"tcp": 80}, "live": {"tcp": 80, "timeout": 3}}
    app = deploy.create(name="old", command=["serve"], resources=RESOURCES, port=80, health=asks)
    old = app.specification
    old["grace"], old["health"]["timeout"], old["health"]["start"]["timeout"] = 86400.0, 3000.0, 11.0
    stage.store.transact(
        lambda batch: batch.connection.execute(
            update(AppRevisionRow).where(AppRevisionRow.app_id == app.id).values(specification=json.dumps(old))
        )
    )
    for now in (stage.store.specification(app.id, 1), stage.store.specifications([(app.id, 1)])[app.id, 1]):
        health = App.model_validate(now).health
        assert health is not None
        assert health.start is not None
        assert health.live is not None
        assert (now["grace"], health.timeout, health.start.timeout, health.live.timeout) == (60.0, 10.0, 10.0, 3.0)
    assert app.update(env={"A": "1"}) == 2


def test_no_two_places_share_a_volume(deploy: Deployments) -> None:
    for volumes in ({"/a/b": "1MiB", "/a+b": "1MiB"}, {"/" + "a" * 250: "1MiB"}):
        with pytest.raises(InvalidRequest, match=r"no '\+'|at most 229 bytes"):
            deploy.create(name="web", command=["serve"], resources=RESOURCES, volumes=volumes)
    app = deploy.create(name="web", command=["serve"], resources=RESOURCES, volumes={"/a/b": "1MiB"})
    with pytest.raises(InvalidRequest, match="no '\\+'"):
        app.update(volumes={"/a/b": "1MiB", "/a+b": "1MiB"})


def test_a_deletion_is_waited_for_as_long_as_the_grace_of_what_runs_may_take(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: to answer what it has, and to stop. What runs may be of a revision that had more of it."""
    assert awaiting.ends_within([60.0, 1.0]) > 2 * 60.0
    monkeypatch.setattr(awaiting, "ENDS_S", 0.1)
    app, host, may_end = ready(deploy, grace=0.4), stage.hosts.now()["host-0"], threading.Event()
    real = host.end
    monkeypatch.setattr(host, "end", lambda one, *, grace_s: may_end.wait(WAIT_S) and real(one, grace_s=grace_s))
    try:
        app.update(grace=0.2)
        with pytest.raises(DeadlineExceeded, match=r"after 0\.9 s"):
            app.delete()
    finally:
        may_end.set()


class Ending(Answers):
    """A gateway whose deployment takes for ever to end."""

    revision = 1
    """Of its one replica; the deployment is at 1."""

    def get(self, path: str) -> dict[str, Any]:
        return {"id": "app-1", "status": "stopping", "reason": "", "revision": 1, "specification": {"grace": 0.2}}

    def pages(self, path: str) -> list[dict[str, Any]]:
        times = {"created_at": 0, "started_at": 0, "ready_at": 0}
        return [{"id": "web-1", "revision": self.revision, "host": "host-0", "state": "ready", **times}]

    def ask(self, method: str, path: str, **_: object) -> dict[str, Any]:
        return {"id": "app-1"}


def test_so_it_is_from_afar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "ENDS_S", 0.1)
    monkeypatch.setattr(remote, "GRACE_MAX_S", 0.3)
    gateway = Ending()
    deploy = RemoteDeployments(gateway)  # type: ignore[arg-type]
    with pytest.raises(DeadlineExceeded, match=r"after 0\.5 s"):
        deploy.get("web").delete()
    gateway.revision = 0  # nobody says from afar how much that one had
    with pytest.raises(DeadlineExceeded, match=r"after 0\.7 s"):
        deploy.get("web").delete()
    with pytest.raises(DeadlineExceeded, match=r"after 0\.2 s"):
        deploy.get("web").delete(timeout=0.2)
