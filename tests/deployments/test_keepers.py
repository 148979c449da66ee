"""Copies of snapshots follow the hosts that there are, and who needs one waits for a host that has it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.volumes import Volumes
from rios.services.deployments import snapshotting
from rios.services.deployments.contents import Content, Contents
from rios.services.deployments.host_snapshots import HostSnapshots, Taken
from rios.services.deployments.platform import Platform
from rios.services.deployments.service import Deployments
from rios.services.purse import Purse
from rios.words.config import settings
from tests.deployments.simulated_hosts import SimulatedHost, SimulatedHosts
from tests.deployments.test_many_hosts import verbs
from tests.waiting import until

WAIT_S = 60.0
FIELDS: dict[str, Any] = {"command": ["x"], "resources": {"cpu": 1, "memory": "64MiB"}}
DATA = bytes(range(256)) * 4096


class Stored(HostSnapshots):
    """A host's part without file systems: each of its volumes has the same in it."""

    def __init__(self, name: str, place: Path) -> None:
        self.contents = Contents(place, 1 << 30, name=name)
        self.made: dict[str, bytes] = {}
        super().__init__(name, self.contents, Volumes(), lambda *_: place, runs=lambda _: False)

    def take(self, organisation_id: str, app_id: str, path: str, snapshot_id: str) -> Taken:
        digest = self.contents.kept(app_id, snapshot_id) or self.contents.add(io.BytesIO(DATA))
        assert not self.contents.keep(app_id, snapshot_id, digest)
        return Taken(digest, Content.of(self.contents.get(digest)).size_bytes, 0)

    def is_made(self, organisation_id: str, app_id: str, path: str) -> bool:
        return app_id in self.made

    def restore(self, organisation_id: str, app_id: str, path: str, *, size_bytes: int, digest: str) -> list[str]:
        if missing := self.contents.missing(digest):
            return missing
        self.made[app_id] = b"".join(self.contents.read(digest))
        return []


class Three:
    """Three hosts."""

    def __init__(self, purse: Purse, place: Path) -> None:
        self.hosts: dict[str, Any] = {name: SimulatedHost(name) for name in ("a", "b", "c")}
        for name, host in self.hosts.items():
            host.snapshots = Stored(name, place / name)
        self.platform = Platform(
            purse.charging, lambda _: SimulatedHosts(list(self.hosts.values())), lambda _name: purse.books.address,
            home=place, lease_s=2.0,
        )  # fmt: skip
        self.deploy: Deployments = verbs(self.platform)

    def kept(self, name: str) -> set[str]:
        """The hosts on whose disks a snapshot is."""
        found = {host: self.hosts[host].snapshots.kept() for host in self.hosts}
        return {host for host, all_of_it in found.items() if name in [one for _, one in all_of_it]}


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Three]:
    for name, value in (("LOST_S", 2.0), ("_COUNT_S", 0.2), ("_NOWHERE_S", 0.2), ("_AGAIN_S", 0.2)):
        monkeypatch.setattr(snapshotting, name, value)
    with Purse(settings().model_copy(update={"home": tmp_path / "home"}), background=False) as purse:
        found = Three(purse, tmp_path)
        yield found
        found.platform.close()


def test_a_lost_copy_is_made_again_and_one_too_many_is_dropped(three: Three) -> None:
    app = three.deploy.create(name="disk", volumes={"/data": "1MiB"}, **FIELDS).wait(timeout=WAIT_S)
    (home,) = {one.host for one in app.replicas}
    name = app.snapshots.take("/data", copies=2).id
    until(lambda: len(three.kept(name)) == 2 == len(app.snapshots.get(name).hosts), deadline_s=WAIT_S)
    (other,) = three.kept(name) - {home}
    three.hosts[other].gone = True
    until(lambda: three.kept(name) == {"a", "b", "c"}, "another one", deadline_s=WAIT_S)
    three.hosts[other].gone = False
    until(lambda: len(three.kept(name)) == 2 == len(app.snapshots.get(name).hosts), "no more", deadline_s=WAIT_S)
    assert home in three.kept(name), "where the volume is, it is next at hand"
    app.snapshots.delete(name)
    until(lambda: not three.kept(name), deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_who_needs_a_snapshot_waits_for_a_host_that_keeps_it(three: Three) -> None:
    app = three.deploy.create(name="disk", volumes={"/data": "1MiB"}, **FIELDS).wait(timeout=WAIT_S)
    (home,) = {one.host for one in app.replicas}
    name = app.snapshots.take("/data").id
    three.hosts[home].gone = True
    until(lambda: app.status != "ready", "it is lost", deadline_s=WAIT_S)
    volumes = {"/data": {"size": "1MiB", "snapshot": name}}
    waits = three.deploy.create(name="waits", volumes=volumes, **FIELDS)
    until(lambda: f"waits for a snapshot: {name} cannot be read: {home} does not answer" in waits.reason,
          deadline_s=WAIT_S)  # fmt: skip
    gives_up = three.deploy.create(name="gives-up", volumes=volumes, **FIELDS)
    until(lambda: gives_up.status == "pulling", deadline_s=WAIT_S)
    gives_up.delete(timeout=WAIT_S)
    assert not waits.replicas[0].started_at
    three.hosts[home].gone = False
    waits.wait(timeout=WAIT_S)
    assert waits.reason == ""
    (host,) = {one.host for one in waits.replicas}
    assert three.hosts[host].snapshots.made[waits.id] == DATA
    for one in (waits, app):
        one.delete(timeout=WAIT_S)
