"""What a pull leaves: an image that goes when nobody uses it, and nothing where it was broken off."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rios.deploy.runtimes import engine_leftovers
from rios.deploy.runtimes import fetched as marking
from rios.deploy.runtimes.fetched import Fetched
from rios.words.errors import NotFound, SandboxFailed
from tests.deploy.a_host import HOUR_S, LARGE, RESERVE, Place, a_pulling_place, layer, pushed, stored, with_runc
from tests.deploy.images import make_image
from tests.deploy.registry import Registry
from tests.waiting import PATIENCE, until


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def pulling(registry: Registry) -> Iterator[Place]:
    """A host that pulls from the registry."""
    with a_pulling_place(registry) as made:
        yield made


@with_runc
def test_a_pull_for_which_there_is_no_room_is_broken_off(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    over = threading.Event()

    def sending(sent: int, size: int) -> None:
        if size > LARGE and sent > 1 << 20:
            until(lambda: len(stored(pulling, "layers")) == 1, "the small one is there", deadline_s=20)
            pulling.free = RESERVE - 1
            over.wait(60)

    registry.sending = sending
    began = time.monotonic()
    try:
        said = rf"image {registry.name}:1 is not pulled: .* {RESERVE - 1} bytes free .*RIOS_APPS_RESERVE_BYTES.*make"
        with pytest.raises(SandboxFailed, match=said):
            pulling.host.prepare(specification)
        assert time.monotonic() - began < 25 * PATIENCE
        until(lambda: "rios-credentials" not in [one.name for one in threading.enumerate()], "its end", deadline_s=5)
    finally:
        over.set()
        registry.sending = lambda sent, size: None
    engine = pulling.directory / "engine"

    def nothing_left() -> bool:
        pulling.look()
        return not (stored(pulling, "layers") or stored(pulling, "images") or [*engine.glob("storage*")])

    until(nothing_left, "nothing of it is left", deadline_s=20)
    asked = len(registry.pulls)
    with pytest.raises(SandboxFailed, match="is not pulled"):
        pulling.host.prepare(specification)
    assert len(registry.pulls) == asked, "it is not begun"
    pulling.free = RESERVE
    image = pulling.host.prepare(specification)
    pulling.start("stands", specification, image)
    pulling.look(after_s=2 * HOUR_S)
    assert len(stored(pulling, "images")) == 1
    pulling.end("stands")


def broken_off(registry: Registry, place: Place, specification: dict[str, Any]) -> None:
    """A pull of which a layer is left."""
    over, before = threading.Event(), len(stored(place, "layers"))

    def whole() -> bool:
        found = [one for one in stored(place, "layers") if one.get("diff-digest") and not one.get("flags")]
        return len(found) == before + 1

    def sending(sent: int, size: int) -> None:
        if size > LARGE and sent > 1 << 20:
            until(whole, "the small one is there", deadline_s=20)
            place.free = RESERVE - 1
            over.wait(60)

    registry.sending = sending
    try:
        with pytest.raises(SandboxFailed, match="is not pulled"):
            place.runtime.prepare_image(specification["image"], no_room=place.host._room.make)
    finally:
        over.set()
        registry.sending = lambda sent, size: None
        place.free = RESERVE


@pytest.mark.parametrize("killed", [False, True])
@with_runc
def test_with_what_is_left_of_a_pull_nothing_else_goes(registry: Registry, pulling: Place, killed: bool) -> None:
    (pulling.directory / "own.layer").write_bytes(layer("own", 1 << 10))
    own = make_image(
        pulling.directory / "own.tar", "example.org/lab/own:1", command=("sleep", "600"),
        rootfs=pulling.directory / "own.layer", labels={"rios.leftovers": "1"},
    )  # fmt: skip
    client = pulling.runtime._client()
    with own.open("rb") as file:
        list(client.load_image(file))
    broken_off(registry, pulling, pushed(registry, pulling))
    if killed:  # between the two calls by which a host takes it away
        (chain,) = engine_leftovers._leftovers(pulling.directory / "engine", {stored(pulling, "images")[0]["layer"]})
        list(client.load_image(engine_leftovers._image_of(chain)))
        assert len(stored(pulling, "images")) == 2

    def nothing_left() -> bool:
        pulling.host._room.sweep()
        return (len(stored(pulling, "images")), len(stored(pulling, "layers"))) == (1, 1)

    until(nothing_left, "the other one alone is there", deadline_s=20)
    assert client.inspect_image("example.org/lab/own:1")


@with_runc
def test_what_is_left_of_a_pull_goes_although_the_name_leads_elsewhere(
    registry: Registry, pulling: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(registry, pulling, pushed(registry, pulling))
    (left,) = stored(pulling, "layers")
    whole = layer("another", 1 << 10)
    registry.push_layers([whole], "1", ("sleep", "600"))
    assert pulling.runtime.prepare_image(f"{registry.name}:1")
    assert left["id"] in [one["id"] for one in stored(pulling, "layers")], "who tries again may need it"
    monkeypatch.setattr(marking, "_RESUMED_S", -1.0)
    pulling.runtime.sweep(at_once=False)
    assert left["id"] not in [one["id"] for one in stored(pulling, "layers")]
    assert len(stored(pulling, "images")) == 1


@with_runc
def test_an_image_that_was_pulled_goes_and_is_pulled_again(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    image = pulling.host.prepare(specification)
    assert image is not None
    assert pulling.runtime.prepare_image(image.source) == image, "by another name, too"
    pulling.start("stands", specification, image)
    pulling.end("stands")
    assert not pulling.host.pulls(specification, image)
    pulling.look(after_s=2 * HOUR_S)
    assert not stored(pulling, "images")
    assert not stored(pulling, "layers")
    assert pulling.host.pulls(specification, image)
    pulling.start("again", specification, image)
    pulling.end("again")


@with_runc
def test_an_image_that_somebody_else_pulled_first_stays(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    list(pulling.runtime._client().pull(f"{registry.name}:1", stream=True))
    image = pulling.host.prepare(specification)
    assert not Fetched(pulling.directory).unused()
    pulling.start("stands", specification, image)
    pulling.end("stands")
    pulling.free = 0
    pulling.look(after_s=2 * HOUR_S)
    assert len(stored(pulling, "images")) == 1


@pytest.mark.parametrize("again", [False, True])
@with_runc
def test_an_image_that_somebody_else_brought_since_stays(registry: Registry, pulling: Place, again: bool) -> None:
    specification = pushed(registry, pulling)
    image = pulling.host.prepare(specification)
    assert image is not None
    client = pulling.runtime._client()
    if not again:
        client.remove_image(image.digest, noprune=True)
    list(client.pull(f"{registry.name}:1", stream=True))
    (mark,) = Fetched(pulling.directory).unused()
    assert mark.base.digest == image.digest
    assert pulling.host.prepare(specification) == image
    pulling.look(after_s=2 * HOUR_S)
    assert len(stored(pulling, "images")) == 1
    assert not Fetched(pulling.directory).unused(), "it is not looked at again"


@with_runc
def test_an_image_that_was_fetched_twice_goes(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    for _ in range(2):
        assert pulling.host.prepare(specification)
    pulling.look(after_s=2 * HOUR_S)
    assert not stored(pulling, "images")


@with_runc
def test_where_there_is_no_room_what_is_here_by_the_name_runs(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    image = pulling.host.prepare(specification)
    assert image is not None
    pulling.free = 0
    (mark,) = (pulling.directory / "fetched").glob("image-*[0-9a-f]")
    for before_s in (0.0, 900.0):
        os.utime(mark, (time.time() - before_s,) * 2)
        assert pulling.host.prepare(specification) == image
    os.utime(mark, (time.time() - 900.0,) * 2)
    with pytest.raises(SandboxFailed, match="bytes free"):
        pulling.host.prepare(specification, here=False)
    assert pulling.host.prepare(specification, image) == image, "nor is it gone for those whom its registry gave it"
    pulling.start("stands", specification, image)
    pulling.end("stands")


@with_runc
def test_making_room_for_a_pull_is_tried_before_it_is_broken_off(registry: Registry, pulling: Place) -> None:
    found, unused = pulling.archive("unused")
    pulling.fetch(found, unused)
    specification = pushed(registry, pulling)
    pulling.later_s += 900
    pulling.free = lambda: 0 if pulling.has(found) else RESERVE  # type: ignore[assignment]
    assert pulling.host.prepare(specification) is not None
    assert not pulling.has(found)


@with_runc
def test_a_pull_is_broken_off_also_while_others_make_room(registry: Registry, pulling: Place) -> None:
    specification = pushed(registry, pulling)
    over, turn = threading.Event(), pulling.host._room._turn

    def sending(sent: int, size: int) -> None:
        if size > LARGE and sent > 1 << 20 and turn.acquire(blocking=False):
            pulling.free = 0
            over.wait(90)

    registry.sending = sending
    began = time.monotonic()
    try:
        with pytest.raises(SandboxFailed, match="is not pulled"):
            pulling.host.prepare(specification)
        assert time.monotonic() - began < 60
        assert turn.locked()
    finally:
        over.set()
        turn.release()
        registry.sending = lambda sent, size: None


@with_runc
def test_an_image_that_is_loaded_after_a_pull_failed_is_not_taken_for_a_pulled_one(
    registry: Registry, pulling: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry.name}:1"
    with pytest.raises(NotFound, match="cannot be pulled"):
        pulling.runtime.prepare_image(name)
    archive = make_image(pulling.directory / "own.tar", name, command=("sleep", "600"))
    with archive.open("rb") as file:
        list(pulling.runtime._client().load_image(file))
    assert [*(pulling.directory / "fetched").glob("fetching-*")]
    monkeypatch.setattr(marking, "_RESUMED_S", -1.0)
    for _ in range(2):
        pulling.look(after_s=2 * HOUR_S)
    assert len(stored(pulling, "images")) == 1
    assert not [*(pulling.directory / "fetched").glob("fetching-*")]


@with_runc
def test_an_engine_that_dies_while_it_pulls_has_pulled_nothing(registry: Registry, pulling: Place) -> None:
    name = f"{registry.name}:1"
    pushed(registry, pulling)
    before = pulling.runtime.prepare_image(name)
    pushed(registry, pulling)

    service = pulling.runtime._service.process_id

    def sending(sent: int, size: int) -> None:
        if size > LARGE and sent > 1 << 20:
            with contextlib.suppress(ProcessLookupError):
                os.kill(service, signal.SIGKILL)

    registry.sending = sending
    with pytest.raises(NotFound, match="cannot be pulled"):
        pulling.runtime.prepare_image(name, here=False)
    registry.sending = lambda sent, size: None
    until(lambda: pulling.runtime._service.process_id is None, "its end", deadline_s=10)
    assert pulling.runtime._client().images(all=True), "another engine answers at once"
    assert [*pulling.directory.glob("engine/storage*")], "it could not tidy up"
    pulling.free = 0
    pulling.look()
    assert not [*pulling.directory.glob("engine/storage*")]
    assert pulling.runtime.prepare_image(name) != before
