"""Copies of a model's experts follow its load, as events with causes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rios
from rios.deploy.reading import read_app
from rios.services.deployments.copies import copies_at_first, copies_of
from rios.services.deployments.engine import Engine
from rios.words.errors import InvalidRequest
from tests.deployments.pretended import PretendedModel, Workers
from tests.deployments.stage import Stage
from tests.waiting import until

WAIT_S = 120.0
QUICK = {"target": 2, "stabilise": 10.0}
FASTER = 20.0


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scalers look back for most of a minute: a minute of theirs takes three seconds here."""
    monkeypatch.setattr("rios.services.deployments.copies.EVERY_S", 1.0 / FASTER)
    monkeypatch.setattr("rios.services.deployments.copies.now", lambda: FASTER * time.monotonic())


class Busy(PretendedModel):
    """A model that says a load."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[int] = []
        self.unanswered, self.there = 0, 3
        self.stats: dict[str, Any] = {}

    @property
    def under_way(self) -> int:
        return self.unanswered

    @property
    def hosts_count(self) -> int:
        return self.there

    def trunk_stats(self) -> dict[str, Any]:
        return self.stats

    def want_copies(self, copies: int) -> None:
        self.asked.append(copies)


class Some(Workers):
    def deploy(self, path: str, *, closed: Any, **wanted: Any) -> Any:
        self.models.append(Busy({"path": path, **wanted}, closed))
        return self.models[-1]


@pytest.fixture
def some() -> Iterator[tuple[Stage, Some]]:
    workers = Some()
    with Stage(deploy=workers.deploy) as stage:
        yield stage, workers


def _scaled(app: Any) -> list[str]:
    return [event.cause for event in app.events if event.kind == "scaled" and event.replica]


def test_copies_follow_requests_within_bounds_and_hosts(some: tuple[Stage, Some]) -> None:
    stage, workers = some
    app = stage.deploy.create(name="chat", model="demo", replicas=(1, 5), scale=QUICK).wait(timeout=WAIT_S)
    (model,) = workers.models
    assert isinstance(model, Busy)
    assert model.wanted["copies"] == 1
    model.unanswered = 30
    until(lambda: model.asked and model.asked[-1] == 3, "no more than there are hosts", deadline_s=WAIT_S)
    model.unanswered = 0
    until(lambda: model.asked[-1] == 1, deadline_s=WAIT_S)
    until(lambda: len(_scaled(app)) == len(model.asked), deadline_s=WAIT_S)
    said = _scaled(app)
    assert said[0].startswith("1 -> ")
    assert "copies of each expert: a load of" in said[0]
    assert said[-1].endswith(" s")
    assert "-> 1 copies" in said[-1]
    assert app.status == "ready"
    assert app.revision == 1
    app.delete(timeout=WAIT_S)


@pytest.mark.parametrize(
    ("on", "idle", "busy"),
    [
        ("queue", {"waiting": 0, "tokens": 0}, {"waiting": 9, "tokens": 0}),
        ("tokens", {"waiting": 0, "tokens": 0}, None),
    ],
)
def test_by_what_its_trunk_says(some: tuple[Stage, Some], on: str, idle: Any, busy: Any) -> None:
    stage, workers = some
    app = stage.deploy.create(name=f"by-{on}", model="demo", replicas=(1, 2), scale={**QUICK, "on": on})
    app.wait(timeout=WAIT_S)
    model = workers.models[-1]
    assert isinstance(model, Busy)
    model.stats = idle
    tokens = iter(range(0, 10**9, 1000))

    def more() -> bool:
        model.stats = busy or {"waiting": 0, "tokens": next(tokens)}
        return bool(model.asked)

    until(more, deadline_s=WAIT_S)
    assert model.asked[0] == 2
    app.delete(timeout=WAIT_S)


def test_who_says_how_many_has_so_many() -> None:
    for fields, first, span in (
        ({}, None, None), ({"replicas": 3}, 3, None), ({"replicas": (1, 3)}, 1, (1, 3)),
        ({"replicas": (0, 2)}, 1, (1, 2)), ({"replicas": (2, 3), "copies": 2}, 2, None),
    ):  # fmt: skip
        stored = read_app({"name": "chat", "model": "demo", **fields}).stored()
        assert (copies_at_first(stored), copies_of(stored)) == (first, span), fields
    with pytest.raises(InvalidRequest, match="a model says no cpu"):
        read_app({"name": "chat", "model": "demo", "scale": {"on": "cpu"}})
    assert read_app({"name": "chat", "model": "demo", "scale": {"on": "tokens"}}).scale.on == "tokens"


def test_a_stage_without_such_models_has_no_thread(stage: Stage) -> None:
    engine = Engine(stage.platform.store, lambda **_: None)  # type: ignore[arg-type,return-value]
    assert repr(engine._copies) == "<Copies of 0 models>"
    assert engine._copies._thread is None


def test_a_real_model_has_more_copies_under_load_and_says_the_same_tokens() -> None:
    with rios.local(workers=2, threads=1) as network:
        app = network.deploy.create(
            name="chat", model="demo", dtype="float32", replicas=(1, 2), scale={"target": 2, "stabilise": 40.0}
        ).wait(timeout=WAIT_S)
        model = app.model
        assert model.copies == 1
        asked: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0}
        alone = model.generate("It was a fine morning,", **asked).token_ids
        said: list[list[int]] = []
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                said.append(model.generate("It was a fine morning,", **asked).token_ids)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: model.copies == 2 and _held_twice(model), deadline_s=WAIT_S)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert set(map(tuple, said)) == {tuple(alone)}
        assert app.model is model, "it is not loaded anew"
        assert _scaled(app)[0].startswith("1 -> 2 copies of each expert: a load of")
        until(lambda: model.copies == 1 and not _held_twice(model), deadline_s=WAIT_S)
        assert model.generate("It was a fine morning,", **asked).token_ids == alone
        app.delete(timeout=WAIT_S)


def _held_twice(model: Any) -> bool:
    """Whether each expert is on two hosts by now, and a second trunk stands by."""
    members = list(model._deployment.members.values())
    layers = model._deployment.manifest.layers
    held = [[sum(expert in one.held.get(layer.index, ()) for one in members) for expert in range(layer.num_experts)]
            for layer in layers]  # fmt: skip
    return all(count == 2 for layer in held for count in layer) and sum(one.trunk_ready for one in members) == 2
