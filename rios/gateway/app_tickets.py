"""Tickets: how a browser, which sends no token of itself, opens an application that is not for everybody.

A ticket is a part of the address, `/apps/~TICKET/...`, and is good for one application, in the name of who asked for
it, for some hours. A cookie would not do: pages of applications have no origin, so that nothing of the gateway is
theirs, and a browser sends no cookie with what such a page asks for. The application's pages see the ticket; all that
it is good for is to ask that application.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from rios.services.network_keys import derived_cipher
from rios.storage.models import ApiKeyRow
from rios.words.errors import NotSignedIn

if TYPE_CHECKING:
    from rios.accounts.values import Principal
    from rios.services.accounts import Accounts

MARK = "~"
"""No name of an application begins like this."""
LASTS_S, LASTS_MAX_S = 3600, 12 * 3600
_KIND = "rios_at_"
_NONCE, _SECOND = 12, 1_000_000
_ABOUT = b"rios tickets of applications"
_IN_PATH = re.compile(r"^(/apps/~)[^/]*")
_WRONG = "this address is over, or is none that this gateway gave: open the application by `rios open NAME` again"


def shown_path(path: str) -> str:
    """A path as it may be logged and answered: without the ticket in it."""
    return _IN_PATH.sub(r"\1...", path)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What lets a browser in. `path` is a secret for as long as it is good."""

    path: str
    expires_at: int
    """Microseconds of UTC since 1970."""

    def __repr__(self) -> str:
        return f"<Ticket {shown_path(self.path)}>"


class Tickets:
    """Gives tickets and takes them; each gateway of a network takes those of all."""

    def __init__(self, key: bytes, accounts: Accounts) -> None:
        """key: the network's key of secrets."""
        self._cipher = derived_cipher(key, _ABOUT)
        self._accounts = accounts

    def give(self, who: Principal, app_id: str, *, lasts_s: int) -> Ticket:
        """A ticket for one application, in the name of `who`."""
        expires_at = self._accounts.now() + lasts_s * _SECOND
        nonce = secrets.token_bytes(_NONCE)
        said = json.dumps([app_id, who.user_id, who.by, expires_at]).encode()
        sealed = base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, said, _ABOUT)).decode().rstrip("=")
        return Ticket(f"/apps/{MARK}{_KIND}{sealed}/", expires_at)

    def taken(self, segment: str) -> tuple[Principal, str]:
        """Who asks, and for which application. Raises NotSignedIn, also where the key or session has ended that asked
        for the ticket, or the user may no longer what applications take."""
        app_id, user_id, by, expires_at = self._said(segment)
        store, now = self._accounts.store, self._accounts.now()
        session = store.session(by)
        if session is not None:
            good = session.revoked_at is None and session.expires_at > now
        else:
            key = store.row(ApiKeyRow, ApiKeyRow.id == by)
            good = key is not None and key["revoked_at"] is None and (key["expires_at"] or now + 1) > now
        user = store.user(user_id)
        if not good or expires_at <= now or user is None:
            raise NotSignedIn(_WRONG)
        found = self._accounts.tokens.principal(user, frozenset(("generate",)), by, signed_in_at=None)
        return found, app_id

    def _said(self, segment: str) -> tuple[str, str, str, int]:
        try:
            text = segment.removeprefix(MARK).removeprefix(_KIND)
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            said = json.loads(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _ABOUT))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise NotSignedIn(_WRONG) from error
        app_id, user_id, by, expires_at = said
        return app_id, user_id, by, expires_at
