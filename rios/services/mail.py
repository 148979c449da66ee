"""Mail to users, through the transactional outbox: into files, or to a mail server by URL.

A message in the outbox names the user and what the mail is about, and neither address nor secret: both are looked up
and made when it is delivered. So the database never holds a link that opens an account, and nobody who was closed
meanwhile is written to. Delivery is at least once: a second mail has a link of its own.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import smtplib
import ssl
from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

from rios.billing.outbox import Dispatcher, Message
from rios.services.tickets import CONFIRM, RESET, new_ticket
from rios.words.errors import GatewayLost, InvalidRequest

if TYPE_CHECKING:
    from rios.accounts.values import User
    from rios.billing.ledger.batch import Batch
    from rios.services.accounts import Accounts

log = logging.getLogger(__name__)

TOPIC = "mail"
INVITE = "invite"
NOTICE = "notice"
RESET_S, CONFIRM_S, INVITE_S = 3600, 86_400, 7 * 86_400
_SMTP_S = 20.0
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}")
_ADDRESS_MAX = 254
Send = Callable[[EmailMessage], None]


def check_email(address: str) -> str:
    """`address` if mail can be sent there, else InvalidRequest."""
    if len(address) > _ADDRESS_MAX or not _ADDRESS.fullmatch(address):
        raise InvalidRequest(f"{address[:_ADDRESS_MAX]!r} is no e-mail address")
    return address


def sender_of(url: str) -> Send:
    """What sends mail by `url`: file:///DIRECTORY, smtp://[USER:PASSWORD@]HOST[:PORT], or smtps://. InvalidRequest."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        return Files(Path(unquote(parts.path)))
    if parts.scheme in ("smtp", "smtps") and parts.hostname:
        return _smtp(
            parts.hostname,
            parts.port or (465 if parts.scheme == "smtps" else 25),
            tls=parts.scheme == "smtps",
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
    raise InvalidRequest("RIOS_GATEWAY_MAIL must be file:///DIRECTORY, smtp://HOST:PORT or smtps://HOST:PORT")


class Files:
    """Mail as files of a directory, where there is no server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, message: EmailMessage) -> None:
        """Write one mail, whole or not at all."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._directory / f".{secrets.token_hex(8)}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(bytes(message))
        new.replace(self._directory / f"{message['Message-ID'].strip('<>').partition('@')[0]}.eml")

    def forget(self, address: str) -> None:
        """Remove what was written to an address."""
        for file in self._directory.glob("*.eml"):
            try:
                with file.open("rb") as opened:
                    to = BytesHeaderParser(policy=policy.default).parse(opened)["To"]
            except OSError:
                continue  # it was taken away meanwhile, or is not ours to read
            if to == address:
                file.unlink(missing_ok=True)


def _smtp(host: str, port: int, *, tls: bool, user: str, password: str) -> Send:
    context = ssl.create_default_context()

    def send(message: EmailMessage) -> None:
        connect = smtplib.SMTP_SSL(host, port, timeout=_SMTP_S, context=context) if tls else None
        with connect or smtplib.SMTP(host, port, timeout=_SMTP_S) as server:
            server.ehlo()
            if not tls and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            if user:
                if not tls and not isinstance(server.sock, ssl.SSLSocket):
                    raise InvalidRequest(f"{host} offers no TLS, and the password of {user} is not sent without")
                server.login(user, password)
            server.send_message(message)

    return send


def send(batch: Batch, kind: str, user_id: str, url: str, now: int, *, key: str | None = None) -> None:
    """Have a mail sent when the transaction holds."""
    payload = {"kind": kind, "user_id": user_id, "url": url}
    batch.send(TOPIC, key or f"{kind}:{user_id}:{now}", payload, at=now)


class Mail:
    """Delivers what waits in the outbox. Without a sender it stays there until a process has one."""

    def __init__(self, accounts: Accounts, send: Send, *, sender: str) -> None:
        """sender: the address that mail comes from."""
        self._accounts = accounts
        self._send = send
        self._sender = check_email(sender)
        self._dispatcher = Dispatcher(accounts.ledger, {TOPIC: self._deliver})

    def start(self) -> None:
        """Deliver in a thread, until `close`."""
        self._dispatcher.start(interval_s=0.5)

    def close(self) -> None:
        """End the thread after the mail that is under way."""
        self._dispatcher.close()

    def forget(self, address: str) -> None:
        """Remove what lies here of mail to an address; what a server took is gone."""
        if isinstance(self._send, Files):
            self._send.forget(address)

    def deliver(self) -> int:
        """Deliver what is due now; how many messages that were."""
        return self._dispatcher.run_once()

    def _deliver(self, message: Message) -> None:
        said = message.payload
        user = self._accounts.store.user(said["user_id"])
        if user is None or user.closed_at is not None or user.email is None:
            return  # nobody to write to: who asked learns nothing of it
        kind, url = said["kind"], said.get("url", "")
        if kind == CONFIRM:
            if user.email_confirmed_at is None:
                self._write(user, "Confirm your e-mail address", _CONFIRM, self._link(user, CONFIRM, url, CONFIRM_S))
        elif kind == INVITE:
            self._write(user, "You are invited to rios", _INVITE, self._link(user, RESET, url, INVITE_S))
        elif kind == NOTICE:
            if user.email_confirmed_at is not None:
                self._write(user, said["subject"], _NOTICE, said["text"])
        elif user.email_confirmed_at is not None:  # an address that nobody confirmed may be somebody else's
            self._write(user, "Choose a new password", _RESET, self._link(user, RESET, url, RESET_S))

    def _link(self, user: User, purpose: str, url: str, lasts_s: int) -> str:
        payload, now = {"email": user.email}, self._accounts.now()
        secret = self._accounts.store.transact(
            lambda connection: new_ticket(connection, purpose, user.id, payload, now, lasts_s=lasts_s)
        )
        return f"{url}/account/{purpose}?{urlencode({'ticket': secret})}"

    def _write(self, user: User, subject: str, text: str, link: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, user.email, subject
        message["Message-ID"] = f"<{secrets.token_hex(12)}@{self._sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text.format(login=user.login, link=link))
        try:
            self._send(message)
        except smtplib.SMTPResponseException as error:  # what it says may name the address, which is nobody's business
            raise GatewayLost(f"the mail server answers {error.smtp_code} to a mail for {user.id}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise GatewayLost(f"the mail server does not take a mail for {user.id}: {type(error).__name__}") from None
        log.info("mail was sent", extra={"user": user.id, "about": subject})


_CONFIRM = """Hello {login},

this address was given as yours. If it is, open this page within a day:

{link}

If it is not, do nothing.
"""
_NOTICE = """Hello {login},

{link}
"""
_INVITE = """Hello,

an admin made you the account {login}. Choose its password within a week:

{link}
"""
_RESET = """Hello {login},

somebody asked for a new password of this account. If it was you, choose one within an hour:

{link}

If not, do nothing: the password stays as it is.
"""
