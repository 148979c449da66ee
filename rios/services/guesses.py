"""Wrong passwords, counted by login whether or not somebody has it: nobody learns which logins there are.

After the fifth in a row each further attempt waits twice as long, up to 15 minutes; a day without one forgets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, update

from rios.accounts.store import add, first, record
from rios.accounts.tokens import fingerprint
from rios.storage.sign_in_models import GuessRow

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

_FREE_FAILURES, _LOCKED_MAX_S = 5, 900
_SECOND = 1_000_000
_FORGOTTEN_US = 86_400 * _SECOND


def mark_of(login: str) -> bytes:
    """What a login is counted under."""
    return fingerprint(f"login:{login.strip().lower()}")


def failed(connection: Connection, login: str, now: int, person: RowMapping | None) -> None:
    """Count one more. `person` is who has the login: only what happens to somebody goes to the audit log."""
    mark = mark_of(login)
    connection.execute(delete(GuessRow).where(GuessRow.at < now - _FORGOTTEN_US))
    row = first(connection, GuessRow, GuessRow.fingerprint == mark)
    failures = 1 if row is None else row["failures"] + 1
    locked_s = 0 if failures < _FREE_FAILURES else min(2 ** min(failures - _FREE_FAILURES, 30), _LOCKED_MAX_S)
    values = {"failures": failures, "locked_until": now + locked_s * _SECOND, "at": now}
    if row is None:
        add(connection, GuessRow, fingerprint=mark, **values)
    else:
        connection.execute(update(GuessRow).where(GuessRow.fingerprint == mark).values(**values))
    if failures == _FREE_FAILURES and person is not None:
        record(
            connection, at=now, organisation_id=person["organisation_id"], actor="", action="session.lock",
            object=person["id"],
        )  # fmt: skip


def forgive(connection: Connection, login: str) -> None:
    """Count from zero again: the right password, or a new one, was given."""
    connection.execute(delete(GuessRow).where(GuessRow.fingerprint == mark_of(login)))
