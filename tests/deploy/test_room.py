"""What a host fetched goes when nobody uses it, or when its disk has no room; what somebody else brought stays."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.fetched import Fetched
from rios.deploy.runtimes.rootfs import RootStore
from rios.deploy.runtimes.watching import begun
from rios.deploy.spec import App
from rios.services.deployments import room
from rios.words.errors import RiosError, SandboxFailed
from tests.deploy.a_host import HOUR_S, RESERVE, RESOURCES, Place, a_place
from tests.deploy.conftest import runtime_parameters
from tests.deploy.images import make_image
from tests.waiting import PATIENCE, until

NAMED = "example.org/lab/own:1"


@pytest.fixture(params=runtime_parameters())
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with a_place(request.param) as made:
        yield made


def test_what_nobody_uses_goes_after_its_time_and_comes_back(place: Place) -> None:
    found, specification = place.archive("one")
    place.fetch(found, specification)
    place.look(after_s=0.9 * HOUR_S)
    assert place.has(found), "not so soon"
    place.start("stands", specification)
    place.look(after_s=2 * HOUR_S)
    assert place.has(found), "an instance stands on it"
    place.host.end("stands", grace_s=0.0)
    place.look(after_s=2 * HOUR_S)
    assert place.has(found), "until it is cleared away"
    place.end("stands")
    place.look()
    assert place.has(found), "it was used just before"
    place.look(after_s=2 * HOUR_S)
    assert not place.has(found)
    assert not [one for one in (place.directory / "fetched").iterdir() if one.name not in ("turn", "writing")]
    assert place.host.pulls(specification)
    place.fetch(found, specification)
    place.start("again", specification)
    place.end("again")


def test_where_there_is_no_room_what_was_used_longest_ago_goes_first(place: Place) -> None:
    made = [place.archive(says) for says in ("first", "second", "third")]
    for found, specification in made:
        place.fetch(found, specification)
        place.later_s += 100
    first, second, third = (found for found, _ in made)
    place.start("uses-first", made[0][1])
    place.end("uses-first")
    place.free = lambda: RESERVE - 1 if place.has(second) else RESERVE  # type: ignore[assignment]
    place.look()
    assert place.has(second), "it may be for a start that is to come"
    place.look(after_s=900)
    assert (place.has(first), place.has(second), place.has(third)) == (True, False, True)
    place.free = 0
    place.start("stands", made[2][1])
    more, specification = place.archive("more")
    place.later_s += 900
    with pytest.raises(SandboxFailed, match=r"host h has 0 bytes free .*RIOS_APPS_RESERVE_BYTES.* make room"):
        place.fetch(more, specification)
    assert (place.has(first), place.has(third)) == (False, True), "before it is refused; not what is stood on"
    place.end("stands")


def test_what_somebody_else_brought_stays(place: Place) -> None:
    found, specification = place.archive("mine")
    place.fetch(found, specification)
    if place.name == "bubblewrap":
        own = place.directory / "rootfs" / ("1" * 64)
        own.mkdir()
        place.free = 0
        place.look(after_s=2 * HOUR_S)
        assert own.is_dir()
        assert not place.has(found)
        return
    client = place.runtime._client()
    with make_image(place.directory / "own.tar", NAMED, command=("sleep", "600")).open("rb") as file:
        list(client.load_image(file))
    wanted = App.model_validate({"name": "x", "image": NAMED, "resources": RESOURCES, "runtime": place.name}).stored()
    own_image = place.host.prepare(wanted)
    assert own_image is not None
    place.start("stands", wanted, own_image)
    place.end("stands")
    given, _ = place.archive("given")
    named = place.runtime.prepare_archive(place.directory / "given.tar")
    client.tag(named.digest, "localhost/tool", "1")
    place.free = 0
    place.look(after_s=2 * HOUR_S)
    assert client.inspect_image(NAMED)["Id"] == own_image.digest
    assert client.inspect_image("localhost/tool:1")["Id"] == named.digest, "it has been named since"
    assert place.has(given)
    assert not place.has(found)


def test_nothing_is_taken_away_while_it_is_started_on(place: Place) -> None:
    found, specification = place.archive("one")
    place.fetch(found, specification)
    marks, other = Fetched(place.directory), place.another()
    (mark,) = marks.unused()
    place.later_s += 2 * HOUR_S
    with marks.using(mark.base):  # by a process whose clock is behind
        other._room.look()
        assert place.has(found)
    other._room.look()
    assert not place.has(found)
    assert place.host.pulls(specification), "although another process took it away"
    with pytest.raises(SandboxFailed, match="to be unpacked first"):
        place.start("late", specification)
    place.fetch(found, specification)
    place.start("after", specification)
    place.end("after")
    place.host.close()


def test_nothing_is_known_of_what_is_just_taken_away(place: Place) -> None:
    found, specification = place.archive("one")
    place.fetch(found, specification)
    marks, other, asked = Fetched(place.directory), place.another(), threading.Event()
    (mark,) = marks.unused()
    prepared = place.runtime.prepared_archive

    def told(digest: str) -> Any:
        try:
            return prepared(digest)
        finally:
            asked.set()

    place.runtime.prepared_archive = told
    with marks.taking(mark) as mine:
        assert mine
        unpacking = begun(lambda: other.unpack(specification, found.content_digest), "unpacking")
        assert asked.wait(10)
        time.sleep(0.2)  # it waits for whoever takes it away
        assert not unpacking.done()
        assert place.runtime.drop(mark)
    assert unpacking.result(10), "it is asked for anew"
    assert other.pulls(specification)


def test_a_look_that_goes_on_after_its_host_was_closed_starts_no_engine(place: Place) -> None:
    found, specification = place.archive("one")
    place.fetch(found, specification)
    drop, inside, over = place.runtime.drop, threading.Event(), threading.Event()

    def late(mark: Any) -> Any:
        inside.set()
        over.wait(30)
        return drop(mark)

    place.runtime.drop = late
    place.later_s += 2 * HOUR_S
    looking = begun(place.host._room.look, "looking")
    assert inside.wait(10)
    place.host.close()
    over.set()
    looking.result(30)
    if place.name != "bubblewrap":
        assert place.runtime._service.process_id is None
        with pytest.raises(SandboxFailed, match="closed"):
            place.runtime._client()


@pytest.mark.parametrize("place", runtime_parameters()[:1], indirect=True)
def test_who_asks_what_runs_waits_for_no_look(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    over, looks = threading.Event(), list[str]()

    def look() -> None:
        looks.append(threading.current_thread().name)
        over.wait(60)

    monkeypatch.setattr(room, "_LOOK_S", 0.0)
    host = place.another()
    monkeypatch.setattr(host._room, "look", look)
    began = time.monotonic()
    for _ in range(3):
        assert host.instances() == []
    assert time.monotonic() - began < 10 * PATIENCE
    until(lambda: looks == ["rios-unused"], "one look, in a thread of its own", deadline_s=10)
    threading.Timer(0.2, over.set).start()
    host.close()
    assert over.is_set(), "it has ended before the runtimes are let go of"


def given_up(marks: Fetched, name: str, layer: str) -> None:
    """A fetch that failed."""
    with contextlib.suppress(RiosError), marks.fetching(name, lambda: before(layer)):
        raise SandboxFailed("it did not come")


def before(layer: str) -> dict[str, Any]:
    return {"names": {}, "foreign": [], "layers": [layer]}


def test_what_cannot_be_taken_away_holds_up_nothing_else(tmp_path: Path) -> None:
    now, tried = [0.0], list[str]()
    marks = Fetched(tmp_path, clock=lambda: now[0])
    for name in ("one", "two", "three"):
        given_up(marks, name, name)

    def take_away(said: dict[str, Any]) -> None:
        tried.extend(said["layers"])
        if said["layers"] == ["two"]:
            raise SandboxFailed("it is broken")

    now[0] += 2 * HOUR_S
    marks.resolve(take_away, at_once=False)
    assert sorted(tried) == ["one", "three", "two"]
    marks.resolve(take_away, at_once=False)
    assert len(tried) == 3, "not at each look"
    now[0] += 2 * HOUR_S
    marks.resolve(take_away, at_once=False)
    assert tried[3:] == ["two"], "it is not forgotten"


def test_who_fetches_the_same_name_leaves_others_what_they_know(tmp_path: Path) -> None:
    now, said = [0.0], list[str]()
    marks = Fetched(tmp_path, clock=lambda: now[0])

    def left() -> list[str]:
        said.clear()
        marks.resolve(lambda one: said.extend(one["layers"]), at_once=True)
        return said

    with contextlib.ExitStack() as first:
        first.enter_context(marks.fetching("one", lambda: before("first")))
        with contextlib.suppress(SandboxFailed), marks.fetching("one", lambda: before("second")):
            first.close()
            raise SandboxFailed("it did not come")
    assert left() == ["first"], "what came to both of them"
    now[0] = 0.9 * HOUR_S
    with marks.fetching("one", lambda: before("third")):
        pass
    assert left() == ["first"], "although the name has been fetched since"
    now[0] = 1.1 * HOUR_S
    assert left() == ["first"], "in its time"
    assert left() == []
    with marks.fetching("one", lambda: before("fourth")):
        pass
    assert left() == [], "it has come"


def test_a_half_unpacked_root_of_a_killed_process_goes(tmp_path: Path) -> None:
    roots = RootStore(tmp_path)
    left, kept = tmp_path / ".unpacking-left", tmp_path / ".unpacking-new"
    for path in (left, kept):
        (path / "root").mkdir(parents=True)
    os.utime(left, (0, 0))
    roots.sweep()
    assert (left.exists(), kept.exists()) == (False, True)
