"""A ledger whose reports are kept by hosts with real stores of chunks; gateways with folders of their own."""

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
from rios.services.reports.files import REPORTS, file_of
from rios.services.reports.own import UserReports
from rios.services.reports.reports import Reports
from rios.services.reports.values import Past
from rios.storage.engine import Database
from rios.storage.report_models import ReportFileRow
from tests.billing.clock import Clock
from tests.deployments.simulated_hosts import SimulatedHost
from tests.deployments.test_keepers import Stored
from tests.reports.conftest import NOW, Make
from tests.reports.ledgers import live
from tests.storage.databases import KINDS, drop_database, new_tables


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
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has heard of all hosts."""
    monkeypatch.setattr(keeping, "_HEARD_S", 0.0)


def files_of(reports: Reports, past: Past) -> dict[str, bytes]:
    """As a user gets them."""
    own = UserReports(lambda: reports, user="local", everybodys=True)
    return {kind: own.file(past.run_id, kind) for kind in ("html", "json", "ipynb")}


def parts_of(contents: Contents, digest: str) -> list[str]:
    return [chunk for chunk, _ in Content.of(contents.get(digest)).chunks]


def shas(past: Past) -> set[str]:
    return {said["sha256"] for said in past.files.values()}
