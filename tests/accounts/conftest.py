"""Accounts beside a ledger, with a clock that a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rios.accounts.values import Principal
from rios.billing.ledger.ledger import Ledger
from rios.services.accounts import Accounts
from tests.storage.databases import KINDS, drop_database, new_tables

SECOND = 10**6


@dataclass
class Clock:
    now: int = 1_800_000_000 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Accounts]:
    """Accounts on SQLite, then on PostgreSQL."""
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, clock=clock) as ledger:
        yield Accounts(ledger, home=tmp_path)
    drop_database(url)


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock) -> Iterator[Accounts]:
    with Ledger.open(new_tables("sqlite", tmp_path), clock=clock) as ledger:
        yield Accounts(ledger, home=tmp_path)


@pytest.fixture
def admin(accounts: Accounts) -> Principal:
    """The network's first admin."""
    return accounts.tokens.authenticate(accounts.first_token())
