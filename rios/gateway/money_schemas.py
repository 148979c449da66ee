"""Money in answers: every amount and count that a double could not hold is decimal text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rios.billing.books import PriceBook
from rios.billing.estimate import Estimate
from rios.billing.ledger.values import CreditNote, Grant, Invoice
from rios.billing.parameters import Change
from rios.gateway.schemas import Strict, usage_of
from rios.services.accounting import Proof, Reconciliation
from rios.services.alerts import Alert
from rios.services.payouts import PaidOut
from rios.services.settlement import Settled
from rios.services.wallet import Earnings
from rios.words.money import format_ros

_AMOUNT = Field(description='Such as "5 ROS" or "1000 wei".', min_length=1, max_length=100)


class Subject(Strict, json_schema_extra={"examples": [{"book": {"version": 2}}]}):
    """What is voted on: a price book, as `GET /v1/prices` shows one, or a parameter and its value."""

    book: dict[str, Any] | None = Field(None, examples=[{"version": 2}])
    parameter: str | None = Field(None, min_length=1, max_length=64, examples=["payout_min_wei"])
    value: str | None = Field(
        None, pattern=r"^[0-9]{1,78}$", description="A whole number, in the unit that the parameter's name ends with."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.book is None) == (self.parameter is None) or (self.parameter is None) != (self.value is None):
            raise ValueError("a vote is over a book, or over a parameter with its value")
        return self

    def subject(self) -> PriceBook | Change:
        """What it stands for. Raises PriceBookError, InvalidRequest."""
        if self.book is not None:
            return PriceBook.from_dict(self.book)
        assert self.parameter is not None
        assert self.value is not None
        return Change(self.parameter, int(self.value))


class Vote(Subject, json_schema_extra={"examples": [{"book": {"version": 2}, "choice": "for"}]}):
    """How to vote over it."""

    choice: Literal["for", "against", "abstain"] = "for"


class Prompt(Strict, json_schema_extra={"examples": [{"prompt": "Once upon a time"}]}):
    """What is to be counted."""

    prompt: Annotated[str, Field(max_length=1_000_000)] | list[int]


class Amount(Strict, json_schema_extra={"examples": [{"amount": "5 ROS"}]}):
    """ROS to be moved."""

    amount: str = _AMOUNT


class NewAddress(Strict, json_schema_extra={"examples": [{"address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}]}):
    """An address on the chain."""

    address: str = Field(min_length=1, max_length=100)


class SignedAddress(
    Strict,
    json_schema_extra={
        "examples": [
            {"nonce": "4f1c…", "signature": "0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d…"}
        ]
    },
):
    """That the key of an address has signed the message with this nonce."""

    nonce: str = Field(min_length=1, max_length=200)
    signature: str = Field(min_length=1, max_length=200, description="65 bytes as hex digits.")


class Refund(Strict, json_schema_extra={"examples": [{"reason": "The answer was cut off.", "amount": "1000 wei"}]}):
    """Why, and how much of the price is given back; what is left of it without an amount.

    The same again is the same credit note; a key tells two of the same amount apart.
    """

    reason: str = Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")
    amount: str | None = Field(None, max_length=100)
    key: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[^\x00]+$")


class PayOut(Strict, json_schema_extra={"examples": [{"minimum": "1 ROS"}]}):
    """From how much on owners are paid; the network's setting without."""

    minimum: str | None = Field(None, max_length=100)


class Discount(Strict, json_schema_extra={"examples": [{"user": "user-3f9a1c0e5b7d2468"}]}):
    """For whom a discount holds, one user or one organisation, and from when until when."""

    user: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[^\x00]+$")
    organisation: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[^\x00]+$")
    since: str | None = Field(None, max_length=40, description="Now without.")
    until: str | None = Field(None, max_length=40, description="Itself excluded; for ever without.")


class Claim(Strict, json_schema_extra={"examples": [{"owner": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}]}):
    """Whose earnings are paid; the user's own without."""

    owner: str | None = Field(None, max_length=100)


def estimate_of(found: Estimate) -> dict[str, Any]:
    """A price before the work."""
    lines = [
        {name: value if name in ("line", "unit") else str(value) for name, value in asdict(line).items()}
        for line in found.lines
    ]
    sums = ("lowest_wei", "expected_wei", "highest_wei")
    prices = {name: str(getattr(found, name)) for name in (*sums, "discount_wei")}
    return {"lines": lines, "discount": found.discount, **prices}


def settled_of(found: Settled | None) -> dict[str, Any]:
    """A closed epoch; `epoch` is null before anything was used."""
    if found is None:
        return {"epoch": None}
    return {
        "epoch": found.epoch,
        "root": found.root,
        "total_wei": str(found.total_wei),
        "tx": found.tx,
        "closed_at": found.closed_at.isoformat(),
        "final": found.final,
    }


def paid_out_of(found: PaidOut) -> dict[str, Any]:
    """What owners were paid."""
    paid = {str(owner): str(wei) for owner, wei in found.paid.items()}
    return {"epoch": found.epoch, "paid": paid, "txs": list(found.txs), "total_wei": str(found.total_wei)}


def reconciliation_of(found: Reconciliation) -> dict[str, Any]:
    """Books compared."""
    checks = [
        {"what": one.what, "here_wei": str(one.here_wei), "there_wei": str(one.there_wei)} for one in found.checks
    ]
    return {
        "checks": checks,
        "broken": list(found.broken),
        "difference_wei": str(found.difference_wei),
        "sound": found.sound,
    }


def proof_of(found: Proof) -> dict[str, Any]:
    """From use to payout. `export` is null where its epoch is open, and for all but admins of the network."""
    usage = {
        **usage_of(found.usage),
        "hold_id": found.usage.hold_id,
        "deployment": found.usage.deployment,
        "owner": found.usage.owner,
        "line": found.usage.line,
    }
    return {
        "usage": usage,
        "links": [asdict(link) for link in found.links],
        "verified": found.verified,
        "export": None if found.export is None else found.export.to_dict(),
    }


def note_of(note: CreditNote) -> dict[str, Any]:
    """A credit note."""
    return {name: str(value) if name.endswith("_wei") else value for name, value in asdict(note).items()}


def invoice_of(invoice: Invoice) -> dict[str, Any]:
    """An invoice."""
    return {
        "number": invoice.number,
        "user": invoice.user_id,
        "period": invoice.period,
        "document": dict(invoice.document),
        "digest": invoice.digest,
        "created_at": invoice.created_at,
    }


def grant_of(given: Grant) -> dict[str, Any]:
    """A discount that was given."""
    return asdict(given)


def alert_of(alert: Alert) -> dict[str, Any]:
    """An alert."""
    return {
        "key": alert.key,
        "about": alert.about,
        "user": alert.user,
        "share_bp": alert.share_bp,
        "amount_wei": str(alert.amount_wei),
        "whole_wei": str(alert.whole_wei),
        "at": alert.at.isoformat(),
        "period": alert.period,
        "text": str(alert),
    }


def earnings_of(found: Earnings) -> dict[str, Any]:
    """What an owner has earned."""
    now = found.now
    return {
        "owner": now.owner,
        "earned_wei": str(now.earned_wei),
        "claimable_wei": str(now.claimable_wei),
        "claimed_wei": str(now.claimed_wei),
        "pending_wei": str(now.pending_wei),
        "earned": format_ros(now.earned_wei),
    }
