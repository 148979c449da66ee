"""Reports on their way to people and programs: by mail, and by webhooks that are signed as all others of rios.

What is to be told is put into the outbox with the end of the run, once for each moment and each addressee. Delivery is
at least once; the id of the mail, and the header `Rios-Event-Id`, are the same for each repetition.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from rios.billing.outbox import Dispatcher, Message
from rios.services.mail import Send
from rios.services.outbound import NotDelivered, post
from rios.services.reports.store import Store
from rios.services.reports.values import Past, Run, RunState, Schedule
from rios.services.webhooks import Webhooks, signature
from rios.words.errors import Elsewhere, GatewayLost, InvalidRequest
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger
    from rios.services.reports.keeping import Keeping

log = logging.getLogger(__name__)

MAIL, HOOK = "report.mail", "report.webhook"
ATTEMPTS_MAX = 24
ELSEWHERE_MAX = 10
"""After so many attempts, in a quarter of an hour, no gateway that has a report's files is expected to come by."""
ATTACHED_MAX = 15 << 20
_UNATTACHED = "\nNone of them is attached: they are too large, or on a machine that did not send this.\n"


def tell(batch: Batch, schedule: Schedule, run: Run, due_at: int) -> None:
    """Have all addressees of a schedule told what came of a run, when the transaction holds."""
    for topic, addressees in ((MAIL, schedule.emails), (HOOK, schedule.webhooks)):
        for to in addressees:
            payload = {"schedule": schedule.id, "run": run.id, "to": to, "due_at": due_at}
            mark = hashlib.sha256(to.encode()).hexdigest()[:16]
            batch.send(topic, f"{schedule.id}:{due_at}:{mark}", payload, at=batch.now)


def secret_name(schedule_id: str) -> str:
    """Of what name the secret is that signs a schedule's messages (`Webhooks.secret`)."""
    return f"report:{schedule_id}"


class Deliverer:
    """Delivers what waits in the outbox."""

    def __init__(
        self, ledger: Ledger, store: Store, keeping: Keeping, *, send: Send | None, sender: str, webhooks: Webhooks
    ) -> None:
        """send: without it mail waits in the outbox until a process has one."""
        self._store, self._keeping, self._send, self._sender, self._webhooks = store, keeping, send, sender, webhooks
        handlers = {HOOK: self._hook, **({} if send is None else {MAIL: self._mail})}
        self._dispatcher = Dispatcher(ledger, handlers)

    def start(self) -> None:
        """Deliver in a thread, until `close`."""
        self._dispatcher.start(interval_s=0.5)

    def close(self) -> None:
        """End after the delivery that is under way."""
        self._dispatcher.close()

    def deliver(self) -> int:
        """Deliver what is due now; how many messages that were."""
        return self._dispatcher.run_once()

    def event(self, message: Message) -> dict[str, Any]:
        """What a webhook is told."""
        past, said = self._last(message), message.payload
        document = self._document(message, past)
        totals = document.get("totals", {})
        return {
            "id": message.key, "type": f"report.{past.state}", "schedule": said["schedule"], "run": past.run_id,
            "due_at": said["due_at"], "name": past.name, "period": document.get("period", {"label": past.label}),
            "subject": past.subject, "key": past.key, "height": past.height, "version": past.version,
            "totals": {name: value for name, value in totals.items() if isinstance(value, str)},
            "files": {name: entry["sha256"] for name, entry in past.files.items()}, "folder": past.folder,
            "error": past.error,
        }  # fmt: skip

    def _hook(self, message: Message) -> None:
        event, to = self.event(message), str(message.payload["to"])
        body = json.dumps(event, sort_keys=True, separators=(",", ":")).encode()
        secret = self._webhooks.secret(secret_name(str(message.payload["schedule"])))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rios",
            "Rios-Event-Id": message.key,
            "Rios-Signature": signature(secret, body, at_s=int(time.time())),
        }
        try:
            status = post(to, body, headers, allowed=self._webhooks.allowed)
            if not 200 <= status < 300:
                raise NotDelivered(f"the webhook of {message.payload['schedule']} answered {status}")
        except (NotDelivered, InvalidRequest) as error:
            if message.attempts < ATTEMPTS_MAX:
                raise
            log.warning("a webhook is not told of a report", extra={"key": message.key, "reason": str(error)})

    def _mail(self, message: Message) -> None:
        import smtplib

        assert self._send is not None
        letter = self.letter(message)
        try:
            self._send(letter)
        except (smtplib.SMTPException, OSError) as error:
            raise GatewayLost(f"the mail server does not take {message.key}: {type(error).__name__}") from None
        log.info("a report was sent by mail", extra={"key": message.key})

    def letter(self, message: Message) -> EmailMessage:
        """The mail about a report; with its PDF, or its page where there is none."""
        past, said = self._last(message), message.payload
        letter = EmailMessage()
        state = "" if past.state == RunState.OK else f" ({past.state})"
        letter["From"], letter["To"] = self._sender, str(said["to"])
        letter["Subject"] = f"rios: {past.name} report of {past.label}{state}"
        mark = hashlib.sha256(message.key.encode()).hexdigest()[:32]
        letter["Message-ID"] = f"<{mark}@{self._sender.rpartition('@')[2]}>"
        letter["Auto-Submitted"] = "auto-generated"
        text, attached = _text(past, self._document(message, past)), self._attached(message, past)
        letter.set_content(text + (_UNATTACHED if past.files and attached is None else ""))
        if attached is not None:
            name, (main, sub), content = attached
            letter.add_attachment(content, maintype=main, subtype=sub, filename=name)
        return letter

    def _attached(self, message: Message, past: Past) -> tuple[str, tuple[str, str], bytes] | None:
        """Name, media type and content of the best file that there is and that is not too large."""
        for kind, media in (("pdf", ("application", "pdf")), ("html", ("text", "html"))):
            name = next((one for one in past.files if one.endswith(f".{kind}")), None)
            if name is None or past.files[name]["bytes"] > ATTACHED_MAX:
                continue
            content = self._file(message, past, name)
            if content is not None:
                return name, media, content
        return None

    def _last(self, message: Message) -> Past:
        found = self._store.history(run_id=str(message.payload["run"]), limit=1)
        assert found, "a run that was told of has a history"
        return found[0]

    def _document(self, message: Message, past: Past) -> Mapping[str, Any]:
        name = next((one for one in past.files if one.endswith(".json")), None)
        content = None if name is None else self._file(message, past, name)
        if content is None:
            return {}
        found: Mapping[str, Any] = json.loads(content)
        return found

    def _file(self, message: Message, past: Past, name: str) -> bytes | None:
        """A file of a report. Raises Elsewhere: the gateway that has it may take the message next; None if none did.

        Of a process that ends it says nothing that it has not got a file: the next one may have it.
        """
        try:
            return self._keeping.read(past.folder, name, past.files[name]["sha256"])
        except Elsewhere as error:
            if message.attempts < ELSEWHERE_MAX or self._keeping.is_closing:
                raise
            log.warning("a report is told of without a file", extra={"key": message.key, "reason": str(error)})
            return None


def _text(past: Past, document: Mapping[str, Any]) -> str:
    lines = [f"The {past.name} report of {past.label} is {past.state}."]
    if past.error:
        lines += ["", past.error]
    totals = document.get("totals", {})
    wei = {name: value for name, value in totals.items() if name.endswith("_wei")}
    if wei:
        width = max(map(len, wei)) - 4
        lines += ["", *(f"{name[:-4].ljust(width)}  {format_ros(int(value))}" for name, value in wei.items())]
    if past.files:
        lines += ["", f"Folder {past.folder}, with the SHA-256 of each file:"]
        lines += [f"{entry['sha256']}  {name}" for name, entry in past.files.items()]
    return "\n".join(lines) + "\n"
