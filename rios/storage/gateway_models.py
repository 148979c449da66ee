"""The tables of gateways: requests done once, jobs and what shows of them, webhooks, quotas of a day, and keys."""

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


class NetworkKeyRow(Base):
    """A key that all gateways of a network need, encrypted under the network's key of secrets, which is not here."""

    __tablename__ = "network_keys"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    """operator, wallet or webhooks."""
    address: Mapped[str]
    """Whom it signs for; empty for one that signs no transactions."""
    sealed: Mapped[bytes]
    created_at: Mapped[int]


class JobRow(Base):
    """A job of a gateway, as all gateways of its network can read it."""

    __tablename__ = "job_records"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str]
    gateway: Mapped[str]
    """Who runs it, and alone writes what becomes of it while its lease lasts."""
    state: Mapped[str]
    record: Mapped[str]
    """As JSON: the model, counts, usage, times, the error. Nothing of what was asked or answered."""
    sealed: Mapped[bytes | None]
    """The answer and its pieces, encrypted under the network's key of secrets."""
    created_at: Mapped[int]
    seen_at: Mapped[int]
    """When the gateway wrote this."""
    ended_at: Mapped[int | None]
    lease_until: Mapped[int]
    """The gateway says so again before this; afterwards the job is lost."""
    followed_until: Mapped[int]
    """Until then another gateway wants to know its pieces as they come."""
    cancel: Mapped[bool]
    """Whether another gateway was told to cancel it."""
    __table_args__ = (
        Index("ix_job_records_ended", "ended_at", "lease_until"),
        Index("ix_job_records_gateway", "gateway", "ended_at"),
    )


class JobViewRow(Base):
    """A generation of a gateway, by any route, as the lists of all gateways show it."""

    __tablename__ = "job_views"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    gateway: Mapped[str]
    """Who runs it, and alone writes how it is while its lease lasts."""
    version: Mapped[int] = mapped_column(Big, index=True)
    """Greater than that of all rows that were written before."""
    record: Mapped[str]
    """As JSON: a `JobView`, and the gateway as people are told. Nothing of what was asked or answered."""
    ended_at: Mapped[int | None]
    lease_until: Mapped[int]
    """The gateway says so again before this; afterwards the generation is lost."""
    followed_until: Mapped[int]
    """Until then somebody looks at it at another gateway."""
    cancel: Mapped[bool]
    """Whether another gateway was told to cancel it."""
    __table_args__ = (
        Index("ix_job_views_ended", "ended_at", "lease_until"),
        Index("ix_job_views_gateway", "gateway", "ended_at"),
    )
