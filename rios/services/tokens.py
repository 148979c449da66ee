"""Signing in: passwords to sessions, sessions and API keys to whom they stand for."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update

from rios.accounts.passwords import hash_password, is_password
from rios.accounts.roles import OPENID_SCOPES, UNATTENDED, check_scopes, scopes_of
from rios.accounts.store import FIRST, AccountStore, Place, add, change, first, must, record, scopes_text
from rios.accounts.tokens import ACCESS_S, KEY, REFRESH, REFRESH_S, Claims, fingerprint, new_secret, prefix_of
from rios.accounts.values import ApiKey, Principal, Session, User
from rios.services.guesses import failed, forgive, mark_of
from rios.storage.models import ApiKeyRow, OrganisationRow, PersonRow, RefreshTokenRow, SessionRow
from rios.words.errors import InvalidRequest, NotAllowed, NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from rios.accounts.signing import Signer

SECOND = 1_000_000
# What is revoked or changed is noticed within this; a request costs no look into the database until then.
FRESH_S = 4.0
_CACHED_MAX = 10_000
_USED_EVERY_US = 60 * SECOND
_REFUSED = (
    "login or password is wrong, or there were too many attempts: check both, and wait a few minutes; who has no "
    "password yet chooses one with `rios users password` where there is a key, or by the link of an invitation"
)
_UNKNOWN = "the token is unknown, expired or revoked; make another one with `rios token create` or sign in again"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """The tokens of a session: the secrets are nowhere else."""

    access_token: str
    refresh_token: str
    expires_in_s: int
    session_id: str
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"<SignedIn session {self.session_id}>"


class Tokens:
    """Keys and sessions of one network."""

    def __init__(self, store: AccountStore, signer: Signer, *, issuer: str, clock: Callable[[], int]) -> None:
        """clock: microseconds of UTC since 1970."""
        self._store = store
        self._signer = signer
        self._issuer = issuer
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[Principal, float, int]] = OrderedDict()
        self.told: Callable[[], None] | None = None
        """Tells other gateways that something was revoked or changed here."""

    # --- who is it -------------------------------------------------------------------------------------------

    def authenticate(self, token: str) -> Principal:
        """Whom a key or access token stands for, and what it may do. Raises NotSignedIn."""
        known = self.known(token)
        if known is not None:
            return known
        mark = fingerprint(token)
        principal, ends_at = self._by_key(mark) if token.startswith(KEY) else self._by_session(token)
        with self._lock:
            self._known[mark] = principal, time.monotonic() + FRESH_S, ends_at
            while len(self._known) > _CACHED_MAX:
                self._known.popitem(last=False)
        return principal

    def known(self, token: str) -> Principal | None:
        """As `authenticate`, from memory alone; None where the database has to be asked."""
        with self._lock:
            found = self._known.get(fingerprint(token))
        fresh = found is not None and found[1] > time.monotonic() and found[2] > self._clock()
        return found[0] if found is not None and fresh else None

    def forget(self) -> None:
        """Look everything up again, here and at other gateways: something was revoked or changed here."""
        self.heard()
        if self.told is not None:
            self.told()

    def heard(self) -> None:
        """Look everything up again: something was revoked or changed at another gateway."""
        with self._lock:
            self._known.clear()

    def _by_key(self, mark: bytes) -> tuple[Principal, int]:
        key, now = self._store.key_by_fingerprint(mark), self._clock()
        ends_at = 2**62 if key is None or key.expires_at is None else key.expires_at
        if key is None or key.revoked_at is not None or ends_at <= now:
            raise NotSignedIn(_UNKNOWN)
        if key.last_used_at is None or now - key.last_used_at > _USED_EVERY_US:
            self._store.touch_key(key.id, at=now)
        user = self._store.user(key.user_id)
        return self.principal(user, key.scopes, key.id, signed_in_at=key.signed_in_at), ends_at

    def claims(self, token: str) -> Claims:
        """What an access token says, if this gateway signed it and it is not over. Raises NotSignedIn."""
        return Claims.checked(self._signer.verify(token), issuer=self._issuer, now_s=self._clock() // SECOND)

    def _by_session(self, token: str) -> tuple[Principal, int]:
        now = self._clock()
        claims = self.claims(token)
        session = self._store.session(claims.session)
        if session is None or session.revoked_at is not None or session.user_id != claims.subject:
            raise NotSignedIn(_UNKNOWN)
        user = self._store.user(session.user_id)
        if session.expires_at <= now:
            raise NotSignedIn(_UNKNOWN)
        scopes, ends_at = claims.scopes & session.scopes, claims.expires_at_s * SECOND
        at = session.signed_in_at
        if at is None and session.client_id is None:
            at = session.created_at  # a user's own, of an older version: no user is as a program by itself
        return self.principal(user, scopes, session.id, signed_in_at=at), ends_at

    def principal(self, user: User | None, scopes: frozenset[str], by: str, *, signed_in_at: int | None) -> Principal:
        """What a user may with a key or session of these scopes. Raises NotSignedIn where the user is closed."""
        if user is None or user.closed_at is not None:
            raise NotSignedIn(_UNKNOWN)
        organisation = self._store.organisation(user.organisation_id)
        assert organisation is not None
        return Principal(
            user_id=user.id,
            login=user.login,
            organisation_id=organisation.id,
            role=user.role,
            operator=organisation.operator,
            scopes=scopes & scopes_of(user.role, operator=organisation.operator),
            by=by,
            signed_in_at=signed_in_at,
        )

    # --- sessions --------------------------------------------------------------------------------------------

    def verified(self, login: str, password: str) -> RowMapping:
        """The living user who has this password. Raises NotSignedIn, for all causes in the same words and time."""
        row, guess = self._store.credentials(login.strip().lower()), self._store.guess(mark_of(login))
        now = self._clock()
        good = is_password(None if row is None else row["password"], password)
        if guess is not None and guess["locked_until"] > now:
            raise NotSignedIn(_REFUSED)
        if row is None or row["closed_at"] is not None or not good:
            self._store.transact(lambda connection: failed(connection, login, now, row))
            raise NotSignedIn(_REFUSED)
        return row

    def prove(self, who: Principal, password: str | None) -> None:
        """That the user itself is there, and not who found one of its tokens: by the own password; where there is none
        yet, by a token that may all that the role may. Raises NotSignedIn, NotAllowed."""
        row = must(self._store.credentials(who.login), "such user")
        if row["password"] is None:
            if missing := sorted(scopes_of(who.role, operator=who.operator) - who.scopes):
                raise NotAllowed(
                    "there is no password yet that would show who asks; without one it takes a token that has all the "
                    f"scopes of the role {who.role!r}: this one lacks {', '.join(missing)}"
                )
        elif password is None:
            raise NotAllowed("this needs the user's own password beside the token")
        else:
            self.verified(who.login, password)

    def sign_in(self, login: str, password: str, *, client: str = "") -> SignedIn:
        """A new session of who has this password. Raises NotSignedIn, for all causes in the same words and time."""
        row, now = self.verified(login, password), self._clock()

        def run(connection: Connection) -> SignedIn:
            forgive(connection, login)
            session_id, scopes = self.open_session(connection, row["id"], now, client=client, signed_in_at=now)
            return self.issue(connection, session_id, row["id"], scopes, now)

        return self._store.transact(run)

    def open_session(
        self,
        connection: Connection,
        user_id: str,
        now: int,
        *,
        client: str,
        signed_in_at: int | None,
        client_id: str | None = None,
        scopes: frozenset[str] | None = None,
        lasts_s: int = REFRESH_S,
    ) -> tuple[str, frozenset[str]]:
        """Write a new session: its id, and its scopes. Raises NotSignedIn where the user is closed.

        signed_in_at: when the user showed who it is; None of a program by itself.
        scopes: what was agreed to, of which it gets what the role has too, and OpenID's own; all of the role without.
        """
        person = first(connection, PersonRow, PersonRow.id == user_id, PersonRow.closed_at.is_(None))
        if person is None:
            raise NotSignedIn(_UNKNOWN)
        organisation = must(
            first(connection, OrganisationRow, OrganisationRow.id == person["organisation_id"]), "such organisation"
        )
        had = scopes_of(person["role"], operator=organisation["operator"])
        given = had if scopes is None else scopes & (had | OPENID_SCOPES)
        session_id = f"session-{secrets.token_hex(12)}"
        add(
            connection, SessionRow, id=session_id, user_id=user_id, client=client[:200], scopes=scopes_text(given),
            created_at=now, used_at=now, expires_at=now + lasts_s * SECOND, revoked_at=None, client_id=client_id,
            signed_in_at=signed_in_at,
        )  # fmt: skip
        record(
            connection, at=now, organisation_id=organisation["id"], actor=user_id, action="session.create",
            object=session_id, detail={} if client_id is None else {"client": client_id},
        )  # fmt: skip
        return session_id, given

    def refresh(self, token: str, *, client_id: str | None = None, scopes: frozenset[str] = frozenset()) -> SignedIn:
        """New tokens for a refresh token, which is used up by that. A second use ends the whole session.

        client_id: the program that asks; it gets nothing for the token of another. scopes: fewer ones, for the access
        token alone (RFC 6749, section 6); all of the session without. Raises NotSignedIn; InvalidRequest for others
        than the session's, by which nothing is used up.
        """
        now = self._clock()
        mark = fingerprint(token)

        def run(connection: Connection) -> SignedIn | None:
            row = first(connection, RefreshTokenRow, RefreshTokenRow.fingerprint == mark)
            if row is None:
                return None
            session = must(first(connection, SessionRow, SessionRow.id == row["session_id"]), "such session")
            person = must(first(connection, PersonRow, PersonRow.id == session["user_id"]), "such user")
            if session["revoked_at"] is not None or session["expires_at"] <= now or person["closed_at"] is not None:
                return None
            if session["client_id"] != client_id:
                return None
            if row["used_at"] is not None:  # two have it, and one of them has no right to it
                change(connection, SessionRow, session["id"], revoked_at=now)
                record(
                    connection, at=now, organisation_id=person["organisation_id"], actor="", action="session.stolen",
                    object=session["id"],
                )  # fmt: skip
                return None
            had = frozenset(json.loads(session["scopes"]))
            if more := sorted(scopes - had):
                raise InvalidRequest(f"the session does not have the scopes {', '.join(more)}; a refresh adds none")
            used = update(RefreshTokenRow).where(RefreshTokenRow.fingerprint == mark).values(used_at=now)
            connection.execute(used)
            change(connection, SessionRow, session["id"], used_at=now)
            return self.issue(connection, session["id"], person["id"], scopes or had, now)

        found = self._store.transact(run)
        if found is None:
            self.forget()
            raise NotSignedIn("the refresh token is unknown, expired, revoked or was used before; sign in again")
        return found

    def issue(
        self, connection: Connection, session_id: str, user_id: str, scopes: frozenset[str], now: int
    ) -> SignedIn:
        """The tokens of a session, written in this transaction."""
        refresh = new_secret(REFRESH)
        add(
            connection, RefreshTokenRow, fingerprint=fingerprint(refresh), session_id=session_id, issued_at=now,
            used_at=None,
        )  # fmt: skip
        claims = Claims(
            issuer=self._issuer,
            subject=user_id,
            session=session_id,
            scopes=scopes,
            issued_at_s=now // SECOND,
            expires_at_s=now // SECOND + ACCESS_S,
            id=secrets.token_hex(12),
        )
        return SignedIn(
            access_token=self._signer.sign(claims.to_dict()),
            refresh_token=refresh,
            expires_in_s=ACCESS_S,
            session_id=session_id,
            scopes=scopes,
        )

    def sessions(self, who: Principal, *, after: Place = FIRST, limit: int | None = None) -> list[Session]:
        """The living sessions of a user, those after a moment and id."""
        return self._store.sessions(who.user_id, at=self._clock(), after=after, limit=limit)

    def revoke_session(self, who: Principal, session_id: str) -> None:
        """End a session of the user's own, with all its tokens. Raises NotFound."""
        now = self._clock()

        def run(connection: Connection) -> None:
            row = first(connection, SessionRow, SessionRow.id == session_id, SessionRow.user_id == who.user_id)
            if must(row, f"session {session_id}")["revoked_at"] is None:
                change(connection, SessionRow, session_id, revoked_at=now)
                _record(connection, who, now, "session.revoke", session_id)

        self._store.transact(run)
        self.forget()

    def set_password(self, who: Principal, new: str, *, old: str | None = None) -> None:
        """Change the user's own password; all other sessions end. old: None where there is none yet; see `prove`.

        Raises NotSignedIn where `old` is wrong.
        """
        self.prove(who, old)
        kept, now = hash_password(new), self._clock()

        def run(connection: Connection) -> None:
            forgive(connection, who.login)
            change(connection, PersonRow, who.user_id, password=kept)
            others = update(SessionRow).where(SessionRow.user_id == who.user_id, SessionRow.id != who.by)
            connection.execute(others.where(SessionRow.revoked_at.is_(None)).values(revoked_at=now))
            _record(connection, who, now, "user.password", who.user_id)

        self._store.transact(run)
        self.forget()

    # --- keys ------------------------------------------------------------------------------------------------

    def create_key(
        self, who: Principal, name: str, *, scopes: Iterable[str] | None = None, expires_in_s: int | None = None
    ) -> tuple[ApiKey, str]:
        """A new key of the user's own, and its secret, which is nowhere else.

        scopes: all of the asking token without, but that of keys for automation. Raises NotAllowed for scopes that the
        asking token lacks.
        """
        wanted = who.scopes - {UNATTENDED} if scopes is None else check_scopes(scopes)
        if missing := sorted(wanted - who.scopes):
            raise NotAllowed(f"a token cannot have the scopes {', '.join(missing)}: the one that asks lacks them")
        if not wanted:
            raise InvalidRequest("a token needs at least one scope")
        if expires_in_s is not None and expires_in_s < 1:
            raise InvalidRequest(f"expires_in_s is {expires_in_s}; it must be at least 1, or left out for no end")
        now = self._clock()

        def run(connection: Connection) -> tuple[ApiKey, str]:
            signed_in_at = None if UNATTENDED in wanted else who.signed_in_at
            key, secret = new_key(
                connection, who.user_id, name, wanted, now, expires_in_s=expires_in_s, signed_in_at=signed_in_at
            )
            _record(connection, who, now, "token.create", key.id, scopes=" ".join(sorted(wanted)))
            return key, secret

        return self._store.transact(run)

    def keys(self, who: Principal, *, after: Place = FIRST, limit: int | None = None) -> list[ApiKey]:
        """The keys of a user, revoked ones too, those after a moment and id."""
        return self._store.keys(who.user_id, after=after, limit=limit)

    def revoke_key(self, who: Principal, key_id: str) -> None:
        """End a key of the user's own. Raises NotFound."""
        now = self._clock()

        def run(connection: Connection) -> None:
            row = first(connection, ApiKeyRow, ApiKeyRow.id == key_id, ApiKeyRow.user_id == who.user_id)
            if must(row, f"token {key_id}")["revoked_at"] is None:
                change(connection, ApiKeyRow, key_id, revoked_at=now)
                _record(connection, who, now, "token.revoke", key_id)

        self._store.transact(run)
        self.forget()


def new_key(
    connection: Connection,
    user_id: str,
    name: str,
    scopes: frozenset[str],
    now: int,
    *,
    expires_in_s: int | None = None,
    signed_in_at: int | None = None,
) -> tuple[ApiKey, str]:
    """Write a new key; it and its secret. signed_in_at: of who makes it, by a session."""
    secret = new_secret(KEY)
    key = ApiKey(
        id=f"key-{secrets.token_hex(12)}",
        user_id=user_id,
        name=name.strip()[:200],
        prefix=prefix_of(secret),
        scopes=scopes,
        created_at=now,
        expires_at=None if expires_in_s is None else now + expires_in_s * SECOND,
        last_used_at=None,
        revoked_at=None,
        signed_in_at=signed_in_at,
    )
    add(
        connection, ApiKeyRow, id=key.id, user_id=user_id, name=key.name, prefix=key.prefix,
        fingerprint=fingerprint(secret), scopes=scopes_text(scopes), created_at=now, expires_at=key.expires_at,
        last_used_at=None, revoked_at=None, signed_in_at=signed_in_at,
    )  # fmt: skip
    return key, secret


def _record(connection: Connection, who: Principal, at: int, action: str, object: str, **detail: str) -> None:  # noqa: A002
    record(
        connection, at=at, organisation_id=who.organisation_id, actor=who.user_id, action=action, object=object,
        detail=detail,
    )  # fmt: skip
