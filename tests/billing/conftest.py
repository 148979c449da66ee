"""An empty database of each kind, and a ledger in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.ledger import Ledger
from tests.billing.clock import Clock
from tests.storage.databases import KINDS, drop_database, new_database, new_tables


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    found = new_database(request.param, tmp_path)
    yield found
    drop_database(found)


@pytest.fixture
def postgres_url(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on a PostgreSQL server."""
    found = new_database("postgres", tmp_path)
    yield found
    drop_database(found)


@pytest.fixture
def clock() -> Clock:
    """A clock that goes when it is told to."""
    return Clock()


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """A ledger on each kind of database; sound at the end of the test, whatever that did."""
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, timeout_s=20, clock=clock) as found:
        yield found
        totals = found.totals()
        assert totals.sound, totals
    drop_database(url)
