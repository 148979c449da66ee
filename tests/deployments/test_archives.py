"""Archives that deployments stand on: read where somebody deploys, and from whichever host has them from then on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rios.services.deployments import snapshotting
from rios.services.deployments.archives import Archive, Standing
from rios.services.deployments.platform import Platform
from rios.services.deployments.retention import Keeps, Retention
from rios.services.deployments.service import Deployments
from rios.services.deployments.snapshots import FAILED, KEPT, Known
from rios.words.errors import InvalidRequest, SandboxFailed
from tests.deploy.images import make_rootfs
from tests.deployments.stage import RESOURCES
from tests.deployments.test_agents import WAIT_S, Machine, deploy, machines, order, platform, remote
from tests.deployments.test_snapshots import ALL
from tests.waiting import until

pytestmark = [pytest.mark.needs("bwrap"), pytest.mark.needs("root"), pytest.mark.needs("busybox")]
__all__ = ["deploy", "machines", "platform", "remote"]
COMMAND = ["sh", "-c", "cat /made; exec sleep 600"]


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    return _made(tmp_path / "root.tar", "first")


def _made(path: Path, says: str) -> Path:
    make_rootfs(path, python=False)
    said = path.with_suffix(".txt")
    said.write_text(f"{says}\n")
    with tarfile.open(path, "a") as tar:
        tar.add(said, "made")
    return path


def _deployed(deploy: Deployments, name: str, rootfs: Path, **fields: Any) -> Any:
    more = {"resources": RESOURCES, "grace": 1, **fields}
    return deploy.create(name=name, rootfs=str(rootfs), command=COMMAND, runtime="bubblewrap", **more)


def _archives(app: Any) -> list[Known]:
    from rios.services.deployments.snapshots import read
    from rios.storage.deployment_models import AppSnapshotRow as Row

    with app._store.ledger.database.reading() as connection:
        return read(connection, Row.app_id == app.id)


def _kept_by(app: Any) -> set[str]:
    return {host for one in _archives(app) if one.state == KEPT for host in one.hosts}


def _says(app: Any, line: str) -> None:
    """Each replica that runs now does."""

    def all_do() -> bool:
        running = [one.id for one in app.replicas if one.started_at]
        return bool(running) and all(line in app.logs(replica=one) for one in running)

    until(all_do, f"{line!r} in its log", deadline_s=WAIT_S)


def test_hosts_that_never_saw_the_file_run_it(deploy: Deployments, rootfs: Path) -> None:
    digest = hashlib.sha256(rootfs.read_bytes()).hexdigest()
    # One replica takes all of a host: the second runs on the other one, which has to get the archive from the first.
    app = _deployed(deploy, "both", rootfs, replicas=2, resources=ALL)
    rootfs.unlink()
    app.wait(timeout=WAIT_S)
    assert {one.host for one in app.replicas} == {"alpha", "beta"}
    _says(app, "first")
    until(lambda: _kept_by(app) == {"alpha", "beta"}, "two hosts keep it", deadline_s=WAIT_S)
    assert app.snapshots.list() == [], "it is no snapshot of a volume"
    assert len(_archives(app)) == 1
    assert str(app.specification["rootfs"]) == f"{rootfs}@sha256:{digest}"
    # Without the file: more of what is there, and back from nothing.
    app.update(env={"OTHER": "1"}, replicas=1)
    app.wait(timeout=WAIT_S)
    assert len(_archives(app)) == 1, "the same archive"
    app.pause()
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    app.resume()
    app.wait(timeout=WAIT_S)
    app.delete(timeout=WAIT_S)
    usage = list(app._store.ledger.usage(request_id=app.id))
    assert {row.resource for row in usage} == {"storage"}
    assert {row.worker for row in usage if row.amount_wei > 0} == {"alpha", "beta"}, "both were paid for its room"


def test_it_is_unpacked_again_where_it_was_taken_away(
    deploy: Deployments, rootfs: Path, machines: list[Machine]
) -> None:
    app = _deployed(deploy, "again", rootfs)
    app.wait(timeout=WAIT_S)
    rootfs.unlink()
    until(lambda: len(_kept_by(app)) == 2, "two hosts keep it", deadline_s=WAIT_S)
    app.pause()
    until(lambda: not app.replicas, deadline_s=WAIT_S)
    gone = 0
    for machine in machines:
        for root in machine.directory.rglob("rootfs/*"):
            if (root / "bin").is_dir():
                shutil.rmtree(root)
                gone += 1
    assert gone
    app.resume()
    app.wait(timeout=WAIT_S)
    _says(app, "first")
    app.delete(timeout=WAIT_S)


def test_another_file_is_another_revision_and_the_first_is_kept_for_going_back(
    deploy: Deployments, platform: Platform, rootfs: Path, tmp_path: Path
) -> None:
    app = _deployed(deploy, "turns", rootfs)
    app.wait(timeout=WAIT_S)
    path = tmp_path / "rios.yaml"
    path.write_text(
        f"version: 1\napps:\n- name: turns\n  rootfs: {rootfs}\n  command: {COMMAND}\n  runtime: bubblewrap\n"
        f"  resources: {RESOURCES}\n  grace: 1\n"
    )
    assert [one.action for one in deploy.plan(path)] == ["nothing"]
    _made(rootfs, "second")
    (change,) = deploy.plan(path)
    assert [field for field, *_ in change.fields] == ["rootfs"]
    deploy.apply(path)
    app.wait(timeout=WAIT_S)
    _says(app, "second")
    assert len(_archives(app)) == 2
    rootfs.unlink()
    app.rollback()
    app.wait(timeout=WAIT_S)
    assert app.revision == 1
    _says(app, "first")
    # Once no revision stands on it, nobody keeps it.
    app.update(env={"OTHER": "1"})
    app.wait(timeout=WAIT_S)
    Retention(app._store, Keeps(revisions=1)).forget(lease=platform.reconciler.leadership.lease)
    until(lambda: len(_archives(app)) == 1, "one is left", deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_what_is_no_archive_is_refused_before_anything_is_created(deploy: Deployments, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    with tarfile.open(tmp_path / "out.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../out"))
    for name, why in (("text", "no archive"), ("out.tar", "leads outside"), ("nowhere", "no such archive")):
        with pytest.raises(InvalidRequest, match=why):
            _deployed(deploy, "wrong", tmp_path / name)
    with pytest.raises(InvalidRequest, match=r"name its file, /x\.tar, again"):
        _deployed(deploy, "wrong", Path(f"/x.tar@sha256:{'1' * 64}"))
    assert "wrong" not in [one.name for one in deploy.list()]


def test_no_host_opens_a_path_that_it_is_told(remote: Any, rootfs: Path) -> None:
    for said in (str(rootfs), "/etc/passwd", f"{rootfs}@sha256:{'x' * 64}"):
        wanted = order("path-1", *COMMAND, rootfs=said, runtime="bubblewrap")
        for verb in (remote.pulls, remote.prepare, lambda said: remote.unpack(said, "0" * 64)):
            with pytest.raises(InvalidRequest, match="never taken in"):
                verb(wanted.specification)
        with pytest.raises(InvalidRequest, match="never taken in"):
            remote.start(wanted)


def test_a_host_unpacks_what_the_digest_says_and_nothing_else(remote: Any, rootfs: Path, tmp_path: Path) -> None:
    found, other = Archive.of(rootfs), Archive.of(_made(tmp_path / "other.tar", "other"))
    for wanted, given, fine in ((found, found, True), (other, found, False)):
        spec = order("x", *COMMAND, rootfs=f"{rootfs}@{wanted.digest}", runtime="bubblewrap").specification
        assert remote.unpack(spec, given.content_digest) or fine
        if fine:
            given.give(lambda spec=spec: remote.unpack(spec, found.content_digest), remote.snapshots.put)
            assert not remote.pulls(spec)
        else:
            with pytest.raises(InvalidRequest, match="is not the archive"):
                given.give(lambda spec=spec: remote.unpack(spec, found.content_digest), remote.snapshots.put)


def test_whoever_deploys_may_end_before_it_is_kept(
    deploy: Deployments, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Standing, "keep", lambda *_: None)
    app = _deployed(deploy, "cut", rootfs)
    app.wait(timeout=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_chunks_that_were_swept_are_said_to_be_gone(
    deploy: Deployments, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "_ARRIVES_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Standing, "keep", lambda *_: None)
        patch.setattr(Archive, "give", lambda *_: None)
        app = _deployed(deploy, "swept", rootfs, restart="never")
    until(lambda: _archives(app)[0].state == FAILED, deadline_s=WAIT_S)
    until(lambda: app.status == "failed", deadline_s=WAIT_S)
    assert "has not all of it" in app.reason
    assert "update it with rootfs=" in app.reason
    # Whoever does so has it run.
    app.update(rootfs=str(rootfs), restart="always")
    app.wait(timeout=WAIT_S)
    app.delete(timeout=WAIT_S)


def test_a_file_that_changes_while_it_is_given_is_refused(rootfs: Path) -> None:
    found = Archive.of(rootfs)
    first = found.content.chunks[0][0]
    with rootfs.open("r+b") as file:
        file.write(os.urandom(1000))
    asked = iter([[found.content_digest, first], []])
    with pytest.raises(InvalidRequest, match="has changed while it was read"):
        found.give(lambda: next(asked), lambda *_: None)
    asked = iter([["0" * 64]])
    with pytest.raises(SandboxFailed, match="no part of"):
        found.give(lambda: next(asked), lambda *_: None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "_AGAIN_S", 0.5)
