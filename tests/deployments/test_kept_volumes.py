"""Volumes that outlive their deployments: listed, another one's again by a rename where they lie, and removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.spec import App
from rios.deploy.volumes import Volumes
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments import inheriting, kept_volumes, kubernetes_host
from rios.services.deployments.hosts import Order
from rios.services.deployments.kept_volumes import KeptVolume
from rios.services.deployments.service import Deployments
from rios.services.lazy import Lazy
from rios.services.network import _go_on
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import InvalidRequest, NotFound, SandboxFailed
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.stage import RESOURCES
from tests.deployments.test_agents import Machine, deploy, machines, platform
from tests.deployments.test_many_hosts import platform as simulated
from tests.deployments.test_many_hosts import verbs
from tests.storage.databases import KINDS, drop_database, new_tables
from tests.waiting import until

__all__ = ["deploy", "machines", "platform"]
WAIT_S = 60.0
GONE_S = 180.0
"""On a disk that others keep busy a volume is unmounted late."""
MIB = 1 << 20
FIELDS: dict[str, Any] = {"command": ["serve"], "resources": {"cpu": 1, "memory": "64MiB"}}


def on_hosts(test: Any) -> Any:
    """Of real ones."""
    return pytest.mark.needs("bwrap")(pytest.mark.needs("root")(test))


def _inside(app: Any, command: str) -> str:
    done = app.exec(["sh", "-c", command], timeout=60)
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode().strip()


def _keeper(deploy: Deployments, name: str, path: str = "/data", **volume: Any) -> Any:
    """A deployment with a volume, that does nothing."""
    volumes = {path: {"size": "16MiB", **volume}}
    fields: dict[str, Any] = {"command": ["sleep", "600"], "resources": RESOURCES, "grace": 1}
    return deploy.create(name=name, volumes=volumes, **fields).wait(timeout=WAIT_S)


def _lie(machines: list[Machine], app_id: str) -> list[str]:
    """What lies on the disks of hosts under a deployment's id: a volume's directory, and its file beside it."""
    return sorted(place.name for one in machines for place in one.directory.glob(f"agent/**/volumes/*/{app_id}/*"))


@on_hosts
def test_it_is_another_ones_with_all_its_files_and_then_removed(deploy: Deployments, machines: list[Machine]) -> None:
    first = _keeper(deploy, "first")
    _inside(first, "echo kept > /data/file; mkdir /data/inner; echo more > /data/inner/file; sync")
    (home,) = {one.host for one in first.replicas}
    assert deploy.volumes.list() == []
    first.delete(timeout=GONE_S)
    (kept,) = deploy.volumes.list()
    assert (kept.deployment, kept.path, kept.host, kept.taken_by) == ("first", "/data", home, "")
    assert (kept.quota_bytes, kept.deleted_at) == (16 * MIB, first._app().ended_at)
    assert _lie(machines, first.id)

    second = _keeper(deploy, "second", "/notes", kept=kept.id, size="24MiB", keep=True)
    assert {one.host for one in second.replicas} == {home}
    assert _inside(second, "cat /notes/file /notes/inner/file") == "kept\nmore"
    assert deploy.volumes.list() == []
    assert not _lie(machines, first.id), "it was renamed, and not copied"
    with pytest.raises(InvalidRequest, match=f"no kept volume '{kept.id}'"):
        _keeper(deploy, "third", kept=kept.id)
    before = {one.id for one in second.replicas}
    _inside(second, "echo again > /notes/file; sync")
    second.restart()
    until(lambda: not before & {one.id for one in second.replicas}, deadline_s=WAIT_S)
    assert _inside(second.wait(timeout=WAIT_S), "cat /notes/file") == "again"
    assert second.update(env={"A": "1"}) == 2, "what it began with is no reason against another revision"
    second.wait(timeout=WAIT_S).delete(timeout=GONE_S)

    (again,) = deploy.volumes.list()
    assert (again.deployment, again.path, again.quota_bytes) == ("second", "/notes", 24 * MIB)
    deploy.volumes.delete(again.id)
    assert deploy.volumes.list() == []
    until(lambda: not _lie(machines, second.id), "all of it", deadline_s=WAIT_S)
    with pytest.raises(NotFound, match="no kept volume"):
        deploy.volumes.delete(again.id)


@on_hosts
def test_a_volume_that_is_not_to_be_kept_is_none(deploy: Deployments, machines: list[Machine]) -> None:
    app = _keeper(deploy, "passing", keep=False)
    app.delete(timeout=GONE_S)
    assert deploy.volumes.list() == []
    assert not _lie(machines, app.id)


@pytest.mark.needs("root")
def test_a_move_may_be_repeated_and_says_what_is_not_there(tmp_path: Path) -> None:
    volumes = Volumes()
    here, there = tmp_path / "a" / "data", tmp_path / "b" / "notes"
    with pytest.raises(NotFound, match="no volume at"):
        volumes.move(here, there)
    (volumes.ensure(here, 4 * MIB) / "file").write_text("kept")
    try:
        for _ in range(2):
            volumes.move(here, there)
            assert not volumes.exists(here)
            assert not here.exists()
        assert (volumes.ensure(there, 4 * MIB) / "file").read_text() == "kept"
        # A rename leaves nothing behind: what is at both is no repetition, and neither is lost for it.
        (volumes.ensure(here, 4 * MIB) / "file").write_text("another")
        with pytest.raises(InvalidRequest, match="another volume is at"):
            volumes.move(here, there)
        assert [(volumes.ensure(one, 4 * MIB) / "file").read_text() for one in (here, there)] == ["another", "kept"]
        # A growth that was cut off goes along.
        note = volumes._had(volumes._image(here))
        note.write_text(str(4 * MIB))
        volumes.remove(there)
        volumes.move(here, there)
        assert not note.exists()
        assert volumes._had(volumes._image(there)).read_text() == str(4 * MIB)
    finally:
        volumes.remove(here)
        volumes.remove(there)


class Disk(SimulatedHost):
    """A host that knows by which names its volumes lie there, and what they are at last."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.volumes: dict[tuple[str, str], str] = {}
        self.refuses = False

    def start(self, order: Order) -> Any:
        self._here()
        if self.refuses:
            raise SandboxFailed("it does not start")
        for path in order.specification["volumes"]:
            self.volumes.setdefault((order.app_id, path), f"made for {order.app_id}")
        return super().start(order)

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        self._here()
        for path, volume in specification["volumes"].items():
            if not volume["keep"]:
                self.volumes.pop((app_id, path), None)

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        self._here()
        assert organisation_id == FIRST_ORGANISATION
        if (to_app, to_path) not in self.volumes:
            if (app_id, path) not in self.volumes:
                raise NotFound(f"there is no volume at {path} any more")
            self.volumes[to_app, to_path] = self.volumes.pop((app_id, path))

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        self._here()
        self.volumes.pop((app_id, path), None)


class Two:
    """Two hosts, and what is deployed on them."""

    def __init__(self, purse: Purse, home: Path) -> None:
        self.purse, self.home = purse, home
        self.hosts = {name: Disk(name) for name in ("a", "b")}
        self.platform = simulated(purse, list(self.hosts.values()), home)
        self.deploy = verbs(self.platform)
        self.others = Deployments(lambda: self.platform, user_id=LOCAL_USER, organisation_id="other")

    def volumes(self) -> dict[tuple[str, str], str]:
        return {name: made for host in self.hosts.values() for name, made in host.volumes.items()}

    def app(self, name: str, *, wait: bool = True, **volumes: Any) -> Any:
        """A deployment with volumes, each at the place of its name."""
        of = {f"/{path}": {"size": "4MiB", **volume} for path, volume in volumes.items()}
        app = self.deploy.create(name=name, volumes=of, **FIELDS)
        return app.wait(timeout=WAIT_S) if wait else app

    def kept(self, name: str, *, busy: str = "") -> KeptVolume:
        """What a deployment of that name left at /data. busy: the host where it cannot be."""
        self._cordon(busy)
        self.app(name, data={}).delete(timeout=WAIT_S)
        self._cordon("")
        return next(one for one in self.deploy.volumes.list() if one.deployment == name)

    def _cordon(self, name: str) -> None:
        for host in self.hosts.values():
            host._offer = replace(host._offer, cordoned=host.name == name)


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    """On SQLite, where a test asks for no other one."""
    monkeypatch.setattr("rios.services.deployments.reconciler.HOST_LOST_S", 0.5)
    monkeypatch.setattr("rios.services.deployments.reconciler._ORPHANS_S", 0.5)
    monkeypatch.setattr("rios.services.deployments.acting._LEFT_S", 0.2)
    url = new_tables(getattr(request, "param", "sqlite"), tmp_path)
    options = settings().model_copy(update={"home": tmp_path / "home", "database": url})
    with Purse(options, background=False) as purse:
        found = Two(purse, tmp_path)
        yield found
        found.platform.close()
    drop_database(url)


on_both = pytest.mark.parametrize("two", KINDS, indirect=True)


def test_one_deployment_alone_takes_it_and_one_of_the_organisation(two: Two) -> None:
    kept = two.kept("first")
    assert two.others.volumes.list() == []
    for verb in (two.others.volumes.delete, lambda name: two.others.create(
        name="thief", volumes={"/data": {"size": "4MiB", "kept": name}}, **FIELDS
    )):  # fmt: skip
        with pytest.raises((NotFound, InvalidRequest), match="the organisation has no kept volume"):
            verb(kept.id)
    assert two.others.list() == ()
    two.hosts[kept.host].refuses = True
    taker = two.app("taker", wait=False, data={"kept": kept.id})
    assert [one.taken_by for one in two.deploy.volumes.list() if one.id == kept.id] in (["taker"], [])
    with pytest.raises(InvalidRequest, match=f"{kept.id} is a volume of taker now, at /data"):
        two.app("second", data={"kept": kept.id})
    with pytest.raises(InvalidRequest, match=f"{kept.id} is a volume of taker now"):
        two.deploy.volumes.delete(kept.id)
    assert [app.name for app in two.deploy.list()] == ["taker"], "what is refused is not written"
    two.hosts[kept.host].refuses = False
    taker.restart()
    taker.wait(timeout=WAIT_S)
    assert two.volumes()[taker.id, "/data"].startswith("made for ")
    assert two.volumes()[taker.id, "/data"] != f"made for {taker.id}"


def test_what_cannot_be_is_refused_before_anything_is_written(two: Two) -> None:
    here, there = two.kept("here", busy="b"), two.kept("there", busy="a")
    assert (here.host, there.host) == ("a", "b")
    for why, volumes in {
        "give it as much": {"data": {"kept": here.id, "size": "2MiB"}},
        "no kept volume 'vol-none'": {"data": {"kept": "vol-none"}},
        "one host, and these are on a and b": {"data": {"kept": here.id}, "more": {"kept": there.id}},
        "at two places": {"data": {"kept": here.id}, "more": {"kept": here.id}},
        "snapshot and kept contradict": {"data": {"kept": here.id, "snapshot": "snap-1"}},
    }.items():
        with pytest.raises(InvalidRequest, match=why):
            two.app("wrong", **volumes)
    app = two.app("mine", data={"kept": here.id})
    with pytest.raises(InvalidRequest, match="has a volume there already"):
        app.update(volumes={"/data": {"size": "4MiB", "kept": there.id}})
    with pytest.raises(InvalidRequest, match="one host, and these are on a and b"):
        app.update(volumes={"/more": {"size": "4MiB", "kept": there.id}})
    assert [(one.id, one.taken_by) for one in two.deploy.volumes.list()] == [(there.id, "")]
    assert kept_volumes._CLUSTER == kubernetes_host.NAME


@on_both
def test_an_update_adds_one_and_where_nothing_comes_of_it_it_is_kept_again(two: Two) -> None:
    kept = two.kept("first", busy="b")
    app = two.deploy.create(name="app", **FIELDS, update={"deadline": 1.0}).wait(timeout=WAIT_S)
    two.hosts["a"].gone = True  # so that the revision cannot begin
    wanted = {"/data": {"size": "4MiB", "kept": kept.id}}
    assert app.update(volumes=wanted) == 2
    until(lambda: app.revision == 1, "it is gone back from", deadline_s=WAIT_S)
    until(lambda: [one.taken_by for one in two.deploy.volumes.list()] == [""], "it is free", deadline_s=WAIT_S)
    two.hosts["a"].gone = False
    until(lambda: app.status == "ready", deadline_s=WAIT_S)
    app.rollback(2)
    app.wait(timeout=WAIT_S)
    assert {one.host for one in app.replicas} == {"a"}
    assert "first" not in two.volumes()[app.id, "/data"]
    assert two.volumes()[app.id, "/data"] != f"made for {app.id}"
    app.update(volumes={})
    app.wait(timeout=WAIT_S)
    app.rollback(2)
    app.wait(timeout=WAIT_S)
    app.delete(timeout=WAIT_S)
    assert [(one.deployment, one.path) for one in two.deploy.volumes.list()] == [("app", "/data")]


def test_who_takes_one_and_never_starts_gives_it_back(two: Two) -> None:
    kept = two.kept("first", busy="b")
    two.hosts["a"].gone = True
    taker = two.app("taker", wait=False, data={"kept": kept.id, "keep": False})
    until(lambda: "its volumes are on a, which does not answer" in taker.reason, deadline_s=WAIT_S)
    assert [one.taken_by for one in two.deploy.volumes.list()] == ["taker"]
    taker.delete(timeout=WAIT_S)
    assert [(one.id, one.taken_by) for one in two.deploy.volumes.list()] == [(kept.id, "")]


def test_a_start_that_is_cut_off_after_it_was_taken_loses_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of it then: it is the volume of whoever took it, under its name, once its host is told."""
    kept = two.kept("first", busy="b")
    made = next(iter(two.volumes().values()))
    real = inheriting.brought

    def cut_off(*what: Any, ends: bool = False) -> None:
        if not ends:
            raise SandboxFailed("its process was killed before")
        real(*what, ends=ends)

    monkeypatch.setattr(inheriting, "brought", cut_off)
    taker = two.app("taker", wait=False, data={"kept": kept.id})
    until(lambda: two.deploy.volumes.list() == [], "it is the taker's", deadline_s=WAIT_S)
    two.hosts["a"].gone = True
    taker.delete(timeout=WAIT_S)
    (again,) = two.deploy.volumes.list()
    assert (again.deployment, again.host) == ("taker", "a")
    two.hosts["a"].gone = False
    until(lambda: two.volumes() == {(taker.id, "/data"): made}, deadline_s=WAIT_S)
    monkeypatch.undo()
    third = two.app("third", notes={"kept": again.id})
    assert two.volumes() == {(third.id, "/notes"): made}


@on_both
def test_a_host_that_is_away_leaves_rows_at_once_and_removes_when_it_is_back(two: Two) -> None:
    app = two.app("away", data={}, passing={"keep": False})
    (home,) = {one.host for one in app.replicas}
    two.hosts[home].gone = True
    app.delete(timeout=WAIT_S)
    (kept,) = two.deploy.volumes.list()
    assert (kept.path, kept.host) == ("/data", home)
    two.deploy.volumes.delete(kept.id)
    assert two.deploy.volumes.list() == []
    assert two.volumes().keys() == {(app.id, "/data"), (app.id, "/passing")}
    two.platform.close()
    next_one = Lazy(lambda: simulated(two.purse, list(two.hosts.values()), two.home))
    try:
        two.hosts[home].gone = False
        _go_on(next_one, two.purse.books.ledger)
        until(lambda: not two.volumes(), "by whoever leads then", deadline_s=WAIT_S)
        until(lambda: not inheriting.is_any_left(two.platform.store), deadline_s=WAIT_S)
    finally:
        next_one.close()


@pytest.mark.parametrize("keep", [True, False])
def test_a_volume_of_an_earlier_revision_alone_is_kept_if_that_said_so(two: Two, keep: bool) -> None:
    app = two.app("changed", data={"keep": not keep})
    for volumes in ({"/data": {"size": "4MiB", "keep": keep}}, {"/more": "1MiB"}):
        app.update(volumes=volumes)
        app.wait(timeout=WAIT_S)
    assert (app.id, "/data") in two.volumes()
    app.delete(timeout=WAIT_S)
    data = {("/data", 4 * MIB)} if keep else set()
    assert {(one.path, one.quota_bytes) for one in two.deploy.volumes.list()} == {*data, ("/more", MIB)}
    until(lambda: ((app.id, "/data") in two.volumes()) == keep, deadline_s=WAIT_S)
    assert (app.id, "/more") in two.volumes()


@on_both
def test_they_are_shown_as_a_table_and_listed_in_pages(two: Two) -> None:
    kept = [two.kept(f"app-{number}") for number in range(3)]
    found, after = list[KeptVolume](), (-1, "")
    while page := two.deploy.volumes.list(after=after, limit=2):
        found += page
        after = (page[-1].deleted_at, page[-1].id)
    assert found == kept
    html = two.deploy.volumes._repr_html_()
    assert all(one.id in html for one in kept)
    assert "<th" in html


def test_a_specification_says_nothing_of_what_it_does_not_begin_with() -> None:
    one = App.model_validate({"name": "app", "command": ["serve"], "volumes": {"/data": "4MiB"}})
    assert one.stored()["volumes"] == {"/data": {"size": 4 * MIB, "keep": True, "read_only": False}}
