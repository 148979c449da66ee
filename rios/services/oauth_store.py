"""What the OAuth 2.0 server keeps: clients, codes, device codes; and the sessions that come of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, update

from rios.accounts.clients import CLI, CREDENTIALS, Client, check_client_scopes, check_grants, check_redirect_uris
from rios.accounts.roles import OPENID_SCOPES
from rios.accounts.store import add, change, first, must, record, scopes_text
from rios.accounts.tokens import REFRESH_S, fingerprint, new_secret
from rios.services.tokens import SECOND, SignedIn
from rios.storage.models import PersonRow, RefreshTokenRow, SessionRow
from rios.storage.sign_in_models import ClientRow, CodeRow, DeviceRow
from rios.words.errors import NotAllowed, NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from rios.accounts.values import Principal
    from rios.services.accounts import Accounts

SECRET, CODE_SECRET, DEVICE_SECRET = "rios_cs_", "rios_ac_", "rios_dc_"
CODE_S, DEVICE_S, POLL_S = 60, 600, 5
_CREDENTIALS_S = 3600
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels: no words; nothing that looks like another
_KEPT_US = 86_400 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a user agreed to in a browser, until the program has its tokens."""

    client_id: str
    user_id: str
    redirect_uri: str
    scopes: frozenset[str]
    nonce: str | None
    challenge: str
    signed_in_at: int


class OAuthStore:
    """Clients and codes of one network."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._store = accounts.store
        self._tokens = accounts.tokens
        self.now = accounts.now

    # --- programs --------------------------------------------------------------------------------------------

    def create_client(
        self,
        who: Principal,
        name: str,
        *,
        scopes: Iterable[str],
        grants: Iterable[str],
        redirect_uris: Iterable[str] = (),
        public: bool = False,
    ) -> tuple[Client, str | None]:
        """A new program of the organisation, and its secret, which is nowhere else; none of a public one.

        By its own credentials it acts for who makes it, within what the asking token may. Raises InvalidRequest,
        NotAllowed.
        """
        who.require("clients:write")
        uris = check_redirect_uris(redirect_uris)
        wanted, ways = check_client_scopes(scopes), check_grants(grants, public=public, uris=bool(uris))
        # A user who agrees in a browser gives what is the user's; here nobody is asked, and the program outlives the
        # token that made it.
        if CREDENTIALS in ways and (missing := sorted(wanted - who.scopes - OPENID_SCOPES)):
            raise NotAllowed(
                f"a program that acts for you by {CREDENTIALS} cannot have the scopes {', '.join(missing)}: the token "
                "that asks lacks them"
            )
        secret = None if public else new_secret(SECRET)
        client = Client(
            id=f"client-{secrets.token_hex(12)}",
            organisation_id=who.organisation_id,
            user_id=who.user_id,
            name=name.strip(),
            fingerprint=None if secret is None else fingerprint(secret),
            redirect_uris=uris,
            scopes=wanted,
            grants=ways,
            created_at=self.now(),
            closed_at=None,
        )

        def run(connection: Connection) -> None:
            add(
                connection, ClientRow, id=client.id, organisation_id=client.organisation_id, user_id=client.user_id,
                name=client.name, fingerprint=client.fingerprint, redirect_uris=json.dumps(uris),
                scopes=scopes_text(client.scopes), grants=scopes_text(client.grants), created_at=client.created_at,
                closed_at=None,
            )  # fmt: skip
            self._record(connection, who.organisation_id, who.user_id, "client.create", client.id)

        self._store.transact(run)
        return client, secret

    def clients(self, who: Principal, *, after: str = "", limit: int = 100) -> list[Client]:
        """The living programs of the organisation by id, those after `after`."""
        who.require("clients:write")
        row = ClientRow
        wanted = (row.organisation_id == who.organisation_id, row.closed_at.is_(None), row.id > after)
        return [Client.of(found) for found in self._store.rows(row, *wanted, order=row.id, limit=limit)]

    def close_client(self, who: Principal, client_id: str) -> None:
        """End a program of the organisation, and all sessions that it has. Raises NotFound."""
        who.require("clients:write")
        now = self.now()

        def run(connection: Connection) -> None:
            mine = (ClientRow.organisation_id == who.organisation_id, ClientRow.closed_at.is_(None))
            must(first(connection, ClientRow, ClientRow.id == client_id, *mine), f"program {client_id!r}")
            change(connection, ClientRow, client_id, closed_at=now)
            its = update(SessionRow).where(SessionRow.client_id == client_id, SessionRow.revoked_at.is_(None))
            connection.execute(its.values(revoked_at=now))
            self._record(connection, who.organisation_id, who.user_id, "client.close", client_id)

        self._store.transact(run)
        self._tokens.forget()

    def client(self, client_id: str) -> Client | None:
        """A living program, or None."""
        if client_id == CLI.id:
            return CLI
        row = self._store.row(ClientRow, ClientRow.id == client_id, ClientRow.closed_at.is_(None))
        return None if row is None else Client.of(row)

    def may_be_used(self, client: Client, who: Principal) -> bool:
        """Whether a user may give a program anything: it is of the own organisation, or of the network's."""
        if client.id == CLI.id or client.organisation_id == who.organisation_id:
            return True
        owner = self._store.organisation(client.organisation_id)
        return owner is not None and owner.operator

    # --- codes -----------------------------------------------------------------------------------------------

    def give(self, code: str, given: Given) -> None:
        """Keep what a code stands for."""
        now = self.now()

        def run(connection: Connection) -> None:
            connection.execute(delete(CodeRow).where(CodeRow.expires_at < now - _KEPT_US))
            add(
                connection, CodeRow, fingerprint=fingerprint(code), client_id=given.client_id, user_id=given.user_id,
                redirect_uri=given.redirect_uri, scopes=scopes_text(given.scopes), nonce=given.nonce,
                challenge=given.challenge, signed_in_at=given.signed_in_at, expires_at=now + CODE_S * SECOND,
                used_at=None, session_id=None,
            )  # fmt: skip

        self._store.transact(run)

    def code(self, code: str, client: Client) -> RowMapping | None:
        """What a code of this program stands for; None where it is expired or was used: that ends what came of it."""
        row = self._store.row(CodeRow, CodeRow.fingerprint == fingerprint(code), CodeRow.client_id == client.id)
        if row is not None and row["used_at"] is not None:
            self._end_replayed(row)
            return None
        return row if row is not None and row["expires_at"] > self.now() else None

    def redeem(self, row: RowMapping, client: Client) -> SignedIn | None:
        """The tokens for a code, once."""
        now = self.now()

        def run(connection: Connection) -> SignedIn | None:
            found = must(first(connection, CodeRow, CodeRow.fingerprint == row["fingerprint"]), "such code")
            if found["used_at"] is not None:
                return None
            signed_in = self._open(
                connection, client, row["user_id"], frozenset(json.loads(row["scopes"])), now,
                signed_in_at=row["signed_in_at"],
            )  # fmt: skip
            used = update(CodeRow).where(CodeRow.fingerprint == row["fingerprint"])
            connection.execute(used.values(used_at=now, session_id=signed_in.session_id))
            return signed_in

        signed_in = self._store.transact(run)
        if signed_in is None:
            self._end_replayed(row)
        return signed_in

    def _end_replayed(self, row: RowMapping) -> None:
        """A code came twice: one of both has no right to it, and nobody knows which."""
        now = self.now()

        def run(connection: Connection) -> None:
            found = must(first(connection, CodeRow, CodeRow.fingerprint == row["fingerprint"]), "such code")
            session = first(connection, SessionRow, SessionRow.id == found["session_id"])
            if session is not None and session["revoked_at"] is None:
                change(connection, SessionRow, session["id"], revoked_at=now)
                person = must(self._person(connection, session["user_id"]), "such user")
                self._record(connection, person["organisation_id"], "", "session.stolen", session["id"])

        self._store.transact(run)
        self._tokens.forget()

    # --- devices ---------------------------------------------------------------------------------------------

    def begin_device(self, device_code: str, user_code: str, client_id: str, scopes: frozenset[str]) -> None:
        """Keep that a program waits for a user."""
        now = self.now()

        def run(connection: Connection) -> None:
            connection.execute(delete(DeviceRow).where(DeviceRow.expires_at < now - _KEPT_US))
            add(
                connection, DeviceRow, fingerprint=fingerprint(device_code), user_code=user_code, client_id=client_id,
                scopes=scopes_text(scopes), expires_at=now + DEVICE_S * SECOND, polled_at=None, user_id=None,
                approved=None, signed_in_at=None,
            )  # fmt: skip

        self._store.transact(run)

    def device(self, device_code: str) -> RowMapping | None:
        """What a program waits for, by its own code."""
        return self._store.row(DeviceRow, DeviceRow.fingerprint == fingerprint(device_code))

    def waiting(self, user_code: str) -> RowMapping | None:
        """What still waits for a user's word, by the code that the user was shown."""
        code = "".join(letter for letter in user_code.upper() if letter in _LETTERS)
        row = self._store.row(DeviceRow, DeviceRow.user_code == f"{code[:4]}-{code[4:]}")
        return row if row is not None and row["approved"] is None and row["expires_at"] > self.now() else None

    def decide_device(self, who: Principal, row: RowMapping, *, approved: bool) -> bool:
        """What the user says; False where it was said before."""
        said = {"user_id": who.user_id, "approved": approved, "signed_in_at": who.signed_in_at}

        def run(connection: Connection) -> bool:
            mine = (DeviceRow.fingerprint == row["fingerprint"], DeviceRow.approved.is_(None))
            if first(connection, DeviceRow, *mine) is None:
                return False
            connection.execute(update(DeviceRow).where(*mine).values(**said))
            action = "device.approve" if approved else "device.deny"
            self._record(connection, who.organisation_id, who.user_id, action, row["client_id"])
            return True

        return self._store.transact(run)

    def polled(self, row: RowMapping) -> bool:
        """Note that a program asked again; whether that was too soon."""
        now, mine = self.now(), DeviceRow.fingerprint == row["fingerprint"]
        self._store.transact(lambda c: c.execute(update(DeviceRow).where(mine).values(polled_at=now)))
        return row["polled_at"] is not None and now - row["polled_at"] < (POLL_S - 1) * SECOND

    def redeem_device(self, row: RowMapping, client: Client) -> SignedIn | None:
        """The tokens for what a user approved, once."""
        now, mine = self.now(), DeviceRow.fingerprint == row["fingerprint"]

        def run(connection: Connection) -> SignedIn | None:
            found = first(connection, DeviceRow, mine, DeviceRow.approved.is_(True))
            if found is None or found["user_id"] is None:
                return None
            connection.execute(delete(DeviceRow).where(mine))
            # Without it the program would be as one by itself. An older version may not have noted it: long ago then.
            return self._open(
                connection, client, found["user_id"], frozenset(json.loads(found["scopes"])), now,
                signed_in_at=found["signed_in_at"] or 0,
            )  # fmt: skip

        return self._store.transact(run)

    # --- sessions of programs --------------------------------------------------------------------------------

    def by_credentials(self, client: Client, scopes: frozenset[str]) -> SignedIn:
        """The tokens of a program for itself: it acts for who made it. Raises NotSignedIn where that is closed."""
        now = self.now()
        return self._store.transact(
            lambda connection: self._open(
                connection, client, client.user_id, scopes, now, signed_in_at=None, lasts_s=_CREDENTIALS_S
            )
        )

    def session_of(self, token: str) -> tuple[RowMapping | None, dict[str, Any]]:
        """The session that an access or refresh token belongs to, and what the former says; (None, {}) of none."""
        found = self._store.row(RefreshTokenRow, RefreshTokenRow.fingerprint == fingerprint(token))
        if found is not None:
            if found["used_at"] is not None:
                return None, {}
            return self._store.row(SessionRow, SessionRow.id == found["session_id"]), {}
        try:
            claims = self._tokens.claims(token)
        except NotSignedIn:
            return None, {}
        return self._store.row(SessionRow, SessionRow.id == claims.session), claims.to_dict()

    def end(self, session: RowMapping) -> None:
        """End a session that its program gives back."""
        now = self.now()

        def run(connection: Connection) -> None:
            row = must(first(connection, SessionRow, SessionRow.id == session["id"]), "such session")
            if row["revoked_at"] is None:
                person = must(self._person(connection, row["user_id"]), "such user")
                change(connection, SessionRow, row["id"], revoked_at=now)
                self._record(connection, person["organisation_id"], person["id"], "session.revoke", row["id"])

        self._store.transact(run)
        self._tokens.forget()

    def _open(
        self,
        connection: Connection,
        client: Client,
        user_id: str,
        scopes: frozenset[str],
        now: int,
        *,
        signed_in_at: int | None,
        lasts_s: int = REFRESH_S,
    ) -> SignedIn:
        session_id, given = self._tokens.open_session(
            connection, user_id, now, client=client.name, client_id=client.id, scopes=scopes,
            signed_in_at=signed_in_at, lasts_s=lasts_s,
        )  # fmt: skip
        return self._tokens.issue(connection, session_id, user_id, given, now)

    def _person(self, connection: Connection, user_id: str) -> RowMapping | None:
        return first(connection, PersonRow, PersonRow.id == user_id)

    def _record(self, connection: Connection, organisation_id: str, actor: str, action: str, what: str) -> None:
        record(connection, at=self.now(), organisation_id=organisation_id, actor=actor, action=action, object=what)


def new_user_code() -> str:
    """What a user types: eight letters, 34 bits, good for ten minutes and behind a sign-in."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"
