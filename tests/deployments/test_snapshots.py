"""Snapshots of volumes: of one moment, kept by several hosts, each chunk once, restored on another one, paid for."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.protocol import Isolation
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments import network_hosts, snapshots
from rios.services.deployments.contents import Contents
from rios.services.deployments.local_host import CPU_SHARES
from rios.services.deployments.network_hosts import NetworkHosts
from rios.services.deployments.platform import Platform
from rios.services.deployments.rent import SNAPSHOTS, Rent
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import HostLost, InsufficientBalance, InvalidRequest, NotFound, SandboxFailed
from tests.deployments.stage import RESOURCES
from tests.deployments.test_agents import WAIT_S, Machine, Nobody, deploy, machines, platform
from tests.deployments.test_keepers import END_S
from tests.deployments.test_many_hosts import verbs
from tests.waiting import until

pytestmark = [pytest.mark.needs("bwrap"), pytest.mark.needs("root")]
__all__ = ["deploy", "machines", "platform"]
MIB = 1 << 20
GONE_S = 180.0
"""On a disk that others keep busy a volume is unmounted late."""


ALL = {"cpu": len(os.sched_getaffinity(0)) * CPU_SHARES - 0.1, "memory": "64MiB"}
"""What leaves no room on a host for another one: that is placed elsewhere."""


def _keeper(deploy: Deployments, name: str, size: str = "32MiB", resources: Any = RESOURCES, **volume: Any) -> Any:
    """A deployment with a volume, that does nothing."""
    volumes = {"/data": {"size": size, "keep": False, **volume}}
    return deploy.create(name=name, command=["sleep", "600"], volumes=volumes, resources=resources, grace=1).wait(
        timeout=WAIT_S
    )


def _inside(app: Any, command: str) -> str:
    done = app.exec(["sh", "-c", command], timeout=60)
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode().strip()


def test_a_snapshot_is_restored_on_another_host(deploy: Deployments) -> None:
    app = _keeper(deploy, "first", resources=ALL)
    assert app.snapshots.list() == []
    _inside(app, "echo kept > /data/file; mkdir /data/inner; head -c 6000000 /dev/urandom > /data/inner/big; sync")
    digest = _inside(app, "cat /data/inner/big | sha256sum")
    (home,) = {one.host for one in app.replicas}
    snapshot = app.snapshots.take("/data", copies=2)
    assert (snapshot.state, snapshot.path, snapshot.quota_bytes) == ("kept", "/data", 32 * MIB)
    _inside(app, "echo later > /data/file")
    until(lambda: app.snapshots.get(snapshot.id).hosts == ("alpha", "beta"), deadline_s=WAIT_S)
    (other,) = {"alpha", "beta"} - {home}
    # The first one keeps its volume; this one begins with what it had, where that is not.
    second = _keeper(deploy, "second", snapshot=snapshot.id)
    assert _inside(second, "cat /data/file") == "kept"
    assert _inside(second, "cat /data/inner/big | sha256sum") == digest
    assert {one.host for one in second.replicas} == {other}
    for one in (second, app):
        one.delete(timeout=GONE_S)


def test_what_is_alike_lies_there_once_and_goes_with_the_last(
    deploy: Deployments, platform: Platform, machines: list[Machine]
) -> None:
    app = _keeper(deploy, "alike")
    _inside(app, "head -c 8000000 /dev/urandom > /data/a; head -c 3000000 /dev/urandom > /data/b; sync")
    first = app.snapshots.take("/data", copies=2)
    _inside(app, "head -c 3000000 /dev/urandom > /data/b; echo more > /data/c; sync")
    second = app.snapshots.take("/data", copies=2)
    for one in (first, second):
        until(lambda one=one: len(app.snapshots.get(one.id).hosts) == 2, deadline_s=WAIT_S)
    rooms = {room.host: dict(room.sizes) for room in platform._metering.rent._rooms(app.id)}
    (home,) = {one.host for one in app.replicas}
    for host, sizes in rooms.items():
        kept = sizes.pop(SNAPSHOTS)
        assert first.size_bytes + 3_000_000 < kept < first.size_bytes + 8_000_000 < 2 * first.size_bytes
        assert sizes == ({"/data": 32 * MIB} if host == home else {})
        assert kept == _stored(machines, host)
    app.snapshots.delete(first.id)
    until(lambda: {_stored(machines, host) for host in rooms} != {kept}, deadline_s=WAIT_S)
    third = _keeper(deploy, "third", snapshot=second.id)
    assert _inside(third, "cat /data/c") == "more"
    third.delete(timeout=GONE_S)
    app.delete(timeout=GONE_S)
    until(lambda: not any(_stored(machines, host) for host in rooms), "nothing stays", deadline_s=WAIT_S)
    assert not app._store.ledger.balance(LOCAL_USER).held_wei
    assert {one.worker for one in app._store.ledger.usage(request_id=app.id) if one.resource == "storage"} == {*rooms}


def test_what_cannot_be_taken_or_paid_for_says_why(
    deploy: Deployments, platform: Platform, machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _keeper(deploy, "poor", size="4MiB")
    monkeypatch.setattr(Rent, "keeping", _poor)
    with pytest.raises(SandboxFailed, match="it is not paid for: nothing is left"):
        app.snapshots.take("/data")
    (one,) = app.snapshots.list()
    assert (one.state, one.hosts) == ("failed", ())
    assert not any(_stored(machines, machine.name) for machine in machines)
    monkeypatch.undo()
    with pytest.raises(InvalidRequest, match="no snapshot"):
        _keeper(deploy, "none", snapshot=one.id)
    app.pause()
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    three = app.snapshots.take("/data", copies=3)
    until(lambda: "2 of 3 hosts: no further one" in app.snapshots.get(three.id).reason, deadline_s=WAIT_S)
    monkeypatch.setattr(snapshots, "SNAPSHOTS_MAX", 2)
    with pytest.raises(InvalidRequest, match="the most there may be"):
        app.snapshots.take("/data")
    app.delete(timeout=GONE_S)


def test_who_is_killed_leaves_nothing_frozen_and_nothing_behind(
    deploy: Deployments, platform: Platform, machines: list[Machine]
) -> None:
    app = _keeper(deploy, "frozen", size="4MiB")
    (home,) = (one for one in machines if one.name == app.replicas[0].host)
    (place,) = (home.directory / "agent").glob(f"*/volumes/*/{app.id}/data")
    # As an agent is killed that is just reading the volume; what it had stored was kept for nobody.
    script = "import os, sys; from rios.deploy.volumes import *; read = Volumes().archived(Path(sys.argv[1]))"
    script += "; read.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script, str(place)], check=False, timeout=60).returncode == -9
    assert place.with_name("data.frozen").exists()
    contents = Contents(place.parents[3] / "content", MIB, name="", network_id=place.parents[3].name)
    assert not contents.keep("app-gone", "snap-gone", contents.add(io.BytesIO(b"stray")))
    pid = home.pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: home.said().get("pid", pid) != pid, deadline_s=WAIT_S)

    def writes() -> bool:
        with contextlib.suppress(HostLost, NotFound):  # of a host that is slow to be back
            return app.exec(["sh", "-c", "echo more > /data/file; cat /data/file"], timeout=60).stdout == b"more\n"
        return False

    until(writes, "the next one thaws it", deadline_s=WAIT_S)
    snapshot = app.snapshots.take("/data")

    def cleared() -> bool:
        platform.reconciler._acting._snapshotting._cleared_at.clear()  # each host is looked at now, and not in a while
        return not contents.kept("app-gone", "snap-gone")

    until(cleared, "it is in no table", deadline_s=WAIT_S, pause_s=0.5)
    assert app.snapshots.get(snapshot.id).hosts == (home.name,)
    far = platform.hosts.now()[home.name].snapshots
    assert far is not None
    assert far.damaged([*(chunk.name for chunk in _chunks(home)), "0" * 64]) == ["0" * 64]
    with pytest.raises(InvalidRequest, match=f"a replica of {app.id} runs on host {home.name}"):
        far.unmake(FIRST_ORGANISATION, app.id, "/data")
    app.delete(timeout=GONE_S)
    until(lambda: not _chunks(home), deadline_s=WAIT_S)


def test_what_is_damaged_on_one_host_comes_from_another_and_a_lost_host_is_done_without(
    deploy: Deployments, machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_hosts, "_FORGOTTEN_S", math.inf)  # what is deleted does not wait for that
    app = _keeper(deploy, "lost", resources=ALL)
    _inside(app, "echo kept > /data/file; head -c 3000000 /dev/urandom > /data/big; sync")
    digest = _inside(app, "cat /data/big | sha256sum")
    snapshot = app.snapshots.take("/data", copies=2)
    until(lambda: len(app.snapshots.get(snapshot.id).hosts) == 2, deadline_s=WAIT_S)
    (home,) = {one.host for one in app.replicas}
    other = next(machine for machine in machines if machine.name != home)
    for chunk in _chunks(other):
        chunk.write_bytes(bytes(chunk.stat().st_size))
    second = _keeper(deploy, "found", snapshot=snapshot.id)
    assert _inside(second, "cat /data/file") == "kept"
    assert {one.host for one in second.replicas} == {other.name}
    second.delete(timeout=GONE_S)
    again = app.snapshots.take("/data", copies=2)  # by which the other host has it whole again
    until(lambda: len(app.snapshots.get(again.id).hosts) == 2, deadline_s=WAIT_S)

    next(machine for machine in machines if machine.name == home).die()
    third = _keeper(deploy, "elsewhere", snapshot=again.id)
    assert (_inside(third, "cat /data/big | sha256sum"), {one.host for one in third.replicas}) == (digest, {other.name})
    app.snapshots.delete(again.id)
    assert again.id not in [one.id for one in app.snapshots.list()]
    third.delete(timeout=GONE_S)
    until(lambda: f"host {home} is lost" in str(app.events), deadline_s=WAIT_S)
    app.delete(timeout=GONE_S)
    until(lambda: not _chunks(other), "what lies on the lost host delays nothing", deadline_s=WAIT_S)


def test_a_host_that_reads_a_volume_for_ever_or_is_stopped_meanwhile_delays_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "tools" / "tar"
    tar.parent.mkdir()
    tar.write_text("#!/bin/sh\nexec sleep 600\n")
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tar.parent}{os.pathsep}{os.environ['PATH']}")
    machine = Machine("never")
    pid = machine.pid()
    options = settings().model_copy(update={"home": tmp_path / "home"})

    def agents() -> dict[str, dict[str, Any]]:
        return {machine.name: said} if (said := machine.said()) else {}

    def hosts(store: AppStore) -> NetworkHosts:
        return NetworkHosts(Nobody(), agents, store.network_id(), options, isolation=Isolation.PROCESS)

    def ended(platform: Platform) -> float:
        began = time.monotonic()
        platform.close()
        return time.monotonic() - began

    with Purse(options, background=False) as purse:

        def begun() -> Platform:
            return Platform(purse.charging, hosts, lambda _name: purse.books.address, home=tmp_path)

        first = begun()
        app = _keeper(verbs(first), "never", size="4MiB")
        name = app.snapshots.take("/data", wait=False).id
        frozen = next((machine.directory / "agent").glob(f"*/volumes/*/{app.id}/data")).with_name("data.frozen")
        until(frozen.exists, "it is read", deadline_s=WAIT_S)
        assert ended(first) < END_S
        until(lambda: not frozen.exists(), "its host goes on with nothing", deadline_s=WAIT_S)
        second = begun()
        until(frozen.exists, "whoever leads next asks for it again", deadline_s=WAIT_S)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert ended(second) < END_S
        finally:
            os.kill(pid, signal.SIGKILL)
        tar.unlink()
        third = begun()
        app = verbs(third).get("never")
        until(lambda: app.snapshots.get(name).state == "kept", deadline_s=2 * WAIT_S)
        app.delete(timeout=GONE_S)
        third.close()
    machine.remove()


def _chunks(machine: Machine) -> list[Path]:
    return list((machine.directory / "agent").glob("*/content/chunks/*"))


def _stored(machines: list[Machine], name: str) -> int:
    """What lies in the store of a host."""
    found = 0
    for path in [path for one in machines if one.name == name for path in _chunks(one)]:
        with contextlib.suppress(FileNotFoundError):  # it is just being removed
            found += path.stat().st_size
    return found


def _poor(*_: Any) -> Any:
    def write(_: Any) -> None:
        raise InsufficientBalance("nothing is left")

    return write
