"""The tables of signing in: programs and their codes, cookies, links sent by mail, identities elsewhere, guesses.

Of every secret its SHA-256 is kept (`rios.accounts.tokens.fingerprint`), never itself.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from rios.storage.models import Base


class CookieRow(Base):
    """What a browser shows to be in a session."""

    __tablename__ = "cookies"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)


class TicketRow(Base):
    """Something that is good once, and not for long: a link sent by mail, a sign-in that went to another provider."""

    __tablename__ = "tickets"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    purpose: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("people.id"), index=True)
    payload: Mapped[str]
    expires_at: Mapped[int] = mapped_column(index=True)


class ClientRow(Base):
    """A program that asks users for access (OAuth 2.0)."""

    __tablename__ = "oauth_clients"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"))
    """Who made it, and for whom it acts by its own credentials."""
    name: Mapped[str]
    fingerprint: Mapped[bytes | None]
    """Of its secret; a public client has none."""
    redirect_uris: Mapped[str]
    scopes: Mapped[str]
    grants: Mapped[str]
    created_at: Mapped[int]
    closed_at: Mapped[int | None]
    __table_args__ = (Index("ix_oauth_clients_organisation", "organisation_id", "id"),)


class CodeRow(Base):
    """An authorisation code, and which session came of it: a second use ends that."""

    __tablename__ = "oauth_codes"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    client_id: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"), index=True)
    redirect_uri: Mapped[str]
    scopes: Mapped[str]
    nonce: Mapped[str | None]
    challenge: Mapped[str]
    signed_in_at: Mapped[int]
    expires_at: Mapped[int] = mapped_column(index=True)
    used_at: Mapped[int | None]
    session_id: Mapped[str | None]


class DeviceRow(Base):
    """A program without a browser that waits until its user says yes in one (RFC 8628)."""

    __tablename__ = "device_codes"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_code: Mapped[str] = mapped_column(Text, unique=True)
    client_id: Mapped[str]
    scopes: Mapped[str]
    expires_at: Mapped[int] = mapped_column(index=True)
    polled_at: Mapped[int | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("people.id"), index=True)
    approved: Mapped[bool | None]
    signed_in_at: Mapped[int | None]
    """When the user had signed in who said so."""


class IdentityRow(Base):
    """A user as an outside OpenID provider knows it."""

    __tablename__ = "identities"
    issuer: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"), index=True)
    created_at: Mapped[int]


class GuessRow(Base):
    """Wrong passwords for a login since the last right one; of logins that nobody has too, so that all look alike."""

    __tablename__ = "guesses"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    failures: Mapped[int]
    locked_until: Mapped[int]
    at: Mapped[int] = mapped_column(index=True)
