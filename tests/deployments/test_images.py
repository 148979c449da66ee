"""An image's name is resolved once for each revision: what is moved under it changes nothing of what runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.lifecycle import State
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS, Kind
from rios.deploy.runtimes.protocol import ImageBase, Isolation
from rios.deploy.spec import App
from rios.services.deployments.hosts import Order
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.local_hosts import LocalHosts
from rios.services.deployments.machine import clear_up
from rios.services.deployments.platform import Platform
from rios.words.errors import InvalidRequest, NotFound, SandboxFailed
from tests.deploy.images import make_image
from tests.deploy.registry import Registry
from tests.deployments.stage import Stage
from tests.waiting import until

WAIT_S = 60.0
TAG = "example.org/lab/said:1"
RESOURCES = {"cpu": 0.5, "memory": "64MiB"}
pytestmark = [pytest.mark.needs(what) for what in ("podman", "runc", "catatonit", "root", "busybox")]


class TwoHosts(LocalHosts):
    """Two hosts of this machine, each with its own engine and images."""

    def __init__(self, network_id: str, directory: Path) -> None:
        self._hosts = {}
        self._end = self._shut
        self.runtimes: dict[str, EngineRuntime] = {}
        for name in ("alpha", "beta"):
            self.runtimes[name] = runtime = EngineRuntime(KINDS["runc"], directory / name)
            self._hosts[name] = LocalHost(
                name, directory / name, lambda _, made=runtime: {made: Isolation.CONTAINER},
                {"runc": Isolation.CONTAINER}, network_id=network_id,
            )  # fmt: skip

    def _shut(self) -> None:
        """Also those that no host has asked for yet."""
        for runtime in self.runtimes.values():
            runtime.close()


class Place(Stage):
    """A network whose images are on two hosts."""

    def _made(self, home: Path | None, apps: Path | None, period_s: int, lease_s: float) -> Platform:
        assert apps is not None

        def hosts(store: Any) -> TwoHosts:
            self.hosts = TwoHosts(store.network_id(), apps)
            return self.hosts

        return Platform(self.purse.charging, hosts, lambda _: self.purse.books.address, home=home)

    def load(self, archive: Path) -> None:
        """Have an image on both hosts, and the tag lead to it."""
        assert self.platform.hosts
        for runtime in self.hosts.runtimes.values():
            image = runtime.prepare_archive(archive)
            assert isinstance(image, ImageBase)
            runtime._client().tag(image.digest, *TAG.rsplit(":", 1))


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rios-images-") as found:
        Path(found).chmod(0o711)
        yield Path(found)
        for name in ("alpha", "beta"):
            clear_up(Path(found) / "apps" / name)


@pytest.fixture(scope="module")
def images(directory: Path) -> tuple[Path, Path]:
    """Two images of one tag, which say which one they are."""
    command = ("/bin/sh", "-c", "exec sleep 600")
    one, two = (
        make_image(directory / f"{said}.tar", TAG, command=command, env=(f"SAYS={said}", "PATH=/bin"))
        for said in ("first", "second")
    )
    return one, two


def said(app: Any) -> dict[str, str]:
    """What the image of each replica that is ready says, by its host; one that goes meanwhile says nothing."""
    found = {}
    for one in app.replicas:
        if one.state is State.READY:
            with contextlib.suppress(NotFound, InvalidRequest):
                done = app.exec(["/bin/sh", "-c", "echo $SAYS"], replica=one.id)
                found[one.host] = done.stdout.decode().strip()
    return found


def test_a_tag_that_is_moved_changes_no_revision(directory: Path, images: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = images
    with Place(home=tmp_path, apps=directory / "apps") as place:
        place.load(first)
        app = place.deploy.create(name="tagged", image=TAG, resources=RESOURCES, grace=0.1)
        app.wait(timeout=WAIT_S)
        assert set(said(app).values()) == {"first"}
        assert [event.cause for event in app.events if event.kind == "image"] == [
            f"{TAG} of revision 1 is {app.revisions[0]['image']}"
        ]
        place.load(second)
        assert place.hosts.runtimes["alpha"].prepare_image(TAG).digest != app.revisions[0]["image"], "it is moved"
        app.scale(2)
        until(lambda: said(app) == {"alpha": "first", "beta": "first"}, "on each host", deadline_s=WAIT_S)
        old = {one.id for one in app.replicas}
        app.restart()
        until(lambda: len(said(app)) == 2 and not old & {one.id for one in app.replicas}, deadline_s=WAIT_S)
        assert said(app) == {"alpha": "first", "beta": "first"}
    with Place(home=tmp_path, apps=directory / "apps") as place:  # another process looks after it
        app = place.deploy.get("tagged")
        victim = app.replicas[0]
        place.platform.hosts.now()[victim.host].end(victim.id, grace_s=0.0)
        until(lambda: victim.id not in {one.id for one in app.replicas}, deadline_s=WAIT_S)
        until(lambda: said(app) == {"alpha": "first", "beta": "first"}, "it comes back", deadline_s=WAIT_S)
        assert app.update(image=TAG, replicas=2) == 2, "the name is given anew, and resolved anew"
        until(lambda: said(app) == {"alpha": "second", "beta": "second"}, deadline_s=WAIT_S)
        place.load(first)
        assert app.update(env={"OF": "mine"}) == 3
        until(lambda: said(app) == {"alpha": "first", "beta": "first"}, "so does any revision", deadline_s=WAIT_S)
        app.rollback(2)
        until(lambda: said(app) == {"alpha": "second", "beta": "second"}, "and none goes on", deadline_s=WAIT_S)
        found = [one["image"] for one in app.revisions]
        assert found[0] == found[2] != found[1]
        assert len([event for event in app.events if event.kind == "image"]) == 3
        app.delete(timeout=WAIT_S)


def test_a_host_without_the_image_starts_no_other_one(
    directory: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    with Place(home=tmp_path, apps=directory / "apps") as place:
        place.load(images[0])
        alpha, beta = place.hosts.runtimes.values()
        held = alpha.prepare_image(TAG)
        beta._client().remove_image(held.digest, force=True)
        beta.prepare_archive(images[1])
        with pytest.raises(NotFound, match=rf"{held.digest}.* not on this host"):
            beta.prepare_image(TAG, pinned=held)


class Trusting(Kind):
    """An engine that takes a registry's word without TLS."""

    __slots__ = ()

    def command(self, program: str, storage: Path, address: str) -> list[str]:
        podman, *more = super().command(program, storage, address)
        return [podman, "--registries-conf", str(storage.parent / "registries.conf"), *more]


def test_what_a_registry_has_is_pulled_by_digest(directory: Path, images: tuple[Path, Path]) -> None:
    first, second = images
    with Registry() as registry:
        runtimes = []
        for name in ("near", "far"):
            place = directory / name
            place.mkdir()
            location = registry.name.partition("/")[0]
            (place / "registries.conf").write_text(f'[[registry]]\nlocation = "{location}"\ninsecure = true\n')
            runtimes.append(EngineRuntime(Trusting("runc", Isolation.CONTAINER, "runc", "the package runc"), place))
        near, far = runtimes
        try:
            digest = registry.push(first, "1")
            held = near.prepare_image(f"{registry.name}:1")
            assert held.source == f"{registry.name}@{digest}"
            assert near.prepare_image(f"{registry.name}:1", here=False) == held, "what the registry gives is anybody's"
            assert near.prepare_image(held.source, here=False) == held
            registry.push(second, "1")
            assert far.prepare_image(f"{registry.name}:1", pinned=held) == held
            assert registry.pulls[-1] == digest
            moved = near.prepare_image(f"{registry.name}:1")
            assert moved != held, "who asks for the name gets what it leads to now"
            assert near.prepare_image(f"{registry.name}:1", pinned=held) == held
            _an_image_that_was_taken_away_is_pulled_again(near, directory / "near", f"{registry.name}:1", held)
            registry.forget("1")
            assert near.prepare_image(f"{registry.name}:1") == moved, "the one that is here, where there is no other"
            near._client().tag(moved.digest, "localhost/tool", "1")
            short = moved.digest.removeprefix("sha256:")[:12]
            for name in (f"{registry.name}:1", moved.digest, short, "tool:1", "localhost/tool:1"):
                assert near.prepare_image(name)
                with pytest.raises(NotFound, match="cannot be pulled"):
                    near.prepare_image(name, here=False, timeout_s=20.0)
        finally:
            for name, runtime in zip(("near", "far"), runtimes, strict=True):
                runtime.close()
                clear_up(directory / name)


def _an_image_that_was_taken_away_is_pulled_again(
    runtime: EngineRuntime, directory: Path, reference: str, held: ImageBase
) -> None:
    host = LocalHost(
        "near", directory, lambda _: {runtime: Isolation.CONTAINER}, {"runc": Isolation.CONTAINER}, network_id="net"
    )
    app = App.model_validate({"name": "x", "image": reference, "resources": RESOURCES})

    def order(replica_id: str) -> Order:
        return Order(
            replica_id=replica_id, app_id="app-1", organisation_id="org-1", revision=1, specification=app.stored(),
            image=held,
        )  # fmt: skip

    host.start(order("before"))
    host.clear("before")
    runtime._client().remove_image(held.digest, force=True)
    with pytest.raises(SandboxFailed):
        host.start(order("between"))
    assert host.pulls(app.stored(), held)
    assert host.start(order("after")).state == "running"
    host.clear("after")
