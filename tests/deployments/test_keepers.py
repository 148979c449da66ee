"""Copies of snapshots follow the hosts that there are, and who needs one waits for a host that has it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.chunking import CHUNK_BYTES_MAX
from rios.deploy.volumes import Volumes
from rios.services.accounting import pinned_terms
from rios.services.books import LOCAL_USER
from rios.services.deployments import snapshotting
from rios.services.deployments.contents import Content, Contents
from rios.services.deployments.host_snapshots import HostSnapshots, Taken
from rios.services.deployments.metering import Metering
from rios.services.deployments.platform import Platform
from rios.services.deployments.rent import SNAPSHOTS
from rios.services.deployments.service import Deployments
from rios.services.deployments.snapshots import kept_on
from rios.services.deployments.store import NotLeader
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import DeadlineExceeded, NetworkClosed, ProtocolError, RiosError, SandboxFailed
from tests.deployments.simulated_hosts import SimulatedHost, SimulatedHosts
from tests.deployments.test_many_hosts import verbs
from tests.storage.databases import KINDS, drop_database, new_tables
from tests.waiting import PATIENCE, until

WAIT_S = 60.0
END_S = 10.0 * PATIENCE
"""Whoever ends waits no longer than a few seconds for hosts."""
FIELDS: dict[str, Any] = {"command": ["x"], "resources": {"cpu": 1, "memory": "64MiB"}}
DATA = bytes(range(256)) * 4096


class Stored(HostSnapshots):
    """A host's part without file systems: each of its volumes has the same in it."""

    def __init__(self, name: str, place: Path) -> None:
        self.contents = Contents(place, 1 << 30, name=name, network_id="net")
        self.made: dict[str, bytes] = {}
        super().__init__(
            name, self.contents, Volumes(), lambda *_: place,
            runs=lambda _: False, making=lambda _: contextlib.nullcontext(),
        )  # fmt: skip

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

    def unmake(self, organisation_id: str, app_id: str, path: str) -> None:
        self.made.pop(app_id)


class Three:
    """Three hosts."""

    def __init__(self, purse: Purse, place: Path) -> None:
        self.hosts: dict[str, Any] = {name: SimulatedHost(name) for name in ("a", "b", "c")}
        for name, host in self.hosts.items():
            host.snapshots = Stored(name, place / name)
        self._purse, self._place = purse, place
        self.begin()

    def begin(self) -> None:
        """A process that may lead, the first or the next."""
        purse = self._purse
        self.platform = Platform(
            purse.charging, lambda _: SimulatedHosts(list(self.hosts.values())), lambda _name: purse.books.address,
            home=self._place, lease_s=2.0,
        )  # fmt: skip
        self.deploy: Deployments = verbs(self.platform)

    def sizes(self, app: Any) -> dict[str, Any]:
        """What lies on which host, and is paid for."""
        return {room.host: room.sizes for room in self.platform._metering.rent._rooms(app.id)}

    def kept(self, name: str) -> set[str]:
        """The hosts on whose disks a snapshot is."""
        found = {host: self.hosts[host].snapshots.kept() for host in self.hosts}
        return {host for host, all_of_it in found.items() if name in [one for _, one in all_of_it]}


@pytest.fixture
def three(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Three]:
    """On SQLite, where a test says nothing else."""
    for name, value in (("LOST_S", 2.0), ("_COUNT_S", 0.2), ("_NOWHERE_S", 0.2), ("_AGAIN_S", 0.2)):
        monkeypatch.setattr(snapshotting, name, value)
    url = new_tables(getattr(request, "param", "sqlite"), tmp_path)
    with Purse(settings().model_copy(update={"home": tmp_path / "home", "database": url}), background=False) as purse:
        found = Three(purse, tmp_path)
        yield found
        found.platform.close()
    drop_database(url)


on_each = pytest.mark.parametrize("three", KINDS, indirect=True)
"""Of databases: for what is asked of them."""


@on_each
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
    until(lambda: f"waits for what it is to begin with: {name} cannot be read: {home} does not answer" in waits.reason,
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


def _disk(three: Three, copies: int) -> tuple[Any, str, str]:
    """A deployment with a volume, the host that it is on, and its snapshot's id, which so many hosts keep."""
    app = three.deploy.create(name="disk", volumes={"/data": "1MiB"}, **FIELDS).wait(timeout=WAIT_S)
    (home,) = {one.host for one in app.replicas}
    name = app.snapshots.take("/data", copies=copies).id
    until(lambda: len(three.kept(name)) == copies == len(app.snapshots.get(name).hosts), deadline_s=WAIT_S)
    return app, home, name


def _spend_all(three: Three, app: Any) -> None:
    """Have all that is left set aside for something else, as where nobody has paid for a day."""
    ledger, one = three.platform.store.ledger, app.replicas[0]
    terms = pinned_terms(ledger, f"{one.id}:{one.period}")
    for room in three.platform._metering.rent._rooms(app.id):
        ledger.release(room.hold_id)
    ledger.hold("elsewhere", LOCAL_USER, ledger.balance(LOCAL_USER).available_wei, request_id="elsewhere", terms=terms)


def test_what_is_deleted_costs_nothing_more_also_where_no_money_is_left(three: Three) -> None:
    app, _, name = _disk(three, 2)
    assert sum(SNAPSHOTS in sizes for sizes in three.sizes(app).values()) == 2
    ledger = three.platform.store.ledger
    _spend_all(three, app)
    app.snapshots.delete(name)
    until(lambda: not kept_on(three.platform.store, app.id, "a") and not three.kept(name), deadline_s=WAIT_S)
    until(lambda: not any(SNAPSHOTS in sizes for sizes in three.sizes(app).values()), deadline_s=WAIT_S)
    ledger.release("elsewhere")
    app.delete(timeout=WAIT_S)
    assert ledger.balance(LOCAL_USER).held_wei == 0


@on_each
def test_a_lost_host_is_paid_for_no_copy_until_it_is_back_with_all_of_it(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "LOST_S", 600.0)
    monkeypatch.setattr("rios.services.deployments.reconciler.HOST_LOST_S", 0.5)
    app, home, name = _disk(three, 2)
    (other,) = three.kept(name) - {home}
    paid = three.sizes(app)
    three.hosts[other].gone = True
    until(lambda: SNAPSHOTS not in three.sizes(app)[other], "it is lost", deadline_s=WAIT_S)
    _spend_all(three, app)
    assert three.sizes(app)[home] == paid[home]
    contents = three.hosts[other].snapshots.contents
    digest = contents.kept(app.id, name)
    chunk = contents._chunks / Content.of(contents.get(digest)).chunks[0][0]
    chunk.write_bytes(bytes(chunk.stat().st_size))
    three.hosts[other].gone = False
    until(lambda: SNAPSHOTS in three.sizes(app)[other], "it is back", deadline_s=WAIT_S)
    assert contents.is_whole(digest)
    assert three.sizes(app) == paid
    ledger = three.platform.store.ledger
    held = {room.host: ledger.hold_of(room.hold_id) for room in three.platform._metering.rent._rooms(app.id)}
    assert held[other].amount_wei == 0, "there is no money, and what it keeps is owed"
    ledger.release("elsewhere")
    app.delete(timeout=WAIT_S)


def test_a_host_is_paid_for_what_it_shows_whatever_it_says(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    app, home, name = _disk(three, 1)
    stored = three.hosts[home].snapshots
    contents = stored.contents
    paid = sum(path.stat().st_size for path in contents._chunks.iterdir())
    assert three.sizes(app)[home] == {"/data": 1 << 20, SNAPSHOTS: paid}

    def forged(*chunks: tuple[bytes, int], there: bool, more: int = 0) -> Callable[..., Taken]:
        """One that keeps what it says consists of such chunks, of which each has so many bytes, and more in all."""

        def take(_organisation_id: str, app_id: str, _path: str, snapshot_id: str) -> Taken:
            parts = tuple((hashlib.sha256(chunk).hexdigest(), size) for chunk, size in chunks)
            data = Content(sum(size for _, size in parts), parts).to_bytes()
            digest = hashlib.sha256(data).hexdigest()
            for one in (data, *(chunk for chunk, _ in chunks if there)):
                contents.put(hashlib.sha256(one).hexdigest(), one)
            (contents._kept(app_id) / snapshot_id).write_text(digest)
            return Taken(digest, sum(size for _, size in parts) + more, 0)

        return take

    many, most = [(b"%d" % n, CHUNK_BYTES_MAX) for n in range(1000)], CHUNK_BYTES_MAX
    for take, why in (
        (forged(*many, there=False), f"{home} does not show"),
        (forged((b"few", most), there=True), f"{home} says of .* that it has {most} bytes, not 3"),
        (forged((b"few", 3), there=True, more=1 << 60), f"{home} says of .* that it has {3 + (1 << 60)} bytes, not 3"),
    ):
        monkeypatch.setattr(stored, "take", take)
        with pytest.raises(SandboxFailed, match=why):
            app.snapshots.take("/data", timeout=WAIT_S)
        monkeypatch.delattr(stored, "take")
        assert three.sizes(app)[home][SNAPSHOTS] == paid
        assert stored.kept() == [(app.id, name)]
    monkeypatch.setattr(f"{__name__}.DATA", random.Random(1).randbytes(5 << 20))
    larger = app.snapshots.take("/data", timeout=WAIT_S)
    assert three.sizes(app)[home][SNAPSHOTS] == paid + (2 << 20), "twice the volume's quota, and no more"
    app.snapshots.delete(larger.id)
    until(lambda: three.sizes(app)[home][SNAPSHOTS] == paid, deadline_s=WAIT_S)
    digest = contents.kept(app.id, name)
    (contents._chunks / digest).write_bytes(b"damaged")
    acts = three.platform.reconciler._acting._snapshotting
    assert acts._room_bytes(home, app._app()) == 0, "what it does not show takes nothing"
    app.delete(timeout=WAIT_S)


def test_who_no_longer_leads_tells_no_host_anything(three: Three) -> None:
    app, home, name = _disk(three, 1)
    acts = three.platform.reconciler._acting._snapshotting
    lease, holder, term = three.platform.reconciler.leadership.lease
    old, other = (lease, holder, term - 1), three.hosts[next(iter(three.hosts.keys() - {home}))]
    (one,) = kept_on(three.platform.store, app.id, home)
    contents = three.hosts[home].snapshots.contents
    stray = contents.add(io.BytesIO(b"stray"))
    assert not contents.keep("app-gone", "snap-gone", stray)
    for act in (
        lambda: acts._dropped(one, app._app(), three.hosts[home], old),
        lambda: acts._let_go(replace(one, hosts=()), app._app(), old),
        lambda: acts._copy(one, app._app(), other, old),
        lambda: acts._clear_strays(three.hosts[home], old, [app._app()]),
    ):
        with pytest.raises(NotLeader):
            act()
    assert three.kept(name) == {home}
    assert contents.kept("app-gone", "snap-gone") == stray
    assert not list(other.snapshots.contents._chunks.iterdir())
    app.delete(timeout=WAIT_S)


def test_a_host_is_given_what_its_snapshot_consists_of_and_nothing_else(three: Three) -> None:
    app, home, _ = _disk(three, 1)
    (one,) = kept_on(three.platform.store, app.id, home)
    secret = three.hosts[home].snapshots.contents.add(io.BytesIO(b"of somebody else"))
    given: list[str] = []
    acts = three.platform.reconciler._acting._snapshotting
    with pytest.raises(SandboxFailed, match=f"it asks for {secret}, which is no part of {one.id}"):
        acts.relaying.bring(
            one, lambda: [secret], lambda digest, _: given.append(digest), three.platform.reconciler.leadership.lease
        )
    assert not given
    app.delete(timeout=WAIT_S)


def test_what_snapshots_consist_of_is_given_back_and_where_nobody_has_it_they_have_failed(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "LOST_S", 600.0)
    app, home, name = _disk(three, 2)
    (other,) = three.kept(name) - {home}
    monkeypatch.setattr(f"{__name__}.DATA", random.Random(3).randbytes(3 << 20))
    second = app.snapshots.take("/data", copies=2).id
    until(lambda: len(three.kept(second)) == 2 == len(app.snapshots.get(second).hosts), deadline_s=WAIT_S)
    acts, contents = three.platform.reconciler._acting._snapshotting, three.hosts[other].snapshots.contents
    content = contents._chunks / contents.kept(app.id, name)
    chunks = [contents._chunks / one for one, _ in Content.of(contents.get(contents.kept(app.id, second))).chunks]
    whole = content.read_bytes()
    content.write_bytes(whole[:-1])
    app.snapshots.delete(second)
    until(lambda: not content.exists(), "it was read when chunks were to go", deadline_s=WAIT_S)
    assert all(chunk.exists() for chunk in chunks), "they may be of the other one"
    acts._cleared_at.clear()
    until(lambda: not any(chunk.exists() for chunk in chunks), "they go when it is back", deadline_s=WAIT_S)
    assert content.read_bytes() == whole
    three.hosts[other].gone = True
    until(lambda: other not in acts._hosts, deadline_s=WAIT_S)
    copies = [three.hosts[one].snapshots.contents._chunks / content.name for one in (home, other)]
    for copy in copies:
        copy.write_bytes(b"")
    acts._cleared_at.clear()
    until(lambda: not copies[0].exists(), "it is found to be damaged", deadline_s=WAIT_S)
    until(lambda: not three.platform.reconciler._acting.is_busy(f"{home} strays"), deadline_s=WAIT_S)
    assert app.snapshots.get(name).state == "kept", "one that does not answer may have it"
    three.hosts[other].gone = False
    until(lambda: other in acts._hosts, deadline_s=WAIT_S)
    acts._cleared_at.clear()
    until(lambda: app.snapshots.get(name).state == "failed", deadline_s=WAIT_S)
    assert app.snapshots.get(name).reason == "no host can read it any more"
    until(lambda: not three.kept(name) and not list(contents._chunks.iterdir()), "nothing stays", deadline_s=WAIT_S)
    until(lambda: not any(SNAPSHOTS in sizes for sizes in three.sizes(app).values()), deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


@pytest.mark.parametrize("error", [DeadlineExceeded, ProtocolError, NetworkClosed])
def test_what_one_host_does_not_give_comes_from_the_next(
    three: Three, monkeypatch: pytest.MonkeyPatch, error: type[RiosError]
) -> None:
    monkeypatch.setattr(f"{__name__}.DATA", random.Random(2).randbytes(12 << 20))
    app, _, name = _disk(three, 2)
    first, _ = sorted(three.kept(name))
    (third,) = three.hosts.keys() - three.kept(name)
    asked: list[str] = []

    def get(digest: str) -> bytes:
        asked.append(digest)
        raise error("it was too slow, or said nothing of sense")

    monkeypatch.setattr(three.hosts[first].snapshots, "get", get)
    for busy in three.hosts.keys() - {third}:
        monkeypatch.setattr(three.hosts[busy], "_offer", replace(three.hosts[busy].offer(), cordoned=True))
    volumes = {"/data": {"size": "64MiB", "snapshot": name}}
    second = three.deploy.create(name="second", volumes=volumes, **FIELDS).wait(timeout=WAIT_S)
    assert {one.host for one in second.replicas} == {third}
    assert three.hosts[third].snapshots.made[second.id] == DATA
    (one,) = kept_on(three.platform.store, app.id, first)
    assert {*asked} == {one.digest}, "it is asked last for what comes after"
    for one in (second, app):
        one.delete(timeout=WAIT_S)


def test_a_copy_that_is_under_way_does_not_delay_the_end(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.DATA", random.Random(1).randbytes(12 << 20))
    real, puts = Stored.put, list[str]()
    end, closing = threading.Thread(target=three.platform.close), three.platform.reconciler._acting._closing

    def put(self: Stored, digest: str, data: bytes) -> None:
        puts.append(digest)
        real(self, digest, data)
        if len(puts) == 3:
            end.start()
            assert closing.wait(WAIT_S)

    monkeypatch.setattr(Stored, "put", put)
    app = three.deploy.create(name="disk", volumes={"/data": "64MiB"}, **FIELDS).wait(timeout=WAIT_S)
    one = app.snapshots.take("/data", copies=2)
    until(closing.is_set, "the third chunk is given", deadline_s=WAIT_S)
    end.join(WAIT_S)
    assert (end.is_alive(), len(puts), app.snapshots.get(one.id).copies) == (False, 3, 2)


def test_a_volume_that_is_read_for_ever_does_not_delay_the_end(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def never(self: Stored, *_: str) -> Taken:
        with self._alone() as check:
            begun.set()
            while True:
                check()
                time.sleep(0.05)

    with monkeypatch.context() as patch:
        patch.setattr(Stored, "take", never)
        app = three.deploy.create(name="disk", volumes={"/data": "1MiB"}, **FIELDS).wait(timeout=WAIT_S)
        name = app.snapshots.take("/data", wait=False).id
        assert begun.wait(WAIT_S)
        ended = time.monotonic()
        three.platform.close()
        assert time.monotonic() - ended < END_S
    for host, one in three.hosts.items():
        one.snapshots = Stored(host, tmp_path / host)
    three.begin()
    until(lambda: three.kept(name), "whoever leads next takes it", deadline_s=WAIT_S)
    three.deploy.get("disk").delete(timeout=WAIT_S)


def test_a_host_that_is_slow_to_take_snapshots_delays_no_start(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    app, home, name = _disk(three, 1)
    real, taking, free = Stored.take, list[str](), threading.Event()

    def take(self: Stored, organisation_id: str, app_id: str, path: str, snapshot_id: str) -> Taken:
        taking.append(snapshot_id)
        assert free.wait(WAIT_S)
        return real(self, organisation_id, app_id, path, snapshot_id)

    monkeypatch.setattr(Stored, "take", take)
    turn, volumes = (
        three.platform.reconciler._acting._snapshotting.relaying.turn,
        {"/data": {"size": "1MiB", "snapshot": name}},
    )
    with contextlib.ExitStack() as busy:
        busy.callback(free.set)
        names = [app.snapshots.take("/data", wait=False).id for _ in range(16)]  # as many threads as an owner has
        until(lambda: taking, deadline_s=WAIT_S)
        web = three.deploy.create(name="web", **FIELDS).wait(timeout=WAIT_S)
        for other in three.hosts.keys() - {home}:
            busy.enter_context(turn(other))
        waits = three.deploy.create(name="waits", volumes=volumes, **FIELDS)
        until(lambda: "reads or makes another volume" in waits.reason, "it says so", deadline_s=WAIT_S)
        assert len(taking) == 1, "the others hold no thread"
    until(lambda: {app.snapshots.get(one).state for one in names} == {"kept"}, "one by one", deadline_s=WAIT_S)
    for one in (waits.wait(timeout=WAIT_S), web, app):
        one.delete(timeout=WAIT_S)


def test_where_a_host_refuses_the_next_one_keeps_it(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(digest: str, data: bytes) -> None:
        raise SandboxFailed("there is no room")

    app, home, _ = _disk(three, 1)
    second, first = sorted(three.hosts.keys() - {home})  # of those with as much room the last is asked first
    monkeypatch.setattr(three.hosts[first].snapshots, "put", full)
    name = app.snapshots.take("/data", copies=2).id
    until(lambda: three.kept(name) == {home, second}, "the next one", deadline_s=WAIT_S)
    name = app.snapshots.take("/data", copies=3).id
    why = f"kept by 2 of 3 hosts: {first}: there is no room"
    until(lambda: app.snapshots.get(name).reason == why, "it says why", deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)


@on_each
def test_what_was_restored_on_a_host_that_lost_its_replica_is_removed(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rios.services.deployments.reconciler.HOST_LOST_S", 0.5)
    app, _, name = _disk(three, 3)
    real, first = Metering.begin, list[str]()

    def begin(self: Metering, app: Any, replica: Any, *what: Any) -> None:
        if app.name == "moved" and not first:
            first.append(replica.host)
            three.hosts[replica.host].gone = True
            raise SandboxFailed("its host goes down when the volume is there")
        real(self, app, replica, *what)

    monkeypatch.setattr(Metering, "begin", begin)
    volumes = {"/data": {"size": "1MiB", "snapshot": name}}
    moved = three.deploy.create(name="moved", volumes=volumes, **FIELDS).wait(timeout=WAIT_S)
    (now,) = {one.host for one in moved.replicas}
    assert (now != first[0], moved.id in three.hosts[first[0]].snapshots.made) == (True, True)
    three.hosts[first[0]].gone = False
    until(lambda: moved.id not in three.hosts[first[0]].snapshots.made, "it is removed", deadline_s=WAIT_S)
    assert three.hosts[now].snapshots.made[moved.id] == DATA
    for one in (moved, app):
        one.delete(timeout=WAIT_S)
