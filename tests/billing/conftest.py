"""A database of each kind with nothing in its tables, and a ledger in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.ledger import Ledger
from tests.billing.clock import Clock
from tests.storage.databases import KINDS, drop_database, new_tables


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with nothing in its tables: SQLite, then PostgreSQL."""
    found = new_tables(request.param, tmp_path)
    yield found
    drop_database(found)


@pytest.fixture
def postgres_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a database with nothing in its tables, on a PostgreSQL server."""
    found = new_tables("postgres", tmp_path)
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
