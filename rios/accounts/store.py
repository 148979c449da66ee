"""Accounts in a database: every verb is one transaction, which writes nothing when it raises.

No two processes write at the same time (`rios.storage.engine`), so what a transaction looked up stays true in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, func, insert, select, tuple_, update
from sqlalchemy.orm import aliased

from rios.accounts.audit import AuditEntry
from rios.accounts.values import ApiKey, Organisation, Session, User
from rios.storage import models as m
from rios.storage.engine import Database
from rios.storage.sign_in_models import GuessRow
from rios.words.errors import AlreadyExists, NotFound

T = TypeVar("T")
Place = tuple[int, str]
"""Moment and id of a row in a list that is ordered by both."""
FIRST: Place = (-1, "")


class Transact(Protocol):
    """Runs a function in the one transaction that writes now."""

    def __call__(self, run: Callable[[Connection], T], /) -> T:
        """What `run` returns, committed; or nothing of it, and what it raises."""


class AccountStore:
    """Organisations, users, keys, sessions and the audit log."""

    def __init__(self, database: Database, transact: Transact) -> None:
        self._database = database
        self.transact = transact

    # --- organisations and users -----------------------------------------------------------------------------

    def organisation(self, organisation_id: str) -> Organisation | None:
        """An organisation, or None."""
        row = self.row(m.OrganisationRow, m.OrganisationRow.id == organisation_id)
        return None if row is None else Organisation(**row)

    def organisations(self) -> list[Organisation]:
        """All organisations by name."""
        return [Organisation(**row) for row in self.rows(m.OrganisationRow, order=m.OrganisationRow.name)]

    def members(self, organisation_id: str) -> int:
        """How many living users an organisation has."""
        row = m.PersonRow
        wanted = select(func.count()).where(row.organisation_id == organisation_id, row.closed_at.is_(None))
        with self._database.reading() as connection:
            return connection.scalar(wanted) or 0

    def user(self, user_id: str) -> User | None:
        """A user, or None."""
        row = self.row(m.PersonRow, m.PersonRow.id == user_id)
        return None if row is None else _user(row)

    def credentials(self, login: str) -> RowMapping | None:
        """What decides whether somebody may sign in as `login`; None for nobody."""
        return self.row(m.PersonRow, m.PersonRow.login == login)

    def guess(self, mark: bytes) -> RowMapping | None:
        """How often a password was guessed wrongly, and until when nobody may try; None where nobody did."""
        return self.row(GuessRow, GuessRow.fingerprint == mark)

    def users(self, organisation_id: str, *, after: str = "", limit: int) -> list[User]:
        """The users of an organisation by id, those after `after`."""
        row = m.PersonRow
        wanted = (row.organisation_id == organisation_id, row.id > after)
        return [_user(found) for found in self.rows(row, *wanted, order=row.id, limit=limit)]

    # --- keys and sessions -----------------------------------------------------------------------------------

    def key_by_fingerprint(self, fingerprint: bytes) -> ApiKey | None:
        """The key that a secret belongs to, or None."""
        row = self.row(m.ApiKeyRow, m.ApiKeyRow.fingerprint == fingerprint)
        return None if row is None else _key(row)

    def keys(self, user_id: str, *, after: Place = FIRST, limit: int | None = None) -> list[ApiKey]:
        """The keys of a user, oldest first; those that were made after a moment and id."""
        row = m.ApiKeyRow
        wanted = (row.user_id == user_id, tuple_(row.created_at, row.id) > after)
        return [_key(found) for found in self.rows(row, *wanted, order=(row.created_at, row.id), limit=limit)]

    def session(self, session_id: str) -> Session | None:
        """A session, or None."""
        row = self.row(m.SessionRow, m.SessionRow.id == session_id)
        return None if row is None else _session(row)

    def sessions(self, user_id: str, *, at: int, after: Place = FIRST, limit: int | None = None) -> list[Session]:
        """The sessions of a user that are alive at `at`, oldest first; those that began after a moment and id."""
        row = m.SessionRow
        living = (row.user_id == user_id, row.revoked_at.is_(None), row.expires_at > at)
        wanted = (*living, tuple_(row.created_at, row.id) > after)
        return [_session(found) for found in self.rows(row, *wanted, order=(row.created_at, row.id), limit=limit)]

    def touch_key(self, key_id: str, *, at: int) -> None:
        """Keep when a key was used last."""
        row = m.ApiKeyRow
        self.transact(lambda c: c.execute(update(row).where(row.id == key_id).values(last_used_at=at)))

    # --- the audit log ---------------------------------------------------------------------------------------

    def audit(
        self, organisation_id: str | None = None, *, after: int = 0, limit: int | None = None
    ) -> list[AuditEntry]:
        """Entries after seq `after`, of one organisation or of all."""
        row = m.AuditRow
        wanted = [row.seq > after]
        if organisation_id is not None:
            wanted.append(row.organisation_id == organisation_id)
        return [_entry(found) for found in self.rows(row, *wanted, order=row.seq, limit=limit)]

    def audit_head(self) -> int:
        """The seq of the last entry of all; 0 where there is none."""
        with self._database.reading() as connection:
            return connection.scalar(select(func.max(m.AuditRow.seq))) or 0

    # --- how questions are put -------------------------------------------------------------------------------

    def row(self, table: Any, *wanted: ColumnElement[bool]) -> RowMapping | None:
        """The first row of `table` for which all of `wanted` hold, or None."""
        with self._database.reading() as connection:
            return first(connection, table, *wanted)

    def rows(
        self, table: Any, *wanted: ColumnElement[bool], order: Any, limit: int | None = None
    ) -> Iterator[RowMapping]:
        """The rows of `table` for which all of `wanted` hold, in the order of a column or of several."""
        columns = order if isinstance(order, tuple) else (order,)
        query = select(table.__table__).where(*wanted).order_by(*columns).limit(limit)
        with self._database.reading() as connection:
            yield from connection.execute(query).mappings().all()


# What transactions are made of.


def first(connection: Connection, table: Any, *wanted: ColumnElement[bool]) -> RowMapping | None:
    """The first row of `table` for which all of `wanted` hold, or None."""
    return connection.execute(select(table.__table__).where(*wanted).limit(1)).mappings().first()


def add(connection: Connection, table: Any, **values: Any) -> None:
    """Insert one row."""
    connection.execute(insert(table), [values])


def change(connection: Connection, table: Any, key: str, **values: Any) -> None:
    """Change the row whose id is `key`."""
    connection.execute(update(table).where(table.id == key).values(**values))


def must(row: RowMapping | None, what: str) -> RowMapping:
    """`row`, or NotFound that calls it `what`."""
    if row is None:
        raise NotFound(f"there is no {what}")
    return row


def must_be_new(row: RowMapping | None, what: str) -> None:
    """AlreadyExists, which calls it `what`, where there is a row."""
    if row is not None:
        raise AlreadyExists(f"there is {what} already; choose another name")


def record(
    connection: Connection,
    *,
    at: int,
    organisation_id: str,
    actor: str,
    action: str,
    object: str,  # noqa: A002
    detail: Mapping[str, str] | None = None,
) -> None:
    """Write down who did what, in the transaction that does it."""
    row = m.AuditRow
    newest = select(func.max(row.seq)).scalar_subquery()
    last = first(connection, row, row.seq == newest)
    entry = AuditEntry.after(
        None if last is None else _entry(last),
        at=at,
        organisation_id=organisation_id,
        actor=actor,
        action=action,
        object=object,
        detail=detail or {},
    )
    add(
        connection,
        row,
        seq=entry.seq,
        at=entry.at,
        organisation_id=organisation_id,
        actor=actor,
        action=action,
        object=object,
        detail=json.dumps(dict(entry.detail), sort_keys=True),
        hash=entry.hash,
    )


def scopes_text(scopes: Iterable[str]) -> str:
    """Scopes as they are kept."""
    return json.dumps(sorted(scopes))


def logins_of(database: Database, user_ids: Collection[str], *, seen_by: str | None = None) -> dict[str, str]:
    """What these users sign in as, in one question: "closed:ID" of a closed account, nothing of one that is not there.

    seen_by: only those of the organisation of this user, who is not told what others sign in as.
    """
    row, other = m.PersonRow, aliased(m.PersonRow)
    wanted: list[ColumnElement[bool]] = [row.id.in_(user_ids)]
    if seen_by is not None:
        wanted.append(row.organisation_id == select(other.organisation_id).where(other.id == seen_by).scalar_subquery())
    with database.reading() as connection:
        return {one.id: one.login for one in connection.execute(select(row.id, row.login).where(*wanted))}


def _user(row: RowMapping) -> User:
    names = (
        "id", "organisation_id", "login", "name", "role", "created_at", "closed_at", "email", "email_confirmed_at",
    )  # fmt: skip
    return User(**{name: row[name] for name in names}, has_password=row["password"] is not None)


def _key(row: RowMapping) -> ApiKey:
    kept = {name: value for name, value in row.items() if name not in ("fingerprint", "scopes")}
    return ApiKey(**kept, scopes=frozenset(json.loads(row["scopes"])))


def _session(row: RowMapping) -> Session:
    kept = {name: value for name, value in row.items() if name != "scopes"}
    return Session(**kept, scopes=frozenset(json.loads(row["scopes"])))


def _entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(**{**row, "detail": json.loads(row["detail"]), "hash": bytes(row["hash"])})
