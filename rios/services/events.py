"""Domain events: every deed of the audit log leaves through the outbox, and by the broker where there is one.

The audit log is written in the transaction of the deed. A relay puts each entry into the outbox with the move of its
cursor, so each gets there once; from there it is published, confirmed, consumed, and delivered to webhooks and as
notices by mail, each step at least once and each by an id that makes a repetition harmless.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from rios.accounts.audit import AuditEntry
from rios.accounts.store import AccountStore, record
from rios.services.notices import notify
from rios.services.webhooks import TOPIC as WEBHOOK
from rios.services.webhooks import Webhooks
from rios.storage.breaker import Breaker
from rios.storage.gateway_models import CursorRow
from rios.storage.models import AuditRow, PersonRow
from rios.words.errors import RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger
    from rios.billing.outbox import Dispatcher, Message
    from rios.services.alerts import Alert
    from rios.storage.broker import Consumer, Publisher

log = logging.getLogger(__name__)

TOPIC = "event"
_LOOK_S = 0.5
_RETRY_US = 2_000_000
_PAGE = 200
_SENDERS = 4
"""So many webhooks are told at the same time: one that does not answer holds up none but its turn."""


def event_of(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log as others are told of it."""
    return {
        "id": entry.seq, "type": entry.action, "at": entry.at, "organisation": entry.organisation_id,
        "actor": entry.actor, "object": entry.object, "detail": dict(entry.detail),
    }  # fmt: skip


class Events:
    """Sends the events of a network on, from `start` to `close`."""

    def __init__(self, store: AccountStore, ledger: Ledger, webhooks: Webhooks, *, broker: str | None) -> None:
        """broker: the URL of a RabbitMQ; events go to webhooks directly without. Raises InvalidRequest."""
        from rios.billing.outbox import Dispatcher

        self._store = store
        self._ledger = ledger
        self._webhooks = webhooks
        self._broker = broker
        self._publisher: Publisher | None = None
        if broker:
            from rios.storage.broker import Publisher

            self._publisher = Publisher(broker)
        self._consumer: Consumer | None = None
        self._stop = threading.Event()
        self._relay = threading.Thread(target=self._relay_on, name="rios-relay", daemon=True)
        self._dispatchers: list[Dispatcher] = [
            Dispatcher(ledger, {TOPIC: self._publish}, retry_max_us=_RETRY_US),
            Dispatcher(ledger, {WEBHOOK: webhooks.deliver}, page=1, senders=_SENDERS),
        ]

    def parts(self) -> list[tuple[Breaker, str]]:
        """What it depends on, and how it does without."""
        return [] if self._publisher is None else [(self._publisher.breaker, "events wait in the outbox")]

    def start(self) -> None:
        """Begin."""
        if self._broker:
            from rios.storage.broker import Consumer

            self._consumer = Consumer(self._broker, self._take)
        for one in self._dispatchers:
            one.start(interval_s=_LOOK_S)
        self._relay.start()

    def close(self) -> None:
        """End after what is under way; the rest stays in the outbox and the broker."""
        self._stop.set()
        self._relay.join(self._ledger.database.timeout_s)
        if self._consumer is not None:
            self._consumer.close()
        for one in self._dispatchers:
            one.close()
        if self._publisher is not None:
            self._publisher.close()

    def alert(self, alert: Alert) -> None:
        """Make an event of an alert."""
        now = self._ledger.now()
        person = self._store.row(PersonRow, PersonRow.id == alert.user)
        if person is None:
            return
        detail = {"share_bp": str(alert.share_bp), "amount_wei": str(alert.amount_wei), "key": alert.key}

        def run(connection: Connection) -> None:
            record(
                connection, at=now, organisation_id=person["organisation_id"], actor="",
                action=f"alert.{alert.about}", object=alert.user, detail=detail,
            )  # fmt: skip

        self._store.transact(run)

    def relay(self) -> int:
        """Put what is new in the audit log into the outbox; how much that was. Raises LedgerUnavailable."""
        cursor = self._store.row(CursorRow, CursorRow.name == TOPIC)
        if not self._store.audit(after=0 if cursor is None else cursor["seq"], limit=1):
            return 0

        def run(batch: Batch) -> int:
            rows = batch.rows(CursorRow)
            now = rows.get(TOPIC)
            wanted = select(AuditRow.__table__).where(AuditRow.seq > (0 if now is None else now["seq"]))
            new = batch.connection.execute(wanted.order_by(AuditRow.seq).limit(_PAGE)).mappings().all()
            for row in new:
                entry = AuditEntry(**{**row, "detail": json.loads(row["detail"]), "hash": bytes(row["hash"])})
                batch.send(TOPIC, f"event:{entry.seq}", event_of(entry), at=batch.now)
            if new:
                rows.put({"name": TOPIC, "seq": new[-1]["seq"]})
            return len(new)

        return self._ledger.transact(run, alone=True)

    def _relay_on(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                while self.relay() == _PAGE:
                    continue
            except RiosError as error:
                log.warning("events wait in the audit log", extra={"reason": str(error)})
            except Exception:  # whatever it is, the next look may be better; without one nobody hears of anything
                log.exception("events wait in the audit log")

    def _take(self, body: bytes) -> None:
        """What is to follow from an event: deliveries to webhooks, a mail to its user. Again changes nothing."""
        event = json.loads(body)

        def run(batch: Batch) -> None:
            self._webhooks.take(batch, event)
            notify(batch, event)

        self._ledger.transact(run, alone=True)

    def _publish(self, message: Message) -> None:
        body = json.dumps(dict(message.payload), separators=(",", ":")).encode()
        if self._publisher is None:
            self._take(body)
        else:
            self._publisher.publish(message.key, body, topic=str(message.payload["type"]))
