"""Sessions of browsers: a cookie instead of tokens, for half a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rios.accounts.store import add, change
from rios.accounts.tokens import fingerprint, new_secret
from rios.services.guesses import forgive
from rios.services.oauth import Browser
from rios.storage.models import SessionRow
from rios.storage.sign_in_models import CookieRow
from rios.words.errors import NotSignedIn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.accounts import Accounts

BROWSER_S = 12 * 3600
_PREFIX = "rios_bs_"


class Browsers:
    """Who is signed in in which browser."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._store = accounts.store

    def sign_in(self, login: str, password: str, *, client: str) -> str:
        """The cookie of a new session. Raises NotSignedIn, for all causes in the same words and time."""
        row = self._accounts.tokens.verified(login, password)
        return self.open(row["id"], client=client, login=login)

    def open(self, user_id: str, *, client: str, login: str | None = None) -> str:
        """The cookie of a new session of a user who has shown who it is. Raises NotSignedIn where it is closed."""
        cookie, now = new_secret(_PREFIX), self._accounts.now()

        def run(connection: Connection) -> None:
            if login is not None:
                forgive(connection, login)
            session_id, _ = self._accounts.tokens.open_session(
                connection, user_id, now, client=client, signed_in_at=now, lasts_s=BROWSER_S
            )
            add(connection, CookieRow, fingerprint=fingerprint(cookie), session_id=session_id)

        self._store.transact(run)
        return cookie

    def browser(self, cookie: str | None) -> Browser | None:
        """Who has this cookie; None where nobody, or not any more."""
        row = None if not cookie else self._store.row(CookieRow, CookieRow.fingerprint == fingerprint(cookie))
        session = None if row is None else self._store.session(row["session_id"])
        if session is None or session.revoked_at is not None or session.expires_at <= self._accounts.now():
            return None
        # Sessions of an older version do not say it; a browser's began when its user signed in.
        at = session.created_at if session.signed_in_at is None else session.signed_in_at
        try:
            user = self._store.user(session.user_id)
            who = self._accounts.tokens.principal(user, session.scopes, session.id, signed_in_at=at)
        except NotSignedIn:
            return None
        return Browser(who=who, signed_in_at=at, session_id=session.id)

    def sign_out(self, browser: Browser) -> None:
        """End the session."""
        now = self._accounts.now()
        self._store.transact(lambda connection: change(connection, SessionRow, browser.session_id, revoked_at=now))
        self._accounts.tokens.forget()
