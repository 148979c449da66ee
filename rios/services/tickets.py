"""What is good once and for a while: links that are sent by mail, sign-ins that went to another provider."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from rios.accounts.store import add, first
from rios.accounts.tokens import fingerprint, new_secret
from rios.storage.sign_in_models import TicketRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

CONFIRM, RESET, OUTSIDE = "confirm", "reset", "outside"
_PREFIX = "rios_tk_"
_SECOND = 1_000_000


def new_ticket(
    connection: Connection, purpose: str, user_id: str | None, payload: dict[str, Any], now: int, *, lasts_s: int
) -> str:
    """Write a new one; its secret, which is nowhere else. Those that are over are forgotten."""
    connection.execute(delete(TicketRow).where(TicketRow.expires_at < now))
    secret = new_secret(_PREFIX)
    add(
        connection, TicketRow, fingerprint=fingerprint(secret), purpose=purpose, user_id=user_id,
        payload=json.dumps(payload), expires_at=now + lasts_s * _SECOND,
    )  # fmt: skip
    return secret


def use_ticket(connection: Connection, secret: str, purpose: str, now: int) -> tuple[str | None, dict[str, Any]] | None:
    """User and payload of one that is good, which it is no more; None of others."""
    mine = (TicketRow.fingerprint == fingerprint(secret), TicketRow.purpose == purpose)
    row = first(connection, TicketRow, *mine)
    if row is None or row["expires_at"] <= now:
        return None
    connection.execute(delete(TicketRow).where(*mine))
    return row["user_id"], json.loads(row["payload"])


def drop_tickets(connection: Connection, user_id: str, purpose: str | None = None) -> None:
    """End those of a user, of one purpose or all."""
    mine = [TicketRow.user_id == user_id] + ([] if purpose is None else [TicketRow.purpose == purpose])
    connection.execute(delete(TicketRow).where(*mine))
