"""The chain of the audit log: whatever is changed, left out or added in the middle is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DatabaseError

from rios.accounts.audit import AuditEntry, broken_at
from rios.accounts.values import Principal
from rios.services.accounts import Accounts
from rios.storage.models import AuditRow
from rios.words.errors import LedgerConflict


def _chain(count: int) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    for number in range(count):
        last = found[-1] if found else None
        found.append(
            AuditEntry.after(
                last, at=number, organisation_id="o", actor="ann", action="user.create", object=f"u{number}", detail={}
            )
        )
    return found


def test_a_chain_is_whole() -> None:
    assert broken_at([]) is None
    assert broken_at(_chain(5)) is None


@pytest.mark.parametrize(
    "changed",
    [{"actor": "bob"}, {"object": "x"}, {"at": 7}, {"detail": {"a": "b"}}, {"hash": bytes(32)}, {"seq": 9}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_changed_entry_is_found(changed: dict[str, object]) -> None:
    chain = _chain(5)
    chain[2] = replace(chain[2], **changed)  # type: ignore[arg-type]
    assert broken_at(chain) == 3


def test_a_missing_or_moved_entry_is_found() -> None:
    chain = _chain(5)
    assert broken_at(chain[1:]) == 1
    assert broken_at(chain[:2] + chain[3:]) == 3
    assert broken_at([chain[0], chain[2], chain[1], *chain[3:]]) == 2


def test_the_log_says_who_did_what_and_cannot_be_changed(both: Accounts) -> None:
    admin = both.tokens.authenticate(both.first_token())
    user, _ = both.create_user(admin, "bob", role="viewer")
    both.change_role(admin, user.id, "developer")
    entries = both.audit(admin)
    assert [entry.action for entry in entries] == ["token.create", "user.create", "user.role"]
    assert entries[-1].actor == admin.user_id
    assert entries[-1].object == user.id
    assert entries[-1].detail == {"role": "developer"}
    assert both.verify_audit() is None
    for statement in (update(AuditRow).values(actor="nobody"), delete(AuditRow)):
        with pytest.raises(LedgerConflict, match="never changed"):
            both.store.transact(lambda connection, s=statement: connection.execute(s))


def test_who_gets_round_the_database_is_found(accounts: Accounts, admin: Principal) -> None:
    accounts.create_user(admin, "bob", role="viewer")
    with accounts.store._database.writing() as connection:
        connection.execute(text("DROP TRIGGER audit_no_update"))
        connection.execute(update(AuditRow).where(AuditRow.seq == 2).values(actor="nobody"))
    assert accounts.verify_audit() == 2


def test_the_error_of_the_database_is_its_own(accounts: Accounts) -> None:
    accounts.first_token()
    with pytest.raises(DatabaseError), accounts.store._database.writing() as connection:
        connection.execute(delete(AuditRow))
