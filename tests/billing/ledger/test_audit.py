"""Whoever changes what was posted, behind the ledger's back, is found out."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from sqlalchemy import text

from rios.billing.ledger import Ledger, Totals, audit
from rios.billing.verify import GENESIS
from tests.billing.ledger.test_post import give, move


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """A ledger of three entries."""
    ledger.post([give("a", amount=10), give("b", "bob", 2**70), move("c", "user:ann:available", "user:bob:held", 4)])
    return ledger


class Undone(Exception):
    """Ends a transaction without a trace."""


def _tampered(ledger: Ledger, statement: str) -> tuple[Totals, tuple[int, bytes]]:
    """What an audit finds in a transaction that changed something and is undone: sums, and the head."""
    found: list[Any] = []
    is_sqlite = ledger.database.is_sqlite
    with contextlib.suppress(Undone), ledger.database.writing() as connection:
        # The rule against it is a rule for those who mean well.
        for name in ("no_update", "no_delete") if is_sqlite else ("immutable",):
            connection.execute(text(f"DROP TRIGGER transfers_{name}{'' if is_sqlite else ' ON transfers'}"))
        connection.execute(text(statement if is_sqlite else re.sub(r"'(\d+)'", r"\1", statement)))
        found += [audit.totals(connection), audit.head(connection)]
        raise Undone
    return found[0], found[1]


def test_an_untouched_ledger_is_sound(three: Ledger) -> None:
    found = three.totals()
    assert found.sound
    assert (found.entries, found.head_hash) == three.head()
    assert found.balances == found.stored == three.accounts()
    assert (found.difference_wei, found.sum_wei, found.broken_at) == (0, 0, None)
    assert three.verify_hash_chain() is None


def test_an_empty_ledger_is_sound(ledger: Ledger) -> None:
    assert ledger.totals().sound
    assert ledger.head() == (0, GENESIS)


CHANGES = {
    "UPDATE transfers SET amount_wei = '11' WHERE seq = 1": 1,
    "UPDATE transfers SET debit_id = credit_id, credit_id = debit_id WHERE seq = 2": 2,
    "UPDATE transfers SET kind = 'gift' WHERE seq = 2": 2,
    "UPDATE transfers SET reference = 'r' WHERE seq = 2": 2,
    "UPDATE transfers SET payload = '{}' WHERE seq = 3": 3,
    "UPDATE transfers SET id = 'x' WHERE seq = 3": 3,
    "UPDATE transfers SET at = at + 1 WHERE seq = 2": 2,
    "UPDATE transfers SET digest = hash WHERE seq = 1": 1,
    "UPDATE transfers SET hash = digest WHERE seq = 3": 3,
    "DELETE FROM transfers WHERE seq = 2": 2,
    "UPDATE accounts SET name = 'user:eve:available' WHERE name = 'user:ann:available'": 1,
}


def test_a_changed_entry_is_found(three: Ledger) -> None:
    for statement, broken_at in CHANGES.items():
        found, _ = _tampered(three, statement)
        assert found.broken_at == broken_at, statement
        assert not found.sound


def test_an_entry_that_was_cut_off_shows_in_the_balances_and_against_a_kept_head(three: Ledger) -> None:
    found, head = _tampered(three, "DELETE FROM transfers WHERE seq = 3")
    assert (found.broken_at, found.difference_wei, found.sum_wei) == (None, 8, 0)
    assert not found.sound
    assert head != three.head()


def test_a_balance_that_was_changed_is_found(three: Ledger) -> None:
    found, _ = _tampered(three, "UPDATE accounts SET balance_wei = '1000' WHERE name = 'user:ann:available'")
    assert (found.broken_at, found.difference_wei, found.sum_wei) == (None, 994, 994)
