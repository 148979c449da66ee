"""What users do with their own accounts: profile, e-mail, a forgotten password, export and closing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update

from rios.accounts.passwords import hash_password
from rios.accounts.store import change, first, must, record
from rios.accounts.tokens import fingerprint
from rios.services.guesses import forgive
from rios.services.mail import check_email, send
from rios.services.tickets import CONFIRM, RESET, drop_tickets, use_ticket
from rios.storage.models import OutboxRow, PersonRow, SessionRow
from rios.storage.report_models import ReportScheduleRow
from rios.storage.sign_in_models import ClientRow, CookieRow, IdentityRow
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.accounts.values import Principal, User
    from rios.billing.ledger.batch import Batch
    from rios.services.accounts import Accounts

PROFILE = ("affiliation", "about", "website")
_OVER = "the link was used, is over, or is none; ask for another one"
_MINUTE_US = 60_000_000


class People:
    """The own accounts of users."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._store = accounts.store

    # --- profile and e-mail ----------------------------------------------------------------------------------

    def profile(self, who: Principal) -> dict[str, str]:
        """What the user says about itself."""
        row = self._store.row(PersonRow, PersonRow.id == who.user_id)
        found: dict[str, str] = json.loads(row["profile"] or "{}") if row is not None else {}
        return {name: found.get(name, "") for name in PROFILE}

    def change_profile(
        self, who: Principal, changes: Mapping[str, str], *, url: str, password: str | None = None
    ) -> User:
        """Change name, email and what else is in `changes`; a new address is sent a link to confirm it.

        url: where the link leads. password: the user's own, which another address takes: links for a new password are
        sent there. Raises InvalidRequest, NotSignedIn, NotAllowed.
        """
        if unknown := sorted(set(changes) - {"name", "email", *PROFILE}):
            raise InvalidRequest(f"a profile has no {', '.join(unknown)}")
        email = changes.get("email")
        if email:
            check_email(email)
        if email is not None and (email or None) != self._accounts.user(who, who.user_id).email:
            self._accounts.tokens.prove(who, password)
        kept = self.profile(who) | {name: text for name, text in changes.items() if name in PROFILE}
        now = self._accounts.now()

        def run(batch: Batch) -> None:
            row = must(first(batch.connection, PersonRow, PersonRow.id == who.user_id), "such user")
            values: dict[str, Any] = {"profile": json.dumps(kept)}
            if "name" in changes:
                values["name"] = changes["name"]
            if email is not None and (email or None) != row["email"]:
                values |= {"email": email or None, "email_confirmed_at": None}
                drop_tickets(batch.connection, who.user_id)
            change(batch.connection, PersonRow, who.user_id, **values)
            _record(batch.connection, who.organisation_id, who.user_id, now, "user.profile", who.user_id)
            if values.get("email"):
                send(batch, CONFIRM, who.user_id, url, now)

        self._accounts.ledger.transact(run, alone=True)
        return self._accounts.user(who, who.user_id)

    def confirm(self, ticket: str) -> None:
        """The address that a link was sent to is the user's. Raises InvalidRequest."""
        now = self._accounts.now()

        def run(connection: Connection) -> None:
            row = self._of_ticket(connection, ticket, CONFIRM, now)
            change(connection, PersonRow, row["id"], email_confirmed_at=now)
            _record(connection, row["organisation_id"], row["id"], now, "user.email", row["id"])

        self._store.transact(run)

    # --- a forgotten password --------------------------------------------------------------------------------

    def forgot(self, login: str, *, url: str) -> None:
        """Send a link for a new password to who has this login and a confirmed address; nobody learns whether.

        At most one a minute is sent.
        """
        row, now = self._store.credentials(login.strip().lower()), self._accounts.now()
        user_id = "" if row is None else row["id"]
        minute = now // _MINUTE_US
        key = f"reset:{fingerprint(login.strip().lower()).hex()}:{minute}"
        # A message goes out for nobody too: that takes as long, and is dropped where it is delivered.
        self._accounts.ledger.transact(lambda batch: send(batch, RESET, user_id, url, now, key=key), alone=True)

    def reset(self, ticket: str, password: str) -> None:
        """A new password for who got this link; all sessions end. Raises InvalidRequest."""
        kept, now = hash_password(password), self._accounts.now()

        def run(connection: Connection) -> None:
            row = self._of_ticket(connection, ticket, RESET, now)
            # Whoever read the mail has the address.
            change(connection, PersonRow, row["id"], password=kept, email_confirmed_at=row["email_confirmed_at"] or now)
            forgive(connection, row["login"])
            drop_tickets(connection, row["id"], RESET)
            living = update(SessionRow).where(SessionRow.user_id == row["id"], SessionRow.revoked_at.is_(None))
            connection.execute(living.values(revoked_at=now))
            _record(connection, row["organisation_id"], row["id"], now, "user.password", row["id"])

        self._store.transact(run)
        self._accounts.tokens.forget()

    def _of_ticket(self, connection: Connection, ticket: str, purpose: str, now: int) -> Any:
        used = use_ticket(connection, ticket, purpose, now)
        wanted = (PersonRow.id == ("" if used is None else used[0]), PersonRow.closed_at.is_(None))
        row = None if used is None else first(connection, PersonRow, *wanted)
        if used is None or row is None or row["email"] != used[1]["email"]:
            raise InvalidRequest(_OVER)
        return row

    # --- export and closing ----------------------------------------------------------------------------------

    def export(self, who: Principal) -> dict[str, Any]:
        """All that is kept of the user: account, profile, keys, sessions, identities, programs, schedules of reports,
        acts, and what was spent."""
        user, ledger = self._accounts.user(who, who.user_id), self._accounts.ledger
        sessions = self._store.rows(SessionRow, SessionRow.user_id == user.id, order=SessionRow.created_at)
        identities = self._store.rows(IdentityRow, IdentityRow.user_id == user.id, order=IdentityRow.created_at)
        clients = self._store.rows(ClientRow, ClientRow.user_id == user.id, order=ClientRow.created_at)
        schedules = self._store.rows(
            ReportScheduleRow, ReportScheduleRow.owner == user.id, order=ReportScheduleRow.created_at
        )
        acts = [one for one in self._store.audit(who.organisation_id) if user.id in (one.actor, one.object)]
        return {
            "user": asdict(user),
            "profile": self.profile(who),
            "tokens": [{**asdict(key), "scopes": sorted(key.scopes)} for key in self._store.keys(user.id)],
            "sessions": [{**row, "scopes": json.loads(row["scopes"])} for row in sessions],
            "identities": [{"issuer": row["issuer"], "subject": row["subject"]} for row in identities],
            "programs": [_program(row) for row in clients],
            "schedules": [
                {**row, **{name: json.loads(row[name]) for name in ("parameters", "emails", "webhooks")}}
                for row in schedules
            ],
            "acts": [{"at": one.at, "action": one.action, "object": one.object} for one in acts],
            "usage": [
                {"at": one.at, "request_id": one.request_id, "model": one.model, "amount_wei": str(one.amount_wei)}
                for one in ledger.usage(user=user.id)
            ],
            "available_wei": str(ledger.balance(user.id).available_wei),
        }

    def close(self, who: Principal) -> dict[str, Any]:
        """Close the own account: what it was, which is nowhere else afterwards. Raises NotAllowed for the last admin.

        The ledger keeps what was spent, under an id that says nothing about anybody.
        """
        found = self.export(who)
        self._accounts.close_own(who)
        return found


def _program(row: Any) -> dict[str, Any]:
    lists = {name: json.loads(row[name]) for name in ("redirect_uris", "scopes", "grants")}
    return {**{name: row[name] for name in ("id", "name", "created_at", "closed_at")}, **lists}


def forget_person(connection: Connection, user_id: str, now: int) -> None:
    """What is known of a user besides the row in `people`: gone, and nothing more is made for its addresses."""
    drop_tickets(connection, user_id)
    _end_schedules(connection, user_id, now)
    connection.execute(delete(IdentityRow).where(IdentityRow.user_id == user_id))
    its = select(SessionRow.id).where(SessionRow.user_id == user_id)
    connection.execute(delete(CookieRow).where(CookieRow.session_id.in_(its)))


def _end_schedules(connection: Connection, user_id: str, now: int) -> None:
    from rios.services.reports.deliver import HOOK, MAIL  # which imports all that reports are made with

    row = ReportScheduleRow
    ids = connection.execute(select(row.id).where(row.owner == user_id)).scalars().all()
    for one in ids:
        # What waits to be told names the addressee: it is emptied, and goes to nobody.
        its = OutboxRow.key.startswith(f"{one}:", autoescape=True)
        told = update(OutboxRow).where(OutboxRow.topic.in_((MAIL, HOOK)), its)
        connection.execute(told.values(payload="{}", delivered_at=func.coalesce(OutboxRow.delivered_at, now)))
    ended = update(row).where(row.owner == user_id)
    connection.execute(ended.values(emails="[]", webhooks="[]", closed_at=func.coalesce(row.closed_at, now)))


def _record(connection: Connection, organisation_id: str, actor: str, at: int, action: str, what: str) -> None:
    record(connection, at=at, organisation_id=organisation_id, actor=actor, action=action, object=what)
