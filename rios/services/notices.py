"""Notices by mail: what an event says about a user's own money or account goes to the address that is confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rios.services.mail import NOTICE, TOPIC
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch

_ALERT, _LOCK = "alert.", "session.lock"


def notify(batch: Batch, event: Mapping[str, Any]) -> None:
    """Have a mail sent about an event that its user should know of; again changes nothing."""
    if event["type"].startswith(_ALERT) or event["type"] == _LOCK:
        subject, text = _text_of(event["type"], event["detail"])
        payload = {"kind": NOTICE, "user_id": event["object"], "subject": subject, "text": text}
        batch.send(TOPIC, f"{NOTICE}:{event['id']}", payload, at=batch.now)


def _text_of(kind: str, detail: Mapping[str, str]) -> tuple[str, str]:
    if kind == _LOCK:
        return "Wrong passwords for your account", _LOCKED
    share, amount = f"{int(detail['share_bp']) / 100:g} %", format_ros(Wei(int(detail["amount_wei"])))
    if kind == f"{_ALERT}budget":
        return "Your budget", f"{share} of a budget are spent: {amount}."
    return "Your balance", f"your balance is below {share} of what it was after the last deposit: {amount} are left."


_LOCKED = """somebody gave a wrong password for this account several times, so nobody can sign in with one for a while.

If it was not you, somebody tries to guess it. Nothing was opened; choose a longer password if yours is short."""
