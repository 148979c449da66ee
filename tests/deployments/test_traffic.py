"""Requests while replicas come and go: none is lost by an update, few by a death, and one wakes what sleeps."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rios.deploy.lifecycle import State
from rios.services.deployments.routing import FAILURES_OPEN, Endpoint, Route, Routes
from rios.services.deployments.store import AppStore
from rios.words.errors import DeploymentFailed
from tests.deployments.stage import Stage, get
from tests.waiting import PATIENCE, until

WAIT_S = 60.0


class Load:
    """Clients that ask all the time."""

    def __init__(self, url: str, clients: int, *, data: bytes | None = None) -> None:
        self._url, self._data = url, data
        self._lock = threading.Lock()
        self._answers: Counter[tuple[int, str]] = Counter()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self.stop.is_set():
            try:
                status, text = get(self._url, data=self._data, timeout_s=60)
            except (http.client.HTTPException, OSError):  # it was cut off
                status, text = 0, ""
            with self._lock:
                self._answers[status, text if status == 200 else "failed"] += 1

    @property
    def answers(self) -> Counter[tuple[int, str]]:
        """How often each came so far."""
        with self._lock:
            return self._answers.copy()

    def failed(self) -> int:
        return sum(count for (status, _), count in self.answers.items() if status != 200)

    def good(self) -> int:
        return sum(count for (status, _), count in self.answers.items() if status == 200)


@contextmanager
def load(url: str, clients: int = 3, **more: Any) -> Iterator[Load]:
    found = Load(url, clients, **more)
    for thread in found.threads:
        thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        for thread in found.threads:
            thread.join(WAIT_S)


def ready(app: Any, count: int) -> Callable[[], bool]:
    return lambda: sum(one.state is State.READY for one in app.replicas) == count


@pytest.mark.parametrize("strategy", ["rolling", "blue-green"])
def test_no_update_fails_a_request_and_broken_ones_are_rolled_back(stage: Stage, strategy: str) -> None:
    app = stage.web(f"roll-{strategy}", replicas=2, env={"SAYS": "v1"}, update={"strategy": strategy})
    app.wait(timeout=WAIT_S)
    with load(f"{app.url}/slow?0.02", 3) as found:
        until(found.good, "the first answers", deadline_s=WAIT_S)
        number = app.update(env={"SAYS": "v2"})
        until(lambda: app.status == "ready" and app._app().settled_revision == number, deadline_s=WAIT_S)
        broken = app.update(command=["sh", "-c", "exit 1"])
        with pytest.raises(DeploymentFailed, match=f"is at revision {number} again: revision {broken} "):
            app.wait(timeout=WAIT_S * PATIENCE)
        app.wait(timeout=WAIT_S)
        before = found.good()
        until(lambda: found.good() > before + 20, deadline_s=WAIT_S)
    assert found.failed() == 0
    assert {text.split()[0] for _, text in found.answers} == {"v1", "v2"}
    assert get(app.url)[1].startswith("v2")
    app.delete()


class Hands:
    """Counts what routes have in the hands of one replica."""

    def __init__(self, routes: Routes, replica_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        take, self._lock, self._id, self.taken = routes.take, threading.Lock(), replica_id, 0
        self.running: Callable[[], int] = lambda: routes.running(replica_id)

        def counted(route: Route, **more: Any) -> Endpoint | None:
            found = take(route, **more)
            with self._lock:
                self.taken += found is not None and found.replica_id == self._id
            return found

        monkeypatch.setattr(routes, "take", counted)


def test_of_three_replicas_one_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    app = stage.web("three", replicas=3)
    app.wait(timeout=WAIT_S)
    host = stage.platform.hosts.now()["localhost"]
    with load(f"{app.url}/slow?0.05", 4) as safe, load(f"{app.url}/slow?0.05", 4, data=b"x") as unsafe:
        until(lambda: safe.good() > 10 and unsafe.good() > 10, deadline_s=WAIT_S)
        victim = app.replicas[0].id
        hands = Hands(stage.platform.routes, victim, monkeypatch)
        until(hands.running, "it has something to do", deadline_s=WAIT_S)
        began, before, had = time.monotonic(), hands.taken, hands.running()
        host.end(victim, grace_s=0.0)
        had += hands.taken - before  # what it was given until nothing of it was there
        until(lambda: victim not in {one.id for one in app.replicas} and ready(app, 3)(), deadline_s=WAIT_S)
        took_s = time.monotonic() - began
        until(lambda: safe.good() > 30 and unsafe.good() > 30, deadline_s=WAIT_S)
    assert safe.failed() == 0, "what may be asked again was asked again"
    assert unsafe.failed() <= had, f"of {had} in its hands; who came later was sent elsewhere"
    assert took_s < 10.0 * PATIENCE
    app.delete()


def test_a_short_answer_that_breaks_off_is_asked_for_again(stage: Stage) -> None:
    app = stage.web("half", replicas=1)
    app.wait(timeout=WAIT_S)
    assert get(f"{app.url}/half") == (200, "hello GET /half ")

    def lines() -> list[str]:
        return [line for line in app.logs() if "/half" in line]

    until(lines, "its line", deadline_s=WAIT_S)
    assert lines() == ["GET /half"], "the second time alone"
    app.delete()


def test_to_zero_and_back_with_the_request_held(stage: Stage) -> None:
    app = stage.web("sleeper", replicas=(0, 2), scale={"idle": 1.0, "target": 2.0, "stabilise": 1.0})
    app.wait(timeout=WAIT_S)
    assert get(app.url)[0] == 200
    until(lambda: not app.replicas, "it falls asleep", deadline_s=WAIT_S)
    assert app.status == "ready", "it is as it should be: whoever asks is answered"
    answers: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(get(app.url, timeout_s=60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert answers == [(200, "hello GET / ")] * 3
    told = [str(event) for event in app.events if event.kind == "scaled"]
    assert any("nothing was asked for" in one for one in told)
    app.delete()


def test_a_broken_update_of_what_sleeps_is_left_for_who_waits(stage: Stage) -> None:
    app = stage.web("dreamer", replicas=(0, 2), env={"SAYS": "old"}, scale={"idle": 1.0, "stabilise": 1.0})
    app.wait(timeout=WAIT_S)
    until(lambda: not app.replicas, "it falls asleep", deadline_s=WAIT_S)
    app.update(command=["sh", "-c", "exit 1"], env={"SAYS": "new"})
    app.wait(timeout=WAIT_S)
    assert (app.status, app.revision) == ("ready", 2)
    assert get(app.url, timeout_s=60) == (200, "old GET / "), "by the revision that was ready once"
    assert app.revision == 1
    with pytest.raises(DeploymentFailed, match="dreamer is at revision 1 again: revision 2 "):
        app.wait(timeout=WAIT_S)
    app.delete()


def test_more_replicas_for_more_requests_and_fewer_afterwards(stage: Stage) -> None:
    app = stage.web("grows", replicas=(1, 3), scale={"target": 2.0, "stabilise": 1.0})
    app.wait(timeout=WAIT_S)
    with load(f"{app.url}/slow?1", 6):  # long beside what a busy machine adds
        until(ready(app, 3), "three replicas share the load", deadline_s=WAIT_S)
    until(ready(app, 1), "one is enough again", deadline_s=WAIT_S)
    app.delete()


def test_a_canary_gets_its_share(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.deploy.deciding.CANARY_S", 3600.0)
    app = stage.web("bird", env={"SAYS": "old"}, update={"strategy": "canary", "weight": 25})
    app.wait(timeout=WAIT_S)
    app.update(env={"SAYS": "new"})
    until(ready(app, 2), deadline_s=WAIT_S)
    until(lambda: get(app.url)[1].startswith("new"), deadline_s=WAIT_S)
    said = Counter(get(app.url)[1].split()[0] for _ in range(40))
    assert said["new"] == 10
    assert ready(app, 2)()
    monkeypatch.setattr("rios.deploy.deciding.CANARY_S", 0.5)  # its time is over
    until(lambda: app.status == "ready" and len(app.replicas) == 1, deadline_s=WAIT_S)
    assert get(app.url)[1].startswith("new")
    app.delete()


def test_what_is_older_is_never_taken_in_after_what_is_newer(stage: Stage) -> None:
    """Who ends a replica refreshes the routes first: nobody who read them before brings it back among them."""
    app = stage.web("leaves", replicas=2)
    app.wait(timeout=WAIT_S)
    store, read, go, taken = stage.platform.store, threading.Event(), threading.Event(), list[int]()

    class Late:
        """The store; the first that it is asked for comes late."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def snapshot(self) -> Any:
            found = store.snapshot()
            if not read.is_set():
                read.set()
                assert go.wait(WAIT_S * PATIENCE)
            return found

    class Watched(Routes):
        def _take_in(self, apps: Any, replicas: Any) -> None:
            taken.append(len([one for one in replicas[app.id] if one.state is State.READY]))
            super()._take_in(apps, replicas)

    routes = Watched(cast(AppStore, Late()), lambda _host, _replica, address: address)
    try:
        assert read.wait(WAIT_S)
        app.scale(1)
        until(ready(app, 1), deadline_s=WAIT_S)
        leaving = threading.Thread(target=routes.refresh)
        leaving.start()
        leaving.join(0.5)
        go.set()
        leaving.join(WAIT_S)
        until(lambda: len(taken) >= 2, "both were taken in", deadline_s=WAIT_S)
        assert taken[:2] == [2, 1]
    finally:
        go.set()
        routes.close()
    app.delete()


def test_what_is_asked_again_goes_to_another_host(stage: Stage) -> None:
    """Of a host that died two replicas are as dead as one, and a request is sent to two at most."""
    app: Any = SimpleNamespace(revision=1, round=0)
    places = {"a-1": "a", "a-2": "a", "b-1": "b"}
    ends = [Endpoint(name, "127.0.0.1", 1, 1, (1, 0), on=host) for name, host in places.items()]
    ends[2].running = 9
    route, routes = Route(app, {}, ends), stage.platform.routes
    assert routes.take(route) is ends[0]
    assert routes.take(route, avoid={"a-1"}) is ends[2], "however much it has to do"
    assert routes.take(route, avoid={"a-1", "b-1"}) is ends[1], "where there is no other, it is one of the same"


def test_a_replica_that_does_not_answer_is_left_alone_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The circuit of a replica opens by failures in a row, and one good answer closes it."""
    monkeypatch.setattr("rios.services.deployments.routing.OPEN_S", 30.0)
    app = stage.web("circuit", replicas=2)
    app.wait(timeout=WAIT_S)
    routes = stage.platform.routes
    until(lambda: (route := routes.of(app.id)) is not None and len(route.endpoints) == 2, deadline_s=WAIT_S)
    route = routes.of(app.id)
    assert route is not None
    bad = routes.take(route)
    assert bad is not None
    for _ in range(FAILURES_OPEN):
        routes.give_back(bad, good=False)
        bad.running += 1
    taken = [routes.take(route) for _ in range(4)]
    assert bad not in taken
    bad.open_until = 0.0
    until(lambda: routes.take(route) is bad, deadline_s=5)
    assert bad.open_until > time.monotonic(), "one request tries, and no second one"
    routes.give_back(bad, good=True)
    assert (bad.failures, bad.open_until) == (0, 0.0)
    app.delete()
