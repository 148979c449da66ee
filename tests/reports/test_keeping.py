"""What was published is kept by hosts of the network: read from there, made up for, and never removed as a stray."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rios.services.reports import keeping
from rios.services.reports.files import REPORTS, File, file_of, miss, place, published
from rios.services.reports.own import UserReports
from rios.storage.report_models import ReportFileRow
from rios.words.errors import Elsewhere
from tests.campaigns import ROOT
from tests.reports.kept import Net, at_once, files_of, net, parts_of, shas
from tests.waiting import PATIENCE, until

__all__ = ["at_once", "net"]
WAIT_S = 20.0 * PATIENCE


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


def test_keys_are_shown_nowhere_and_hosts_know_no_sha256_of_a_file(
    net: Net, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    said, one, other = list[object](), net.gateway("one"), net.gateway("two")
    for host in net.hosts.values():
        for verb in ("get", "put", "keep", "damaged", "kept", "drop"):
            monkeypatch.setattr(host.snapshots, verb, partial(_heard, said, getattr(host.snapshots, verb)))
    past = net.published(one)
    net.there = {"a", "b"}
    one.keeping.tend()
    for sha256 in shas(past):
        net.hosts["a"].damage(sha256)
    files_of(other, past)
    one.keeping.tend()
    net.clear("b")
    net.hosts["a"].lose()
    net.clear("a")
    net.hosts["b"].gone = True
    with pytest.raises(Elsewhere) as error:
        files_of(other, past)
    found = [file_of(net.ledger.database, sha256) for sha256 in shas(past)]
    keys = [one.seal_key for one in found if one is not None]
    assert len(set(keys)) == len(found) == 3
    told = repr(said).encode() + b"".join(one for call in said for one in call if isinstance(one, bytes))
    assert len(said) > 20
    assert not any(mark.encode() in told for mark in (*keys, *shas(past), past.folder))
    assert not any(bytes.fromhex(mark) in told for mark in (*keys, *shas(past)))
    logged = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "has not what" in logged
    shown = (logged, str(error.value), repr(found), repr(one.keeping), repr(past), repr(one.store.history()))
    assert not any(key in text for key in keys for text in shown)
    own = UserReports(lambda: one, user="local", everybodys=True)
    assert not any(key in repr(own.get(past.run_id)) for key in keys)
    published_too = b"".join(path.read_bytes() for path in one.shelf.out.rglob("*") if path.is_file())
    assert not any(key.encode() in published_too for key in keys)


def _heard(said: list[Any], verb: Callable[..., Any], *what: Any) -> Any:
    """Asks a host as it was asked, and notes what with."""
    said.append(what)
    return verb(*what)
