"""Organisations and their users: who is made, changed and closed by whom, and the log of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from rios.accounts.audit import AuditEntry, broken_at
from rios.accounts.passwords import hash_password
from rios.accounts.roles import ADMIN, UNATTENDED, check_role, scopes_of
from rios.accounts.signing import Signer
from rios.accounts.store import AccountStore, add, change, first, must, must_be_new, record
from rios.accounts.tokens import fingerprint
from rios.accounts.values import Organisation, Principal, User
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.guesses import forgive
from rios.services.mail import INVITE, check_email, send
from rios.services.people import forget_person
from rios.services.tokens import Tokens, new_key
from rios.storage.models import ApiKeyRow, OrganisationRow, PersonRow, SessionRow
from rios.words.errors import InvalidRequest, NotAllowed, NotFound, NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger

_LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}")
_NAME_MAX = 200


class Accounts:
    """The accounts of one network, beside its ledger and in the same database."""

    def __init__(self, ledger: Ledger, *, home: Path | None, issuer: str = "rios") -> None:
        """home: where the key that signs access tokens is kept; in memory without."""

        def transact(run: Callable[[Connection], Any]) -> Any:
            return ledger.transact(lambda batch: run(batch.connection), alone=True)

        self.store = AccountStore(ledger.database, transact)
        path = None if home is None else home / "keys" / "tokens.json"
        self.signer = Signer(path, self.store, clock=ledger.now)
        self.tokens = Tokens(self.store, self.signer, issuer=issuer, clock=ledger.now)
        self._ledger = ledger
        self.ledger = ledger
        self.now = ledger.now

    # --- the first admin -------------------------------------------------------------------------------------

    def first_token(self, known: str | None = None) -> str:
        """A token of the network's first admin, who is made at the first call and holds the trial credit.

        known: one that was given before; it is given again while it is good.
        """
        scopes = scopes_of(ADMIN, operator=True)
        if known is not None and self._is_good(known, scopes):
            return known
        now = self._ledger.now()

        def run(connection: Connection) -> str:
            first_person(connection, at=now)
            key, secret = new_key(connection, LOCAL_USER, "first token", scopes, now)
            record(
                connection, at=now, organisation_id=FIRST_ORGANISATION, actor=LOCAL_USER, action="token.create",
                object=key.id,
            )  # fmt: skip
            return secret

        return self.store.transact(run)

    def _is_good(self, token: str, scopes: frozenset[str]) -> bool:
        """Whether it is a key that may all of `scopes`: one of an older version lacks those that came later."""
        try:
            self.tokens.authenticate(token)
        except NotSignedIn:
            return False
        key = self.store.key_by_fingerprint(fingerprint(token))
        return key is not None and key.scopes >= scopes

    # --- organisations ---------------------------------------------------------------------------------------

    def create_organisation(self, who: Principal, name: str, *, admin: str) -> tuple[Organisation, User, str]:
        """A new organisation with its first admin, and a key of that admin. Raises AlreadyExists, InvalidRequest."""
        who.require("organisations:write")
        named, login, now = _named(name), _login(admin), self._ledger.now()
        organisation = Organisation(id=f"org-{secrets.token_hex(8)}", name=named, operator=False, created_at=now)

        def run(connection: Connection) -> tuple[Organisation, User, str]:
            known = first(connection, OrganisationRow, OrganisationRow.name == named)
            must_be_new(known, f"an organisation {named!r}")
            must_be_new(first(connection, PersonRow, PersonRow.login == login), f"a user {login!r}")
            add(connection, OrganisationRow, id=organisation.id, name=named, operator=False, created_at=now)
            user = _add_person(connection, _new_id(), organisation.id, login, "", ADMIN, None, now)
            _, secret = new_key(connection, user.id, "first token", scopes_of(ADMIN, operator=False), now)
            _log(connection, who, now, "organisation.create", organisation.id, admin=user.id)
            return organisation, user, secret

        return self.store.transact(run)

    def organisation(self, who: Principal) -> tuple[Organisation, int]:
        """The own organisation, and how many members it has."""
        found = self.store.organisation(who.organisation_id)
        assert found is not None
        return found, self.store.members(who.organisation_id)

    def rename_organisation(self, who: Principal, name: str) -> tuple[Organisation, int]:
        """Give the own organisation another name. Raises AlreadyExists, InvalidRequest."""
        who.require("users:write")
        named, now = _named(name), self._ledger.now()

        def run(connection: Connection) -> None:
            other = (OrganisationRow.name == named, OrganisationRow.id != who.organisation_id)
            must_be_new(first(connection, OrganisationRow, *other), f"an organisation {named!r}")
            change(connection, OrganisationRow, who.organisation_id, name=named)
            _log(connection, who, now, "organisation.rename", who.organisation_id)

        self.store.transact(run)
        return self.organisation(who)

    # --- users -----------------------------------------------------------------------------------------------

    def create_user(
        self,
        who: Principal,
        login: str,
        *,
        role: str,
        name: str = "",
        password: str | None = None,
        email: str | None = None,
        url: str = "",
    ) -> tuple[User, str]:
        """A new user of the organisation, and a first key with all that the role may. It is one for automation where
        the user has no other way in: neither password nor email.

        email: an invitation is sent there, with a link to choose a password; url: where that leads. Raises NotAllowed
        where the role may more than the asking token: nobody gives what he does not have.
        """
        who.require("users:write")
        scopes = _may_give(who, role)
        if password is not None or email is not None:
            scopes -= {UNATTENDED}
        kept = None if password is None else hash_password(password)
        wanted, now = _login(login), self._ledger.now()
        address = None if email is None else check_email(email)

        def run(batch: Batch) -> tuple[User, str]:
            connection = batch.connection
            must_be_new(first(connection, PersonRow, PersonRow.login == wanted), f"a user {wanted!r}")
            user = _add_person(connection, _new_id(), who.organisation_id, wanted, name, role, kept, now, email=address)
            if address is not None:
                send(batch, INVITE, user.id, url, now)
            _, secret = new_key(connection, user.id, "first token", scopes, now)
            _log(connection, who, now, "user.create", user.id, role=role)
            return user, secret

        return self._ledger.transact(run, alone=True)

    @staticmethod
    def add_from_outside(
        connection: Connection, organisation_id: str, login: str, name: str, role: str, now: int
    ) -> str:
        """Write a user who signs in through another provider, without password and key; its id."""
        user = _add_person(connection, _new_id(), organisation_id, login, name.strip(), role, None, now)
        record(
            connection, at=now, organisation_id=organisation_id, actor=user.id, action="user.create", object=user.id,
            detail={"role": role},
        )  # fmt: skip
        return user.id

    def users(self, who: Principal, *, after: str = "", limit: int = 100) -> list[User]:
        """The users of the organisation by id, those after `after`."""
        who.require("users:read")
        return self.store.users(who.organisation_id, after=after, limit=limit)

    def user(self, who: Principal, user_id: str) -> User:
        """A user of the organisation; oneself without any right. Raises NotFound."""
        if user_id != who.user_id:
            who.require("users:read")
        found = self.store.user(user_id)
        if found is None or found.organisation_id != who.organisation_id:
            raise NotFound(f"there is no user {user_id!r}")
        return found

    def change_role(self, who: Principal, user_id: str, role: str) -> User:
        """Give a user another role; what the user's tokens may changes with it. Raises NotFound, NotAllowed."""
        who.require("users:write")
        _may_give(who, role)
        now = self._ledger.now()

        def run(connection: Connection) -> None:
            row = _of(connection, who, user_id)
            if row["role"] == ADMIN and role != ADMIN:
                _not_the_last(connection, who.organisation_id)
            change(connection, PersonRow, user_id, role=role)
            _log(connection, who, now, "user.role", user_id, role=role)

        self.store.transact(run)
        self.tokens.forget()
        return self.user(who, user_id)

    def close_user(self, who: Principal, user_id: str) -> str | None:
        """Close a user: name and login are forgotten, all tokens and schedules of reports end, the ledger keeps what
        was spent under the id. The address that is forgotten, where there was one.

        Raises NotFound, and NotAllowed for the last admin.
        """
        who.require("users:write")
        return self._close(who, user_id)

    def close_own(self, who: Principal) -> str | None:
        """The same of oneself, for which no right is needed."""
        return self._close(who, who.user_id)

    def _close(self, who: Principal, user_id: str) -> str | None:
        now = self._ledger.now()

        def run(connection: Connection) -> str | None:
            row = _of(connection, who, user_id)
            if row["role"] == ADMIN:
                _not_the_last(connection, who.organisation_id)
            change(
                connection, PersonRow, user_id, login=f"closed:{user_id}", name="", password=None, closed_at=now,
                email=None, email_confirmed_at=None, profile=None,
            )  # fmt: skip
            forget_person(connection, user_id, now)
            forgive(connection, row["login"])
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.user_id == user_id).values(name=""))
            for table in (ApiKeyRow, SessionRow):
                living = update(table).where(table.user_id == user_id, table.revoked_at.is_(None))
                connection.execute(living.values(revoked_at=now))
            connection.execute(update(SessionRow).where(SessionRow.user_id == user_id).values(client=""))
            _log(connection, who, now, "user.close", user_id)
            email: str | None = row["email"]
            return email

        address = self.store.transact(run)
        self.tokens.forget()
        return address

    def give_credit(self, who: Principal, user_id: str, amount_wei: int, *, key: str) -> None:
        """Give any user trial credit, once for each `key`. Raises NotFound, LedgerConflict."""
        who.require("credit:write")
        found = self.store.user(user_id)
        if found is None or found.closed_at is not None:
            raise NotFound(f"there is no user {user_id!r}")
        self._ledger.grant_trial(user_id, amount_wei, id=f"credit:{who.user_id}:{key}")
        now = self._ledger.now()
        self.store.transact(
            lambda connection: _log(connection, who, now, "credit.give", user_id, amount_wei=str(amount_wei))
        )

    # --- the log ---------------------------------------------------------------------------------------------

    def audit(self, who: Principal, *, after: int = 0, limit: int = 100) -> list[AuditEntry]:
        """What was done in the organisation, entries after `after`."""
        who.require("audit:read")
        return self.store.audit(who.organisation_id, after=after, limit=limit)

    def verify_audit(self) -> int | None:
        """The first entry of the whole log that is missing or was changed; None where all is as it was written."""
        return broken_at(self.store.audit())

    def verified_audit(self) -> dict[str, Any]:
        """The same, with how many entries there are and the hash of the last: keep that elsewhere."""
        entries = self.store.audit()
        head = entries[-1].hash.hex() if entries else ""
        return {"broken_at": broken_at(entries), "entries": len(entries), "head": head}


def _login(login: str) -> str:
    found = login.strip().lower()
    if not _LOGIN.fullmatch(found):
        raise InvalidRequest(
            f"{login!r} is no login: 1 to 128 letters, digits and . _ @ + - that begin with a letter or digit"
        )
    return found


def _named(name: str) -> str:
    found = name.strip()
    if not 0 < len(found) <= _NAME_MAX or not found.isprintable():
        raise InvalidRequest(f"a name has 1 to {_NAME_MAX} printable characters")
    return found


def _new_id() -> str:
    return f"user-{secrets.token_hex(8)}"


def _may_give(who: Principal, role: str) -> frozenset[str]:
    scopes = scopes_of(check_role(role), operator=who.operator)
    # Who may make users has signed in just now, and so has what only keys for automation need.
    if missing := sorted(scopes - who.scopes - {UNATTENDED}):
        raise NotAllowed(f"the role {role!r} may more than this token: it lacks {', '.join(missing)}")
    return scopes


def _of(connection: Connection, who: Principal, user_id: str) -> Any:
    """The living user of the asking one's organisation. Raises NotFound."""
    wanted = (PersonRow.organisation_id == who.organisation_id, PersonRow.closed_at.is_(None))
    return must(first(connection, PersonRow, PersonRow.id == user_id, *wanted), f"user {user_id!r}")


def _not_the_last(connection: Connection, organisation_id: str) -> None:
    row = PersonRow
    wanted = select(func.count()).where(row.organisation_id == organisation_id, row.role == ADMIN)
    if connection.scalar(wanted.where(row.closed_at.is_(None))) == 1:
        raise NotAllowed("an organisation keeps its last admin; make another one first")


def first_person(connection: Connection, *, at: int) -> None:
    """The first admin and the organisation that runs the network, where there are none yet."""
    if first(connection, PersonRow, PersonRow.id == LOCAL_USER) is None:
        add(connection, OrganisationRow, id=FIRST_ORGANISATION, name=FIRST_ORGANISATION, operator=True, created_at=at)
        _add_person(connection, LOCAL_USER, FIRST_ORGANISATION, "admin", "", ADMIN, None, at)


def _add_person(
    connection: Connection,
    user_id: str,
    organisation_id: str,
    login: str,
    name: str,
    role: str,
    password: str | None,
    now: int,
    *,
    email: str | None = None,
) -> User:
    named = _named(name) if name else ""
    add(
        connection, PersonRow, id=user_id, organisation_id=organisation_id, login=login, name=named, role=role,
        password=password, created_at=now, closed_at=None, email=email, email_confirmed_at=None, profile=None,
    )  # fmt: skip
    return User(
        id=user_id, organisation_id=organisation_id, login=login, name=named, role=role, created_at=now,
        closed_at=None, has_password=password is not None, email=email,
    )  # fmt: skip


def _log(connection: Connection, who: Principal, at: int, action: str, object: str, **detail: str) -> None:  # noqa: A002
    record(
        connection, at=at, organisation_id=who.organisation_id, actor=who.user_id, action=action, object=object,
        detail=detail,
    )  # fmt: skip
