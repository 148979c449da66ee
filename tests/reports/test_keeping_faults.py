"""What is kept of reports stays so, and is read, whatever goes wrong: hosts, disks, gateways that end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from rios.services.reports import keeping
from rios.services.reports.files import File, doubt, drop, file_of
from rios.services.reports.keeping import Keeping
from rios.words.errors import Elsewhere, HostLost, NetworkClosed, SandboxFailed
from tests.reports.kept import Net, at_once, files_of, net, shas
from tests.waiting import PATIENCE, until

__all__ = ["at_once", "net"]


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

    def lost(*_: Any) -> None:
        raise HostLost("host b does not answer")

    def doubted(name: str) -> None:
        net.ledger.transact(lambda batch: doubt(batch.connection, [name]), alone=True)

    with monkeypatch.context() as patch:
        patch.setattr(net.hosts["a"].snapshots, "put", full)
        assert one.keeping.tend()
        assert net.kept() == {"b": shas(past), "c": shas(past)}
        patch.setattr(net.hosts["b"].snapshots, "damaged", lost)
        doubted("b")
        assert not one.keeping.tend(), "neither does one take it"
        for sha256 in shas(past):
            assert file_of(net.ledger.database, sha256).hosts == {"b": False, "c": True}, "which is not forgotten"
    with monkeypatch.context() as patch:
        patch.setattr(net.hosts["b"].snapshots, "damaged", lost)
        assert one.keeping.tend(), "the one that has room again"
        assert net.kept()["a"] == shas(past)
    for sha256 in shas(past):
        assert file_of(net.ledger.database, sha256).hosts == {"a": True, "c": True}


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


def test_who_ends_while_its_thread_begins_to_look_waits_for_no_next_look(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = net.gateway("one")
    clear = one.keeping._woken.clear

    def ends_just_before() -> None:
        one.keeping.leave()
        clear()

    monkeypatch.setattr(one.keeping._woken, "clear", ends_just_before)
    Keeping.nudge(one.keeping)
    until(lambda: one.keeping._thread is not None and not one.keeping._thread.is_alive(), deadline_s=5.0 * PATIENCE)


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
