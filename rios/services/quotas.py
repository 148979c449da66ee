"""What users may ask for in a day (UTC), by the word of an admin: tokens, and money.

Tokens are taken before the work, prompt and most new ones together, and what was not needed is given back at its end.
What a gateway that died had taken stays taken for the day. Money is looked at where it is held
(`rios.billing.ledger.spending`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, update

from rios.accounts.store import AccountStore, add, first, must, record
from rios.storage.gateway_models import QuotaRow, QuotaUseRow
from rios.storage.models import PersonRow
from rios.words.errors import InvalidRequest, NotFound, RiosError, TooManyRequests

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.accounts.values import Principal
    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

_FRESH_S, _KNOWN_MAX = 2.0, 10_000
_DAY_US = 86_400 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most that a user may ask for in a day; None for no bound."""

    tokens: int | None = None
    spend_wei: int | None = None
    used_tokens: int = 0
    """Of today."""


class Quotas:
    """The quotas of a network (`rios.services.charging.TokenQuota`)."""

    def __init__(self, store: AccountStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._known: dict[str, tuple[int | None, float]] = {}

    def get(self, who: Principal, user_id: str) -> Quota:
        """The quota of a user: one's own, or for admins anybody's of the organisation. Raises NotFound."""
        if user_id != who.user_id and "users:read" not in who.scopes:
            raise NotFound(f"there is no user {user_id!r}")
        mine = (PersonRow.id == user_id, PersonRow.organisation_id == who.organisation_id)
        must(self._store.row(PersonRow, *mine), f"user {user_id!r}")
        row = self._store.row(QuotaRow, QuotaRow.user_id == user_id)
        day = self._ledger.now() // _DAY_US
        used = self._store.row(QuotaUseRow, QuotaUseRow.user_id == user_id, QuotaUseRow.day == day)
        return Quota(
            tokens=None if row is None else row["tokens"],
            spend_wei=None if row is None else row["spend_wei"],
            used_tokens=0 if used is None else used["tokens"],
        )

    def set(self, who: Principal, user_id: str, *, tokens: int | None, spend_wei: int | None) -> None:
        """Bound what a user may ask for in a day, from now on; None for no bound. Raises NotFound, InvalidRequest."""
        who.require("users:write")
        if (tokens is not None and tokens < 0) or (spend_wei is not None and spend_wei < 0):
            raise InvalidRequest("a quota is not below 0; leave it out for no bound")
        now = self._ledger.now()

        def run(connection: Connection) -> None:
            mine = (PersonRow.id == user_id, PersonRow.organisation_id == who.organisation_id)
            must(first(connection, PersonRow, *mine, PersonRow.closed_at.is_(None)), f"user {user_id!r}")
            connection.execute(delete(QuotaRow).where(QuotaRow.user_id == user_id))
            if tokens is not None or spend_wei is not None:
                add(connection, QuotaRow, user_id=user_id, tokens=tokens, spend_wei=spend_wei)
            record(
                connection, at=now, organisation_id=who.organisation_id, actor=who.user_id, action="user.quota",
                object=user_id, detail={"tokens": str(tokens), "spend_wei": str(spend_wei)},
            )  # fmt: skip

        self._store.transact(run)
        self._known.pop(user_id, None)

    def take(self, user_id: str, tokens: int) -> None:
        """Take tokens of today. Raises TooManyRequests where there are not so many left."""
        if self._bound(user_id) is None:
            return
        now = self._ledger.now()
        day = now // _DAY_US

        def run(connection: Connection) -> None:
            row = first(connection, QuotaRow, QuotaRow.user_id == user_id)
            bound = None if row is None else row["tokens"]
            if bound is None:
                return
            mine = (QuotaUseRow.user_id == user_id, QuotaUseRow.day == day)
            used = first(connection, QuotaUseRow, *mine)
            before = 0 if used is None else used["tokens"]
            if before + tokens > bound:
                raise TooManyRequests(
                    f"{tokens} tokens would be needed, and {max(0, bound - before)} of the {bound} a day are left; ask "
                    "for less, have an admin raise the quota, or wait for midnight UTC",
                    retry_after_s=((day + 1) * _DAY_US - now) / 10**6,
                )
            if used is None:
                connection.execute(delete(QuotaUseRow).where(QuotaUseRow.user_id == user_id, QuotaUseRow.day < day))
                add(connection, QuotaUseRow, user_id=user_id, day=day, tokens=tokens)
            else:
                connection.execute(update(QuotaUseRow).where(*mine).values(tokens=before + tokens))

        self._store.transact(run)

    def give_back(self, user_id: str, tokens: int) -> None:
        """Tokens that were taken and not needed. Where the database does not answer they stay taken for the day."""
        row = QuotaUseRow
        if not tokens or self._bound(user_id) is None:
            return
        mine = (row.user_id == user_id, row.day == self._ledger.now() // _DAY_US, row.tokens >= tokens)
        try:
            self._store.transact(
                lambda connection: connection.execute(update(row).where(*mine).values(tokens=row.tokens - tokens))
            )
        except RiosError as error:
            log.warning("tokens stay taken", extra={"user": user_id, "tokens": tokens, "reason": str(error)})

    def _bound(self, user_id: str) -> int | None:
        """The bound, at most `_FRESH_S` old: stale where another gateway has just set it."""
        known = self._known.get(user_id)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        row = self._store.row(QuotaRow, QuotaRow.user_id == user_id)
        bound: int | None = None if row is None else row["tokens"]
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[user_id] = bound, time.monotonic() + _FRESH_S
        return bound
