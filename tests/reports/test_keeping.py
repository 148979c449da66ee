"""What was published is kept by hosts of the network: read from there, made up for, and never removed as a stray."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rios.billing.ledger.ledger import Ledger
from rios.services.deployments.contents import Content, Contents
from rios.services.deployments.snapshotting import Snapshotting
from rios.services.deployments.store import AppStore
from rios.services.reports import keeping
from rios.services.reports.files import REPORTS, File, doubt, drop, file_of, miss, place, published
from rios.services.reports.own import UserReports
from rios.services.reports.reports import Reports
from rios.services.reports.values import Past
from rios.storage.engine import Database
from rios.storage.report_models import ReportFileRow
from rios.words.errors import Elsewhere, HostLost, NetworkClosed, SandboxFailed
from tests.billing.clock import Clock
from tests.campaigns import ROOT
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_keepers import Stored
from tests.reports.conftest import NOW, Make
from tests.reports.ledgers import live
from tests.storage.databases import KINDS, drop_database, new_tables
from tests.waiting import PATIENCE, until

WAIT_S = 20.0 * PATIENCE


class Keeps(SimulatedHost):
    """A host with a real store of chunks."""

    def __init__(self, name: str, place: Path, database: Database) -> None:
        super().__init__(name)
        self.snapshots, self._database = Stored(name, place), database

    def offer(self) -> Any:
        self._here()
        return super().offer()

    @property
    def kept(self) -> set[str]:
        """The files that it keeps, by their SHA-256, under whatever ids."""
        row = ReportFileRow
        with self._database.reading() as connection:
            known = {one.digest: one.sha256 for one in connection.execute(select(row.digest, row.sha256))}
        return {known[self.snapshots.contents.kept(REPORTS, name)] for name in self.ids}

    @property
    def ids(self) -> list[str]:
        """What it knows them by."""
        return [name for app_id, name in self.snapshots.kept() if app_id == REPORTS]

    def digest(self, sha256: str) -> str:
        """Of what it has of a file, under the id that the tables say."""
        found = self.snapshots.contents.kept(REPORTS, file_of(self._database, sha256).ids[self.name])
        assert found is not None
        return found

    def damage(self, sha256: str) -> None:
        """Change a file on its disk without changing its size."""
        contents = self.snapshots.contents
        (chunk, size), *_ = Content.of(contents.get(self.digest(sha256))).chunks
        (contents._chunks / chunk).write_bytes(bytes(size))

    def lose(self) -> None:
        """Its disk is another one."""
        shutil.rmtree(self.snapshots.contents._directory)


class Net:
    """A ledger, its hosts, and gateways with folders of their own."""

    def __init__(self, make: Make, ledger: Ledger, place: Path) -> None:
        self.hosts = {name: Keeps(name, place / "hosts" / name, ledger.database) for name in ("a", "b", "c")}
        self.there = {"a", "b"}
        self.ledger, self._make, self._place = ledger, make, place

    def now(self) -> Mapping[str, Any]:
        return {name: host for name, host in self.hosts.items() if name in self.there}

    def gateway(self, name: str, *, hosts: bool = True) -> Reports:
        found = self._make(on=self.ledger, out=self._place / name, hosts=self.now if hosts else None)
        found.keeping.nudge = lambda: None  # type: ignore[method-assign]  # a test says when
        return found

    def published(self, by: Reports, **said: Any) -> Past:
        found = by.run("cost", "2026-11-27", owner="local", **said)
        assert len(found.files) == 3
        return found

    def kept(self) -> dict[str, set[str]]:
        """Who keeps what, by the names of files."""
        return {name: host.kept for name, host in self.hosts.items() if host.kept}

    def clear(self, name: str) -> None:
        """What whoever leads does with a host now and then."""
        acts = Snapshotting(AppStore(self.ledger), lambda: pytest.fail("nobody is paid"), threading.Event())
        acts.relaying.require = lambda _: None  # type: ignore[method-assign]
        acts.relaying.hosts = self.now()
        acts._clear_strays(self.hosts[name], ("", "", 0), [])


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest, make: Make, tmp_path: Path, clock: Clock) -> Iterator[Net]:
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, clock=clock) as ledger:
        live(ledger, since="2026-11-26", days=2, per_day=2)
        clock.now_us = NOW
        yield Net(make, ledger, tmp_path)
    drop_database(url)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_HEARD_S", 0.0)


def files_of(reports: Reports, past: Past) -> dict[str, bytes]:
    """As a user gets them."""
    own = UserReports(lambda: reports, user="local", everybodys=True)
    return {kind: own.file(past.run_id, kind) for kind in ("html", "json", "ipynb")}


def parts_of(contents: Contents, digest: str) -> list[str]:
    return [chunk for chunk, _ in Content.of(contents.get(digest)).chunks]


def shas(past: Past) -> set[str]:
    return {said["sha256"] for said in past.files.values()}


def test_another_gateway_shows_it_also_when_the_first_and_a_host_are_gone(net: Net) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    with pytest.raises(Elsewhere, match="no host of the network keeps it"):
        files_of(other, past)
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past), "b": shas(past)}
    assert not one.keeping.tend(), "nothing is lacking"
    made = files_of(one, past)
    assert files_of(other, past) == made
    shutil.rmtree(one.shelf.out)
    assert files_of(one, past) == made
    net.hosts["a"].gone = True
    assert files_of(other, past) == made
    net.hosts["b"].gone = True
    with pytest.raises(Elsewhere, match=r"RIOS_REPORTS .*kept by a and b, .*a does not answer.* ask again"):
        files_of(other, past)


def test_hosts_cannot_read_what_they_keep(net: Net) -> None:
    one = net.gateway("one")
    past = net.published(one)
    one.keeping.tend()
    for host in net.hosts.values():
        for path in host.snapshots.contents._directory.rglob("*"):
            if path.is_file():
                assert not any(data in path.read_bytes() for data in (b"<p>", b"rios-cost-report", b"cells"))
    first, second = (net.hosts[name] for name in ("a", "b"))
    for sha256 in shas(past):
        assert first.digest(sha256) == second.digest(sha256), "the same on each"


def test_a_damaged_chunk_is_not_served_and_is_mended(net: Net) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    one.keeping.tend()
    made = files_of(one, past)
    for sha256 in shas(past):
        net.hosts["a"].damage(sha256)
    assert files_of(other, past) == made
    assert {file_of(net.ledger.database, one).hosts["a"] for one in shas(past)} == {False}, "it is noted"
    shutil.rmtree(one.shelf.out)
    assert other.keeping.tend(), "by whoever looks, from the other host"
    net.hosts["b"].gone = True
    assert files_of(other, past) == made
    for sha256 in shas(past):
        net.hosts["a"].damage(sha256)
    with pytest.raises(Elsewhere, match="a does not show"):
        files_of(other, past)


def test_what_was_published_without_hosts_is_made_up_for(net: Net) -> None:
    alone = net.gateway("one", hosts=False)
    past = net.published(alone)
    assert not alone.keeping.tend()
    other = net.gateway("two")
    assert not other.keeping.tend(), "it has not got it"
    assert not net.kept()
    again = net.gateway("one")
    net.there = {"a"}
    assert again.keeping.tend()
    assert net.kept() == {"a": shas(past)}
    net.there = {"a", "c"}
    assert other.keeping.tend(), "from the first host"
    assert net.kept() == {"a": shas(past), "c": shas(past)}
    assert files_of(other, past) == files_of(again, past)
    with pytest.raises(Elsewhere, match="it is kept by a and c: ask a gateway"):
        files_of(net.gateway("three", hosts=False), past)


def test_a_lost_copy_is_made_again_and_goes_where_it_was(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    one.keeping.tend()
    net.hosts["a"].gone, net.there = True, {"a", "b", "c"}
    assert not one.keeping.tend(), "it may be back soon"
    monkeypatch.setattr(keeping, "LOST_S", -1.0)
    assert one.keeping.tend()
    assert {name for name in net.kept() if name != "a"} == {"b", "c"}
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"b": True, "c": True}
    net.hosts["a"].gone = False
    assert not one.keeping.tend()
    net.clear("a")
    assert net.kept() == {"b": shas(past), "c": shas(past)}
    assert not list(net.hosts["a"].snapshots.contents._chunks.iterdir()), "its room is free again"


def test_who_was_lost_is_read_when_it_is_back(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    one.keeping.tend()
    monkeypatch.setattr(keeping, "LOST_S", -1.0)
    net.hosts["a"].gone = True
    assert not one.keeping.tend(), "there is no other one"
    net.hosts["a"].lose()
    net.hosts["a"].gone = False
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past), "b": shas(past)}
    net.hosts["a"].gone = True
    assert not one.keeping.tend()
    for sha256 in shas(past):
        net.hosts["a"].damage(sha256)
    net.hosts["a"].gone = False
    assert one.keeping.tend()
    host = net.hosts["a"]
    assert all(host.snapshots.contents.is_whole(host.digest(sha256)) for sha256 in shas(past))


def test_of_two_processes_no_more_hosts_are_given_it_than_are_to_keep_it(net: Net) -> None:
    past = net.published(net.gateway("one"))
    whole = file_of(net.ledger.database, min(shas(past)))
    assert whole is not None

    def placed(host: str, lost: set[str]) -> bool:
        return bool(net.ledger.transact(lambda batch: place(batch.connection, whole, host, "0" * 64, lost), alone=True))

    assert [placed(host, set()) for host in ("a", "a", "b", "c")] == [True, False, True, False]
    assert placed("c", {"a"})


def test_whoever_leads_removes_what_no_row_says_and_nothing_else(net: Net) -> None:
    one = net.gateway("one")
    past = net.published(one)
    one.keeping.tend()
    host = net.hosts["a"]
    contents = host.snapshots.contents
    stray, ids = host.digest(next(iter(shas(past)))), host.ids
    assert not contents.keep(REPORTS, "0" * 32, stray)
    assert not contents.keep("app-gone", ids[0], stray), "an id of a report, of something else"
    net.clear("a")
    assert host.snapshots.kept() == [(REPORTS, name) for name in ids]
    assert host.kept == shas(past)
    # Nor what is being given just now: its row is there before it is.
    net.there, whole = {"c"}, file_of(net.ledger.database, min(shas(past)))
    assert whole is not None
    for digest in (whole.digest, *parts_of(contents, whole.digest)):
        net.hosts["c"].snapshots.put(digest, contents.get(digest))
    lost = {"a", "b"}
    name = net.ledger.transact(lambda batch: place(batch.connection, whole, "c", whole.digest, lost), alone=True)
    assert not net.hosts["c"].snapshots.keep(REPORTS, name, whole.digest)
    net.clear("c")
    assert net.hosts["c"].kept == {whole.sha256}


def test_what_is_cleared_away_is_never_what_was_placed_again_meanwhile(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = net.gateway("one")
    past = net.published(one)
    net.there = {"a"}
    one.keeping.tend()
    for sha256 in shas(past):  # as where giving it failed late: the host has it, and no row says so
        found = file_of(net.ledger.database, sha256)
        net.ledger.transact(lambda batch, it=found: drop(batch.connection, it.sha256, "a", it.ids["a"]), alone=True)
    dropped, host = net.hosts["a"].snapshots.drop, net.hosts["a"]

    def late(app_id: str, name: str) -> None:
        """It was found to have no row before, and is given again now."""
        one.keeping.tend()
        dropped(app_id, name)

    with monkeypatch.context() as patch:
        patch.setattr(host.snapshots, "drop", late)
        net.clear("a")
    assert host.kept == shas(past)
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"a": True}
        assert not host.snapshots.contents.missing(host.digest(sha256)), "with all that it consists of"
    net.clear("a")
    assert len(host.ids) == len(shas(past)), "and nothing besides"


def test_who_is_back_soon_without_its_disk_is_no_keeper(net: Net) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    one.keeping.tend()
    net.hosts["a"].lose()
    net.clear("a")
    assert {file_of(net.ledger.database, sha256).hosts["a"] for sha256 in shas(past)} == {False}
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past), "b": shas(past)}
    shutil.rmtree(one.shelf.out)
    net.hosts["b"].lose()
    net.clear("b")
    assert other.keeping.tend(), "also of what the other one has"
    net.hosts["a"].gone = True
    assert files_of(other, past)


def test_what_is_given_while_a_host_is_looked_at_is_not_doubted(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    host = net.hosts["a"]
    kept = host.snapshots.kept

    def before() -> list[tuple[str, str]]:
        found = kept()
        one.keeping.tend()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(host.snapshots, "kept", before)
        net.clear("a")
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"a": True, "b": True}


def test_of_what_nobody_can_read_only_those_go_that_were_asked(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    net.there = {"a"}
    one.keeping.tend()
    sha256 = min(shas(past))
    (net.hosts["a"].snapshots.contents._chunks / net.hosts["a"].digest(sha256)).write_bytes(b"damaged")
    damaged = net.hosts["a"].snapshots.damaged

    def then(digests: list[str]) -> list[str]:
        """When it has been read who keeps it, another host is given it."""
        found = damaged(digests)
        if "b" not in net.there and len(digests) == 1:
            net.there = {"b"}
            assert one.keeping.tend()
        return found

    monkeypatch.setattr(net.hosts["a"].snapshots, "damaged", then)
    net.clear("a")
    assert file_of(net.ledger.database, sha256).hosts == {"b": True}
    net.clear("b")
    assert net.hosts["b"].kept == shas(past)


def test_what_no_host_can_read_any_more_is_given_anew(net: Net) -> None:
    one = net.gateway("one")
    past = net.published(one)
    one.keeping.tend()
    sha256 = next(iter(shas(past)))
    for name in ("a", "b"):
        (net.hosts[name].snapshots.contents._chunks / net.hosts[name].digest(sha256)).write_bytes(b"damaged")
    net.clear("a")
    assert file_of(net.ledger.database, sha256).hosts == {}
    for name in ("a", "b"):
        net.clear(name)
    assert net.kept() == {name: shas(past) - {sha256} for name in ("a", "b")}
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past), "b": shas(past)}
    # Where one of them can, that one gives it.
    contents, digest = net.hosts["a"].snapshots.contents, net.hosts["a"].digest(sha256)
    (contents._chunks / digest).write_bytes(b"damaged")
    net.clear("a")
    assert not contents.missing(digest)


def test_a_host_without_room_is_passed_by(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    net.there = {"a", "b", "c"}

    def full(*_: Any) -> None:
        raise SandboxFailed("host a keeps up to 0 bytes")

    monkeypatch.setattr(net.hosts["a"].snapshots, "put", full)
    assert one.keeping.tend()
    assert net.kept() == {"b": shas(past), "c": shas(past)}
    monkeypatch.setattr(net.hosts["b"].snapshots, "damaged", lambda _: (_ for _ in ()).throw(HostLost("gone")))
    assert not one.keeping.tend(), "nothing is lacking"


def test_an_unreadable_file_holds_up_no_other_and_comes_from_a_host(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    made = files_of(one, past)
    first = min(shas(past))
    path = one.shelf.out / past.folder / next(name for name, said in past.files.items() if said["sha256"] == first)
    data = path.read_bytes()
    path.unlink()
    path.mkdir()  # stands for a disk or a file server that gives an error
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past) - {first}, "b": shas(past) - {first}}
    with pytest.raises(Elsewhere, match=r"cannot be read here: .*; look after RIOS_REPORTS; no host of the network"):
        files_of(one, past)
    path.rmdir()
    path.write_bytes(data)
    monkeypatch.setattr(keeping, "_NOWHERE_S", 0.0)  # as later
    assert one.keeping.tend()
    path.unlink()
    path.mkdir()
    assert files_of(one, past) == made


def test_whatever_one_file_fails_of_the_others_are_given(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    sealed, first = one.keeping._sealed, min(shas(past))

    def fails(found: File, hosts: Mapping[str, Any]) -> bytes | None:
        if found.sha256 == first:
            raise RuntimeError("whatever")
        return sealed(found, hosts)

    monkeypatch.setattr(one.keeping, "_sealed", fails)
    assert one.keeping.tend()
    assert net.kept() == {"a": shas(past) - {first}, "b": shas(past) - {first}}


def test_who_ends_gives_nothing_more_and_breaks_off_first(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    net.published(one)
    put, given = net.hosts["a"].snapshots.put, list[str]()

    def ends(digest: str, data: bytes) -> None:
        given.append(digest)
        put(digest, data)
        one.keeping.leave()

    net.there = {"a"}
    with monkeypatch.context() as patch:
        patch.setattr(net.hosts["a"].snapshots, "put", ends)
        with pytest.raises(NetworkClosed):
            one.keeping.tend()
    assert len(given) == 1
    other, ending = net.gateway("two"), list[bool]()
    monkeypatch.setattr(other.deliverer, "close", lambda: ending.append(other.keeping.is_closing))
    other.close()
    assert ending == [True], "a delivery that waits for a host waits no longer"


def test_the_last_copy_stays_whatever_becomes_of_giving_it_again(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = net.gateway("one")
    past = net.published(one)
    net.there = {"a"}
    one.keeping.tend()
    shutil.rmtree(one.shelf.out)
    for sha256 in shas(past):
        net.ledger.transact(lambda batch, name=sha256: doubt(batch.connection, ["a"], name), alone=True)

    def lost(*_: Any) -> None:
        raise HostLost("a does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(net.hosts["a"].snapshots, "keep", lost)
        assert not one.keeping.tend()
    net.clear("a")
    assert net.kept() == {"a": shas(past)}
    assert one.keeping.tend()
    # Another one takes its place first.
    for sha256 in shas(past):
        net.ledger.transact(lambda batch, name=sha256: doubt(batch.connection, ["a"], name), alone=True)
    monkeypatch.setattr(net.hosts["a"].snapshots, "keep", lost)
    net.there = {"a", "b", "c"}
    while one.keeping.tend():
        continue
    assert set(net.kept()) == {"a", "b", "c"}
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"b": True, "c": True}


@pytest.mark.parametrize("said", [[], None, ["no digest"], 5])
def test_a_host_that_says_anything_counts_for_nothing(net: Net, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    one = net.gateway("one")
    past = net.published(one)
    net.there = {"a", "b", "c"}
    for verb in ("damaged", "keep"):
        monkeypatch.setattr(net.hosts["a"].snapshots, verb, lambda *_: said)
    assert one.keeping.tend()
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"b": True, "c": True}


def test_versions_of_one_number_are_not_taken_for_each_other(net: Net, tmp_path: Path) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    first = net.published(one)
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "reports" / "cost.ipynb", tmp_path / "mine" / "cost.ipynb")
    text = (tmp_path / "mine" / "cost.ipynb").read_text()
    (tmp_path / "mine" / "cost.ipynb").write_text(text.rstrip() + "\n\n")
    second = net.published(other, force=True)
    assert second.folder == first.folder, "each gateway numbers its own"
    assert shas(second) != shas(first)
    other.keeping.tend()
    assert files_of(one, second) == files_of(other, second)


def test_equal_files_are_kept_once(net: Net) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    again = net.published(other, force=True)
    assert again.files == past.files
    with net.ledger.database.reading() as connection:
        assert len(connection.scalars(select(ReportFileRow.sha256)).all()) == 3
    one.keeping.tend()
    assert net.kept() == {"a": shas(past), "b": shas(past)}


def test_an_equal_file_is_looked_for_wherever_it_was_published(net: Net) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    made, again = files_of(one, past), "cost/2026-11-27/partial-1"
    for _ in range(2):
        net.ledger.transact(lambda batch: published(batch.connection, again, past.files), alone=True)
    for name, said in past.files.items():
        assert file_of(net.ledger.database, said["sha256"]).places == ((past.folder, name), (again, name))
    kind = next(name for name in past.files if name.endswith(".html"))
    assert one.keeping.read(again, kind, past.files[kind]["sha256"]) == made["html"], "also where no host has it"
    assert one.keeping.tend(), "the second one is gone before it gave it"
    assert net.kept() == {"a": shas(past), "b": shas(past)}
    for name in ("a", "b"):
        net.hosts[name].lose()
        net.clear(name)
    shutil.copytree(one.shelf.out / past.folder, other.shelf.out / again)
    shutil.rmtree(one.shelf.out)
    assert not one.keeping.tend()
    assert other.keeping.tend(), "or the first one is"
    assert net.kept() == {"a": shas(past), "b": shas(past)}


def test_nothing_is_looked_at_of_which_nothing_can_be_done(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = net.gateway("one"), net.gateway("two")
    past = net.published(one)
    looks, evened = list[str](), one.keeping._evened

    def seen(found: File, hosts: dict[str, Any]) -> bool:
        looks.append(found.sha256)
        return evened(found, hosts)

    monkeypatch.setattr(one.keeping, "_evened", seen)
    net.there = {"a"}
    assert one.keeping.tend()
    looks.clear()
    assert not one.keeping.tend()
    assert not looks, "there is no other host"
    net.there = {"b"}
    monkeypatch.setattr(one.keeping, "_lost", {"a"})
    assert one.keeping.tend()
    looks.clear()
    assert not one.keeping.tend()
    assert not looks, "the other one is lost"
    monkeypatch.setattr(one.keeping, "_lost", set[str]())
    assert not one.keeping.tend()
    assert sorted(looks) == sorted(shas(past)), "it is back: as many have it as are to"
    looks.clear()
    assert not one.keeping.tend()
    assert not looks
    # Nor is what was neither in the folder nor on a host a moment ago, until that changes.
    for name in ("a", "b"):
        net.hosts[name].gone = True
    net.there, reads, read = {"c"}, list[str](), other.shelf.read
    assert net.ledger.transact(lambda batch: miss(batch.connection, "a"), alone=True) is None
    monkeypatch.setattr(other.keeping, "_lost", {"a", "b"})

    def tried(folder: str, name: str, sha256: str) -> bytes:
        reads.append(sha256)
        return read(folder, name, sha256)

    monkeypatch.setattr(other.shelf, "read", tried)
    for _ in range(3):
        assert not other.keeping.tend()
    assert sorted(reads) == sorted(shas(past))
    net.hosts["a"].gone, net.there = False, {"a", "c"}
    assert other.keeping.tend(), "from the one that is back"
    assert net.hosts["c"].kept == shas(past)


def test_it_is_given_in_a_thread_and_nobody_waits_for_it(net: Net) -> None:
    one = net._make(on=net.ledger, out=net._place / "one", hosts=net.now)
    before = threading.active_count()
    past = net.published(one)
    until(lambda: net.kept() == {"a": shas(past), "b": shas(past)}, deadline_s=WAIT_S)
    one.close()
    assert one.keeping._thread is not None
    assert not one.keeping._thread.is_alive()
    one.keeping.nudge()
    assert threading.active_count() <= before, "who is closed begins nothing"


def test_a_key_is_shown_nowhere(net: Net) -> None:
    net.ledger.transact(
        lambda batch: published(batch.connection, "x", {"x.html": {"sha256": "1" * 64, "bytes": 3}}), alone=True
    )
    found = file_of(net.ledger.database, "1" * 64)
    assert found is not None
    assert found.seal_key not in repr(found)
