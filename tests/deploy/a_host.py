"""A host with one runtime, whose clock and disk are what a test says; and one that pulls from a registry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS, Kind
from rios.deploy.runtimes.protocol import ImageBase, Isolation
from rios.deploy.spec import App
from rios.services.deployments.archives import Archive
from rios.services.deployments.hosts import Order
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import clear_up
from rios.services.deployments.room import Keeping
from tests.deploy.conftest import NEEDS, make_runtime
from tests.deploy.images import make_rootfs
from tests.deploy.registry import Registry

HOUR_S = 3600.0
RESERVE = 1 << 20
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


@contextlib.contextmanager
def a_pulling_place(registry: Registry) -> Iterator[Place]:
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
