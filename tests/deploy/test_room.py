"""What a host fetched goes when nobody uses it, or when its disk has no room; what somebody else brought stays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes import fetched as marking
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS, Kind
from rios.deploy.runtimes.fetched import Fetched
from rios.deploy.runtimes.protocol import ImageBase, Isolation
from rios.deploy.runtimes.rootfs import RootStore
from rios.deploy.spec import App
from rios.services.deployments import room
from rios.services.deployments.archives import Archive
from rios.services.deployments.hosts import Order
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import clear_up
from rios.services.deployments.room import Keeping
from rios.words.errors import NotFound, SandboxFailed
from tests.deploy.conftest import NEEDS, make_runtime, runtime_parameters
from tests.deploy.images import make_image, make_rootfs
from tests.deploy.registry import Registry
from tests.waiting import PATIENCE, until

HOUR_S = 3600.0
RESERVE = 1 << 20
NAMED = "example.org/lab/own:1"
RESOURCES = {"cpu": 0.5, "memory": "64MiB"}


class Place:
    """A host with one runtime, whose clock and disk are what a test says."""

    def __init__(self, name: str, directory: Path, runtime: Any) -> None:
        self.name, self.directory, self.runtime = name, directory, runtime
        self.later_s, self.free = 0.0, 1 << 40
        self.host = self.another()

    def another(self) -> LocalHost:
        """The same host, as another process has it."""
        keeping = Keeping(
            kept_s=HOUR_S,
            reserve_bytes=RESERVE,
            free=lambda _: self.free if isinstance(self.free, int) else self.free(),
            clock=lambda: time.time() + self.later_s,
        )
        level = Isolation.PROCESS
        return LocalHost(
            "h", self.directory, lambda _: {self.runtime: level}, {self.runtime.name: level}, network_id="net",
            keeping=keeping,
        )  # fmt: skip

    def archive(self, says: str) -> tuple[Archive, dict[str, Any]]:
        """An archive that no other one is like, and what is deployed on it."""
        path = make_rootfs(self.directory / f"{says}.tar", python=False)
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo(f"says-{says}")
            tar.addfile(member)
        found = Archive.of(path)
        app = App.model_validate(
            {
                "name": "x", "rootfs": f"{path}@{found.digest}", "command": ["sleep", "600"], "resources": RESOURCES,
                "runtime": self.name,
            }
        )  # fmt: skip
        return found, app.stored()

    def fetch(self, found: Archive, specification: dict[str, Any]) -> None:
        assert self.host.snapshots is not None
        found.give(lambda: self.host.unpack(specification, found.content_digest), self.host.snapshots.put)

    def has(self, found: Archive) -> bool:
        return self.runtime.prepared_archive(found.digest) is not None

    def look(self, *, after_s: float = 0.0) -> None:
        self.later_s += after_s
        self.host._room.look()

    def start(self, replica_id: str, specification: dict[str, Any], image: ImageBase | None = None) -> None:
        order = Order(
            replica_id=replica_id, app_id="app-1", organisation_id="org-1", revision=1, specification=specification,
            image=image,
        )  # fmt: skip
        assert self.host.start(order).state == "running"

    def end(self, *replicas: str) -> None:
        for replica_id in replicas:
            self.host.clear(replica_id)


@contextlib.contextmanager
def a_place(name: str) -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="rios-room-"))
    directory.chmod(0o711)
    made = Place(name, directory, make_runtime(name, directory))
    try:
        yield made
    finally:
        made.runtime.close()
        clear_up(directory)


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
    assert not [one for one in (place.directory / "fetched").iterdir() if one.name != "turn"]
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


def test_a_half_unpacked_root_of_a_killed_process_goes(tmp_path: Path) -> None:
    roots = RootStore(tmp_path)
    left, kept = tmp_path / ".unpacking-left", tmp_path / ".unpacking-new"
    for path in (left, kept):
        (path / "root").mkdir(parents=True)
    os.utime(left, (0, 0))
    roots.sweep()
    assert (left.exists(), kept.exists()) == (False, True)


# --- pulls -------------------------------------------------------------------------------------------------------


class Trusting(Kind):
    """An engine that takes a registry's word without TLS."""

    __slots__ = ()

    def command(self, program: str, storage: Path, address: str) -> list[str]:
        podman, *more = super().command(program, storage, address)
        return [podman, "--registries-conf", str(storage.parent / "registries.conf"), *more]


def layer(name: str, size: int) -> bytes:
    """A layer of one file, which cannot be compressed."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(os.urandom(size)))
    return whole.getvalue()


LARGE = 8 << 20


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def pulling(registry: Registry) -> Iterator[Place]:
    """A host that pulls from the registry."""
    with a_place("runc") as made:
        made.runtime.close()
        location = registry.name.partition("/")[0]
        settings = f'[[registry]]\nlocation = "{location}"\ninsecure = true\n'
        (made.directory / "registries.conf").write_text(settings)
        made.runtime = EngineRuntime(Trusting("runc", Isolation.CONTAINER, "runc", "the package runc"), made.directory)
        assert KINDS["runc"].name == made.runtime.name
        made.host = made.another()
        yield made
        made.host.close()


def pushed(registry: Registry, place: Place) -> dict[str, Any]:
    """An image of a small layer and a large one, and what is deployed on it."""
    small = make_rootfs(place.directory / "small.tar", python=False)
    layers = [small.read_bytes(), layer("large", LARGE)]
    registry.push_layers(layers, "1", ("sleep", "600"))
    wanted = {"name": "x", "image": f"{registry.name}:1", "resources": RESOURCES, "runtime": "runc"}
    return App.model_validate(wanted).stored()


def stored(place: Place, kind: str) -> list[Any]:
    path = place.directory / "engine" / "root" / f"overlay-{kind}" / f"{kind}.json"
    return list(json.loads(path.read_text() or "[]") or []) if path.exists() else []


needs_runc = [pytest.mark.needs(what) for what in (*NEEDS["runc"], "root", "busybox")]


def with_runc(test: Any) -> Any:
    for mark in needs_runc:
        test = mark(test)
    return test


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
