"""Webhooks of organisations: URLs that are told what happens there, each message signed by HMAC-SHA256.

A message has the headers `Rios-Event-Id`, by which a repetition is known, and `Rios-Signature: t=SECONDS,v1=HEX`; HEX
is HMAC-SHA256 of `SECONDS.BODY` by the webhook's secret. A 2xx is taken for "received"; anything else is sent again,
with pauses of a second to an hour, for about half a day.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from rios.accounts.store import AccountStore, add, change, first, must, record
from rios.services.network_keys import WEBHOOKS, NetworkKeys
from rios.services.outbound import Networks, NotDelivered, check_url, post
from rios.storage.gateway_models import WebhookRow
from rios.words.durable import first_kept
from rios.words.errors import InvalidRequest, QueueFull

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from rios.accounts.values import Principal
    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger
    from rios.billing.outbox import Message

log = logging.getLogger(__name__)

TOPIC = "webhook"
ATTEMPTS_MAX = 24
PER_ORGANISATION = 20
_BEGIN = "rios_wh_"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL that is told of events."""

    id: str
    url: str
    topics: tuple[str, ...]
    """Beginnings of the names of events, such as "deployment."; none for all."""
    created_at: int

    def wants(self, event: str) -> bool:
        """Whether it is told of an event of this name."""
        return not self.topics or event.startswith(self.topics)


class Webhooks:
    """The webhooks of a network."""

    def __init__(self, store: AccountStore, ledger: Ledger, *, home: Path | None, allowed: Networks = ()) -> None:
        """home: where the key is kept of which all secrets are made. allowed: private networks that may be told."""
        self._store = store
        self._ledger = ledger
        self._key = NetworkKeys(ledger, home).secret(WEBHOOKS, lambda: _key(home))
        self.allowed = allowed

    def create(self, who: Principal, url: str, topics: Sequence[str] = ()) -> tuple[Webhook, str]:
        """Have a URL told, and the secret that signs what it is told. Raises InvalidRequest, QueueFull."""
        who.require("webhooks:write")
        check_url(url, allowed=self.allowed)
        now, name = self._ledger.now(), f"webhook-{secrets.token_hex(12)}"
        wanted = tuple(sorted(set(topics)))
        row = WebhookRow

        def run(connection: Connection) -> None:
            if len(self._rows(connection, who.organisation_id)) >= PER_ORGANISATION:
                raise QueueFull(f"an organisation has at most {PER_ORGANISATION} webhooks; delete one")
            add(
                connection, row, id=name, organisation_id=who.organisation_id, url=url, topics=json.dumps(wanted),
                created_by=who.user_id, created_at=now, closed_at=None,
            )  # fmt: skip
            record(
                connection, at=now, organisation_id=who.organisation_id, actor=who.user_id, action="webhook.create",
                object=name,
            )  # fmt: skip

        self._store.transact(run)
        return Webhook(id=name, url=url, topics=wanted, created_at=now), self.secret(name)

    def all(self, who: Principal) -> list[Webhook]:
        """The organisation's."""
        with self._ledger.database.reading() as connection:
            return self._rows(connection, who.organisation_id)

    def delete(self, who: Principal, name: str) -> None:
        """Tell it nothing any more. Raises NotFound."""
        who.require("webhooks:write")
        now, row = self._ledger.now(), WebhookRow

        def run(connection: Connection) -> None:
            mine = (row.id == name, row.organisation_id == who.organisation_id, row.closed_at.is_(None))
            must(first(connection, row, *mine), f"webhook {name!r}")
            change(connection, row, name, closed_at=now)
            record(
                connection, at=now, organisation_id=who.organisation_id, actor=who.user_id, action="webhook.delete",
                object=name,
            )  # fmt: skip

        self._store.transact(run)

    def secret(self, name: str) -> str:
        """What signs the messages of a webhook: made of its id, and kept nowhere."""
        return _BEGIN + hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()

    # --- messages --------------------------------------------------------------------------------------------

    def take(self, batch: Batch, event: Mapping[str, Any]) -> None:
        """Have an event delivered to all who want it; again changes nothing."""
        for one in self._rows(batch.connection, event["organisation"]):
            if one.wants(event["type"]) and one.created_at <= event["at"]:
                payload = {"webhook": one.id, "event": event}
                batch.send(TOPIC, f"{one.id}:{event['id']}", payload, at=batch.now)

    def deliver(self, message: Message) -> None:
        """Tell one webhook. Raises NotDelivered for what is to be tried again."""
        name, event = str(message.payload["webhook"]), message.payload["event"]
        row = self._store.row(WebhookRow, WebhookRow.id == name, WebhookRow.closed_at.is_(None))
        if row is None:
            return
        body = json.dumps(event, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rios",
            "Rios-Event-Id": str(event["id"]),
            "Rios-Signature": signature(self.secret(name), body, at_s=int(time.time())),
        }
        try:
            status = post(row["url"], body, headers, allowed=self.allowed)
            if not 200 <= status < 300:
                raise NotDelivered(f"{name} answered {status}")
        except (NotDelivered, InvalidRequest) as error:
            if message.attempts < ATTEMPTS_MAX:
                raise
            log.warning("a webhook is not told", extra={"webhook": name, "reason": str(error)})

    def _rows(self, connection: Connection, organisation_id: str) -> list[Webhook]:
        row = WebhookRow
        wanted = select(row.__table__).where(row.organisation_id == organisation_id, row.closed_at.is_(None))
        return [_webhook(found) for found in connection.execute(wanted.order_by(row.id)).mappings()]


def signature(secret: str, body: bytes, *, at_s: int) -> str:
    """The value of `Rios-Signature`."""
    made = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={made}"


def _webhook(row: RowMapping | Mapping[str, Any]) -> Webhook:
    return Webhook(id=row["id"], url=row["url"], topics=tuple(json.loads(row["topics"])), created_at=row["created_at"])


def _key(home: Path | None) -> bytes:
    if home is None:
        return secrets.token_bytes(_KEY_BYTES)
    path = home / "keys" / "webhooks"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.read_bytes() if path.exists() else first_kept(path, secrets.token_bytes(_KEY_BYTES))
    if len(found) != _KEY_BYTES:
        raise InvalidRequest(
            f"{path}, the key of webhooks' signatures, is not {_KEY_BYTES} bytes: bring it back from a backup of the "
            "home. Where it is lost, take the file away: a new one is made, and who is told gets new secrets"
        )
    return found
