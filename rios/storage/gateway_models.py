"""The tables of gateways: requests done once, webhooks, quotas of a day, public keys of access tokens."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from rios.storage.models import Base
from rios.storage.types import Big, Whole


class OnceRow(Base):
    """A request under its Idempotency-Key: who does it now, or how it was answered."""

    __tablename__ = "once"
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str]
    """Of method, path and body: the same key with another one is an error."""
    attempt: Mapped[str]
    """Begins the ids of all generations that this attempt starts, by which they are found if its gateway dies."""
    gateway: Mapped[str]
    lease_until: Mapped[int]
    """Whoever does it says so again before this; afterwards another gateway may take it over."""
    status: Mapped[int | None]
    answer: Mapped[bytes | None]
    """Encrypted with a key made of the token that asked, which is kept nowhere."""
    created_at: Mapped[int] = mapped_column(Big, index=True)
    __table_args__ = (Index("ix_once_gateway", "gateway", "status"),)


class WebhookRow(Base):
    """A URL that is told what happens in an organisation. Its secret is not here (`rios.services.webhooks`)."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    url: Mapped[str]
    topics: Mapped[str]
    """As JSON, sorted; empty for all."""
    created_by: Mapped[str]
    created_at: Mapped[int]
    closed_at: Mapped[int | None]
    __table_args__ = (Index("ix_webhooks_organisation", "organisation_id", "id"),)


class QuotaRow(Base):
    """The most that a user may ask for in a day."""

    __tablename__ = "quotas"
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"), primary_key=True)
    tokens: Mapped[int | None]
    spend_wei: Mapped[int | None] = mapped_column(Whole)


class QuotaUseRow(Base):
    """The tokens that a user with a quota asked for in a day, less those that were not needed in the end."""

    __tablename__ = "quota_use"
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    day: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    tokens: Mapped[int]


class CursorRow(Base):
    """Up to which entry of a log a reader has come, such as that of the audit log, from which events are made."""

    __tablename__ = "cursors"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int]


class SigningKeyRow(Base):
    """The public half of a key that signs access tokens. The private one is with the gateway that made it, alone."""

    __tablename__ = "signing_keys"
    kid: Mapped[str] = mapped_column(Text, primary_key=True)
    public: Mapped[str]
    """A JSON Web Key (RFC 7517)."""
    created_at: Mapped[int]
    ends_at: Mapped[int] = mapped_column(Big, index=True)
    """Nothing that it signed is taken from then on."""
