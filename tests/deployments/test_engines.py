"""What engines do about their rows, each for itself; several of them on one ledger, with models that serve nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from rios.deploy.lifecycle import State
from rios.deploy.reading import read_app, read_text
from rios.deploy.spec import App as Specification
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments import bound
from rios.services.deployments.bound import free_name, slug
from rios.services.deployments.engines import Engines
from rios.services.deployments.rules import Rules
from rios.services.deployments.store import NotLeader
from rios.services.deployments.values import Replica, Step
from rios.storage.deployment_models import LeaseRow
from rios.words.errors import (
    DeploymentFailed,
    InvalidRequest,
    LedgerUnavailable,
    NetworkClosed,
    NotFound,
    NoWorkers,
    UnsupportedCheckpoint,
)
from tests.deployments.pretended import Workers
from tests.deployments.stage import Stage
from tests.waiting import until

WAIT_S = 30.0
LEASE_S = 3.0
"""Whoever is late by so much, on a busy machine, is taken for lost."""


class AsItIs(Rules):
    """A checkpoint may be a name."""

    def checked(self, wanted: Specification) -> Specification:
        return wanted


class Process:
    """What one process has of a network."""

    def __init__(self, home: Path | None) -> None:
        self.workers = Workers()
        self.stage = Stage(home=home, lease_s=LEASE_S, deploy=self.workers.deploy)
        self.platform = self.stage.platform
        self.engine = self.platform.engine
        self.deploy = self.stage.deploy

    def bound(self, name: str = "demo", *, timeout: float | None = None, **fields: Any) -> Any:
        """As `net.dmoe.deploy` of a name."""
        wanted = read_app({"name": slug(name), "served_name": name, "model": "demo", **fields})
        return self.engine.deploy(
            wanted, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION, progress=False, timeout=timeout
        )

    @property
    def leads(self) -> bool:
        return self.platform.reconciler.leadership.leads

    def close(self) -> None:
        self.stage.close()


@pytest.fixture
def one() -> Iterator[Process]:
    found = Process(None)
    yield found
    found.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """On one home: the first leads."""
    first = Process(tmp_path)
    until(lambda: first.leads, deadline_s=WAIT_S)
    second = Process(tmp_path)
    yield first, second
    second.close()
    first.close()


def hosts(app: Any) -> list[str]:
    """Where it serves."""
    return sorted(replica.host for replica in app.replicas if replica.state is State.READY)


def leases(process: Process) -> list[str]:
    return sorted(
        process.platform.reconciler._engines.look().living | process.platform.reconciler._engines.look().silent
    )


def test_a_bound_model_is_a_deployment(one: Process) -> None:
    model = one.bound("OLMoE-1B-7B", dtype="bfloat16", copies=2, private=True)
    assert one.workers.models[0].wanted == {
        "path": "demo", "name": "OLMoE-1B-7B", "copies": 2, "dtype": "bfloat16", "wire_dtype": None, "partial": False,
        "private": True, "progress": False, "timeout": None,
    }  # fmt: skip
    app = one.deploy.get("olmoe-1b-7b")
    assert (app.status, app.model, hosts(app)) == ("ready", model, [one.engine.name])
    assert [event.state for event in app.events] == ["requested", "scheduled", "starting", "starting", "ready", "ready"]
    assert [view.status for view in one.deploy.views()] == ["ready"]
    assert (app.logs(), app.metrics(), int(app.cost)) == ([], [], 0)
    with pytest.raises(NotFound, match="no command runs in it"):
        app.exec(["true"])
    same = one.bound("OLMoE-1B-7B")
    assert [found.name for found in one.deploy.list()] == ["olmoe-1b-7b", "olmoe-1b-7b-2"]
    same.close()
    assert [found.name for found in one.deploy.list()] == ["olmoe-1b-7b"], "at once"
    app.delete()
    assert model._closed
    assert one.deploy.list() == ()
    assert [event.state for event in app.events if not event.replica][-2:] == ["stopping", "stopped"]
    with pytest.raises(NotFound):
        one.deploy.get("olmoe-1b-7b")


def test_what_is_not_started_leaves_nothing(one: Process) -> None:
    for refusal in (UnsupportedCheckpoint("it is dense"), NoWorkers("none"), RuntimeError("ours")):
        one.workers.refusal = refusal
        with pytest.raises(type(refusal)) as caught:
            one.bound()
        assert caught.value is refusal
        assert one.deploy.list() == ()
    one.workers.refusal = None
    time.sleep(0.5)
    assert one.workers.models == [], "nobody tries again"
    assert one.bound().name == "demo"


def test_a_model_that_is_deleted_while_it_starts(one: Process) -> None:
    one.workers.may_go_on.clear()
    caught: list[BaseException] = []

    def run() -> None:
        try:
            one.bound()
        except BaseException as error:  # noqa: BLE001  looked at below
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    app = until(one.deploy.list, deadline_s=WAIT_S)[0]
    assert app.status == "starting"
    app.delete(wait=False)
    until(lambda: app.replicas[0].state is State.STOPPING, deadline_s=WAIT_S)
    one.workers.may_go_on.set()
    thread.join(WAIT_S)
    assert isinstance(caught[0], DeploymentFailed)
    until(lambda: one.deploy.list() == (), deadline_s=WAIT_S)
    assert one.workers.open == []


def test_all_verbs_of_a_bound_model(one: Process) -> None:
    first = one.bound()
    app = one.deploy.get("demo")
    app.pause()
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    assert first._closed
    assert app.status == "paused"
    app.resume()
    app.wait(timeout=WAIT_S)
    second = app.model
    assert second is not first
    assert app.update(dtype="float16") == 2
    until(lambda: app.status == "ready" and app.model is not second, deadline_s=WAIT_S)
    assert one.workers.models[-1].wanted["dtype"] == "float16"
    until(lambda: len(one.workers.open) == 1, deadline_s=WAIT_S)
    one.workers.refusal = NoWorkers("none is left")
    app.update(dtype="float32")
    until(lambda: app.revision == 2 and app.status == "ready", deadline_s=WAIT_S)
    assert "none is left" in app.events[-1].cause or any("none is left" in event.cause for event in app.events)
    assert len(one.workers.open) == 1, "the one before serves on"
    app.model.close()
    assert one.deploy.list() == ()


def test_a_quiet_ledger_is_not_read(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    one.bound()
    reconciler = one.platform.reconciler
    until(lambda: (reconciler._quiet or (0,))[0] == one.platform.store.seq(), deadline_s=WAIT_S)
    reads: list[str] = []
    real = type(one.platform.store).snapshot
    monkeypatch.setattr(type(one.platform.store), "snapshot", lambda *a, **k: reads.append("read") or real(*a, **k))

    def is_quiet() -> bool:
        """For a second: a lease that a busy machine let lapse is taken anew, and all is read then."""
        reads.clear()
        time.sleep(1.0)
        return not reads

    until(is_quiet, "a second without a look", deadline_s=WAIT_S)
    with pytest.raises(InvalidRequest):
        one.deploy.get("demo").resume()
    one.deploy.get("demo").pause()
    until(lambda: one.workers.open == [], deadline_s=WAIT_S)
    assert reads


def test_whoever_does_not_lead_deploys(two: tuple[Process, Process]) -> None:
    first, second = two
    model = second.bound("theirs")
    assert first.leads
    assert not second.leads
    app = first.deploy.get("theirs")
    assert hosts(app) == [second.engine.name]
    with pytest.raises(NotFound, match="another process"):
        _ = app.model
    assert second.deploy.get("theirs").model is model
    app.delete(timeout=WAIT_S)
    assert model._closed
    mine = second.bound("theirs")
    second.close()
    assert mine._closed
    assert first.deploy.list() == ()
    assert second.engine.name not in leases(first)


def test_one_on_each_engine_that_takes(two: tuple[Process, Process]) -> None:
    first, second = two
    second.bound("own")
    chat = first.deploy.create(name="chat", model="demo")
    chat.wait(timeout=WAIT_S)
    assert hosts(chat) == [first.engine.name], "an engine with what is bound to it takes nothing else"
    second.engine.begin(takes=True)
    until(lambda: len(hosts(chat)) == 2, deadline_s=WAIT_S)
    assert second.deploy.get("chat").model.name == first.deploy.get("chat").model.name == "chat"
    chat.update(replicas=3)
    until(lambda: chat.status == "ready" and {one.revision for one in chat.replicas} == {2}, deadline_s=WAIT_S)
    assert len(hosts(chat)) == 2
    assert first.workers.models[-1].wanted["copies"] == second.workers.models[-1].wanted["copies"] == 3
    assert (first.workers.open, sorted(second.workers.open)) == (["chat"], ["chat", "own"])
    chat.model.close()  # by hand: it is there again
    until(lambda: len(hosts(chat)) == 2 and first.workers.open == ["chat"], deadline_s=WAIT_S)
    chat.pause()
    until(lambda: first.workers.open == [] and second.workers.open == ["own"], deadline_s=WAIT_S)
    chat.resume()
    until(lambda: len(hosts(chat)) == 2, deadline_s=WAIT_S)
    second.close()
    until(lambda: chat.status == "ready" and hosts(chat) == [first.engine.name], deadline_s=WAIT_S)
    chat.delete()
    assert first.workers.open == []


def test_a_lost_engine_loses_its_models(two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not renew its lease: frozen, or cut off. When it is back, it has what the rows say, and no more."""
    first, second = two
    own = second.bound("own")
    second.engine.begin(takes=True)
    chat = first.deploy.create(name="chat", model="demo")
    chat.wait(timeout=WAIT_S)
    assert hosts(chat) == [second.engine.name]
    real = second.engine._lease.look
    with second.engine._leasing:
        begun = time.monotonic()
        assert real(renew=True)
        monkeypatch.setattr(second.engine._lease, "look", lambda **_: False)
    until(lambda: [app.name for app in first.deploy.list()] == ["chat"], deadline_s=WAIT_S)
    assert time.monotonic() - begun >= LEASE_S / 2
    until(lambda: hosts(chat) == [first.engine.name], "the leader's engine takes it", deadline_s=WAIT_S)
    until(lambda: second.engine.name not in leases(first), deadline_s=WAIT_S)
    assert not own._closed
    monkeypatch.setattr(second.engine._lease, "look", real)
    second.engine.nudge()
    until(lambda: own._closed, deadline_s=WAIT_S)
    until(lambda: len(hosts(chat)) == 2, deadline_s=WAIT_S)
    until(lambda: second.workers.open == ["chat"], "the one before is closed, too", deadline_s=WAIT_S)


def test_a_model_is_loaded_once_whatever_the_ledger_does(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    outages = [LedgerUnavailable("away"), LedgerUnavailable("still away")]
    real = bound.ready

    def ready(*what: Any, **how: Any) -> bool:
        if outages:
            raise outages.pop()
        return real(*what, **how)

    monkeypatch.setattr(bound, "ready", ready)
    chat = one.deploy.create(name="chat", model="demo")
    chat.wait(timeout=WAIT_S)
    assert outages == []
    assert one.workers.models == [chat.model]


def test_a_name_is_for_gateways(one: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of that name where a notebook happens to be is another model."""
    (tmp_path / "mixtral").mkdir()
    monkeypatch.chdir(tmp_path)
    one.deploy._rules = AsItIs()  # as a gateway keeps it
    named = one.deploy.create(name="named", model="mixtral")
    until(lambda: "no gateway is up that could find mixtral" in named.reason, deadline_s=WAIT_S)
    time.sleep(1.0)
    assert one.engine.name not in one.platform.reconciler._engines.look().takes
    demo = one.deploy.create(name="chat", model="demo")
    demo.wait(timeout=WAIT_S)
    assert (one.workers.open, named.replicas) == (["chat"], [])
    one.engine.find_by(lambda checkpoint: f"/models/{checkpoint}")
    named.wait(timeout=WAIT_S)
    assert one.workers.models[-1].wanted["path"] == "/models/mixtral"
    assert not [event for event in named.events if event.kind in ("failed", "failure")]


def test_an_engine_leaves_alone_what_it_cannot_find(two: tuple[Process, Process]) -> None:
    """Whoever leads does not know what another engine finds."""
    first, second = two
    first.engine.find_by(str)
    first.engine.begin(takes=True)
    second.engine.begin(takes=True)
    first.deploy._rules = AsItIs()
    named = first.deploy.create(name="named", model="mixtral")
    until(lambda: hosts(named) == [first.engine.name], deadline_s=WAIT_S)
    until(lambda: second.engine._left, deadline_s=WAIT_S)
    assert (second.workers.models, len(named.replicas)) == ([], 2)
    second.engine.find_by(str)
    named.wait(timeout=WAIT_S)
    assert second.workers.open == ["named"]


def test_nothing_is_left_where_nobody_knows_whether_it_was_written(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bound.begin

    def begin(*what: Any, **how: Any) -> Any:
        real(*what, **how)
        raise LedgerUnavailable("the connection broke")

    monkeypatch.setattr(bound, "begin", begin)
    with pytest.raises(LedgerUnavailable):
        one.bound()
    assert one.deploy.list() == ()
    time.sleep(0.5)
    assert one.workers.models == []


def test_a_ledger_that_is_away_for_a_moment_costs_no_model(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    outages: list[bool] = [True, False]
    real = bound.ready

    def ready(*what: Any, **how: Any) -> bool:
        written = outages and outages.pop() and real(*what, **how)
        if outages or written:
            raise LedgerUnavailable("away")
        return real(*what, **how)

    monkeypatch.setattr(bound, "ready", ready)
    model = one.bound()
    assert (one.workers.models, one.deploy.get("demo").model) == ([model], model)
    outages += [False] * 99
    with pytest.raises(LedgerUnavailable):
        one.bound("late", timeout=0.5)
    outages += [False] * 99
    threading.Timer(0.5, one.engine._stop.set).start()
    with pytest.raises(NetworkClosed):
        one.bound("closed")


def test_a_lease_that_was_taken_away_is_made_anew(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what waits for it does not ask all the time."""
    first, _ = two
    acts: list[str] = []
    real, row = first.engine._start, LeaseRow
    taken = delete(row).where(row.name == first.engine.name)

    def start(replica: Replica) -> None:
        if not acts:
            first.platform.store.transact(lambda batch: batch.connection.execute(taken))
        acts.append(replica.id)
        real(replica)

    monkeypatch.setattr(first.engine, "_start", start)
    first.deploy.create(name="chat", model="demo").wait(timeout=WAIT_S)
    assert len(acts) <= 20, "of hundreds, otherwise"


def test_no_change_is_overlooked(one: Process) -> None:
    """What happens while an engine asks whether something has happened."""

    class Late(threading.Event):
        def is_set(self) -> bool:
            found = super().is_set()
            self.set()
            return found

    one.engine._lease.look()
    one.engine._other = late = Late()
    one.engine.look()
    assert threading.Event.is_set(late)


def test_an_outage_loses_no_engine(one: Process) -> None:
    """Whoever leads counts the time in which it looked, and could have seen a renewal."""
    one.engine.begin()
    clock = [0.0]
    engines = Engines(one.platform.store, lease_s=3.0, clock=lambda: clock[0])
    for at in (0.0, 1.0, 2.0, 12.0):
        clock[0] = at
        assert engines.look().living == {one.engine.name}, at
    for at in (13.0, 14.0):
        clock[0] = at
        found = engines.look()
    assert (found.living, found.silent) == (frozenset(), {one.engine.name})


def test_a_start_that_fails_is_counted_and_tried_again(one: Process) -> None:
    one.workers.refusal = NoWorkers("they come later")
    chat = one.deploy.create(name="chat", model="demo", dtype="float16", served_name="Chat")
    until(lambda: "they come later" in chat.reason, deadline_s=WAIT_S)
    assert chat.status != "ready"
    one.workers.refusal = None
    chat.wait(timeout=WAIT_S)
    assert one.workers.models[-1].wanted["name"] == "Chat"
    one.workers.refusal = UnsupportedCheckpoint("it is dense")
    never = one.deploy.create(name="never", model="dense", restart="never")
    with pytest.raises(DeploymentFailed, match="it could not be started: it is dense"):
        never.wait(timeout=WAIT_S)
    assert [replica.error for replica in one.platform.store.replicas(never.id, ended=True)] == ["UnsupportedCheckpoint"]


def test_writing_needs_the_lease(two: tuple[Process, Process]) -> None:
    _, second = two
    second.bound()
    replica = second.deploy.get("demo").replicas[0]
    lease = second.engine._lease.lease
    with pytest.raises(NotLeader):
        second.platform.store.write(
            [Step(replica, State.STOPPING, "late", changes={})], at=1, lease=(lease[0], lease[1], lease[2] + 1)
        )
    assert replica in second.deploy.get("demo").replicas


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("demo", "demo"), ("OLMoE-1B-7B", "olmoe-1b-7b"), ("7B", "model-7b"), ("  ", "model"), ("Ä.b_C", "b-c"),
        ("x" * 60, "x" * 40), ("9" * 60, "model-" + "9" * 34),
    ],
)  # fmt: skip
def test_names(name: str, found: str) -> None:
    assert slug(name) == found
    assert read_app({"name": slug(name), "model": "demo"}).name == found
    assert free_name(found, {found}) == (f"{found}-2" if len(found) < 39 else f"{found[:38]}-2")
    assert free_name(found, {found, free_name(found, {found})}).endswith("-3")


@pytest.mark.parametrize("field", ["served_name: x", "dtype: float16", "copies: 2", "partial: true", "private: true"])
def test_fields_of_models_are_refused_for_applications(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"rios.yaml:5: apps.*{field.partition(':')[0]}: is for models alone"):
        read_text(f"version: 1\napps:\n- name: web\n  command: [serve]\n  {field}\n")
    app = read_text(f"version: 1\napps:\n- name: chat\n  model: demo\n  {field}\n").apps[0]
    assert field.partition(":")[0] in app.stored()
    assert not {"served_name", "copies", "partial"} & read_app({"name": "web", "command": ["x"]}).stored().keys()
