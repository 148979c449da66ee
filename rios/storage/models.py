"""The tables, as the code knows them; `rios/storage/migrations` makes them, and a test compares the two.

Amounts are in wei and quantities in base units (`Whole`); moments are microseconds of UTC since 1970, as the caller's
clock had them, so they may go back: only `seq` orders. Hashes are 32 raw bytes, documents are canonical JSON as text.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import Boolean, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rios.storage.types import Big, Whole


class Base(DeclarativeBase):
    """All tables of rios."""

    type_annotation_map: ClassVar = {str: Text(), bytes: LargeBinary(), bool: Boolean(), int: Big}


class AccountRow(Base):
    """One account: `balance_wei` is what it received less what it gave, never below `floor_wei` where it has one."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text, index=True)
    floor_wei: Mapped[int | None] = mapped_column(Whole)
    balance_wei: Mapped[int] = mapped_column(Whole)
    # On SQLite amounts are text, which SQL cannot compare; there the writer alone holds the floors.
    __table_args__ = (
        CheckConstraint("floor_wei IS NULL OR balance_wei >= floor_wei", name="above_floor").ddl_if("postgresql"),
    )


class TransferRow(Base):
    """One entry: `amount_wei` left the account `debit_id` and reached `credit_id`. Never changed, never deleted."""

    __tablename__ = "transfers"
    seq: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(Text, unique=True)
    debit_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    credit_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    amount_wei: Mapped[int] = mapped_column(Whole)
    kind: Mapped[str]
    reference: Mapped[str]
    at: Mapped[int]
    payload: Mapped[str | None]
    digest: Mapped[bytes]
    hash: Mapped[bytes]
    __table_args__ = (Index("ix_transfers_debit", "debit_id", "seq"), Index("ix_transfers_credit", "credit_id", "seq"))


class UserRow(Base):
    """What the ledger remembers of a user besides the accounts."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    address: Mapped[str | None] = mapped_column(Text, unique=True)
    full_wei: Mapped[int] = mapped_column(Whole)
    """The balance after the last deposit or grant, and how often there was one."""
    fillings: Mapped[int]
    least_wei: Mapped[int] = mapped_column(Whole)
    """The least balance since then."""
    unsettled_wei: Mapped[int] = mapped_column(Whole)
    """What deposits paid for use, less refunds, since the last epoch was closed."""
    unsettled_trial_wei: Mapped[int] = mapped_column(Whole)
    """The same of trial credit."""


class HoldRow(Base):
    """The highest price of a request, set aside before the work."""

    __tablename__ = "holds"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str]
    request_id: Mapped[str]
    amount_wei: Mapped[int] = mapped_column(Whole)
    trial_wei: Mapped[int] = mapped_column(Whole)
    posted_wei: Mapped[int] = mapped_column(Whole)
    trial_posted_wei: Mapped[int] = mapped_column(Whole)
    released_wei: Mapped[int] = mapped_column(Whole)
    state: Mapped[str]
    price_book: Mapped[str]
    """Digest of the price book that was pinned, and all the terms that were, as canonical JSON."""
    terms: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    grace_until: Mapped[int | None]
    __table_args__ = (Index("ix_holds_state", "state", "expires_at"), Index("ix_holds_user", "user_id", "created_at"))


class HoldStepRow(Base):
    """One step of a hold that grows while a stream goes on; step 0 is the first."""

    __tablename__ = "hold_steps"
    hold_id: Mapped[str] = mapped_column(ForeignKey("holds.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    amount_wei: Mapped[int] = mapped_column(Whole)
    trial_wei: Mapped[int] = mapped_column(Whole)
    at: Mapped[int]


class UsageRow(Base):
    """One rated usage record, with what it cost and who got which part of it."""

    __tablename__ = "usage"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    hold_id: Mapped[str] = mapped_column(ForeignKey("holds.id"), index=True)
    step: Mapped[int]
    request_id: Mapped[str] = mapped_column(Text, index=True)
    user_id: Mapped[str]
    model: Mapped[str]
    deployment: Mapped[str]
    worker: Mapped[str]
    owner: Mapped[str]
    resource: Mapped[str]
    device_class: Mapped[str]
    ask_bp: Mapped[int]
    line: Mapped[str]
    quantity: Mapped[int] = mapped_column(Whole)
    unit: Mapped[str]
    units: Mapped[str]
    price: Mapped[str]
    """Wei for one unit, exact: "36000000000000" or "1/3"."""
    amount_wei: Mapped[int] = mapped_column(Whole)
    worker_wei: Mapped[int] = mapped_column(Whole)
    platform_wei: Mapped[int] = mapped_column(Whole)
    trial_wei: Mapped[int] = mapped_column(Whole)
    """How much of the amount trial credit paid."""
    discount: Mapped[str | None]
    """Its name, where one took something off."""
    discount_wei: Mapped[int] = mapped_column(Whole, server_default="0")
    """What it took off: it is not in `amount_wei`."""
    refunded_wei: Mapped[int] = mapped_column(Whole)
    rows: Mapped[int]
    measured_ns: Mapped[int] = mapped_column(Whole)
    events: Mapped[int]
    events_digest: Mapped[str]
    at: Mapped[int]
    price_book: Mapped[str]
    digest: Mapped[bytes]
    epoch: Mapped[int | None] = mapped_column(Big, index=True)
    __table_args__ = (Index("ix_usage_user", "user_id", "at"), Index("ix_usage_at", "at"))


class BudgetRow(Base):
    """What a user may spend in each period of one kind."""

    __tablename__ = "budgets"
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    period: Mapped[str] = mapped_column(Text, primary_key=True)
    limit_wei: Mapped[int] = mapped_column(Whole)
    alerts: Mapped[str]
    """Basis points, as JSON."""
    hard: Mapped[bool]
    set_at: Mapped[int]


class SpendingRow(Base):
    """What a user spent in one period, and the most that was ever spent in it (a refund lowers the first alone)."""

    __tablename__ = "spending"
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    period: Mapped[str] = mapped_column(Text, primary_key=True)
    start: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    spent_wei: Mapped[int] = mapped_column(Whole)
    most_wei: Mapped[int] = mapped_column(Whole)


class VolumeRow(Base):
    """What a user used in one month (UTC): where in the tiers of the price lines further use starts."""

    __tablename__ = "volumes"
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    start: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    """When the month began."""
    quantities: Mapped[str]
    """By price line, in its base units: JSON, the numbers as decimal text."""


class DiscountRow(Base):
    """That a discount of the price book holds for an account, or for all of an organisation, for a while."""

    __tablename__ = "discounts"
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    """"user:ID" or "organisation:ID"."""
    since: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    until: Mapped[int | None]
    """When it ends, itself excluded; never without."""
    name: Mapped[str]
    granted_at: Mapped[int]


class AlertRow(Base):
    """An alert that was given; its key keeps it from being given again."""

    __tablename__ = "alerts"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]


class PriceBookRow(Base):
    """A price book that was published, or that a hold pinned."""

    __tablename__ = "price_books"
    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int]
    effective_from_s: Mapped[int]
    published: Mapped[bool]
    document: Mapped[str]


class OutboxRow(Base):
    """A message that was decided on in the transaction that made it true, and is delivered afterwards."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    topic: Mapped[str]
    key: Mapped[str] = mapped_column(Text, unique=True)
    payload: Mapped[str]
    created_at: Mapped[int]
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[int]
    delivered_at: Mapped[int | None]
    error: Mapped[str | None]
    __table_args__ = (Index("ix_outbox_due", "delivered_at", "next_attempt_at"),)


class CreditNoteRow(Base):
    """A refund. The usage record and its entries stay; the note and the entries of its own reverse them."""

    __tablename__ = "credit_notes"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(Big, unique=True)
    usage_id: Mapped[str] = mapped_column(ForeignKey("usage.id"), index=True)
    user_id: Mapped[str] = mapped_column(Text, index=True)
    amount_wei: Mapped[int] = mapped_column(Whole)
    trial_wei: Mapped[int] = mapped_column(Whole)
    from_worker_wei: Mapped[int] = mapped_column(Whole)
    from_platform_wei: Mapped[int] = mapped_column(Whole)
    worker_owes_wei: Mapped[int] = mapped_column(Whole)
    platform_owes_wei: Mapped[int] = mapped_column(Whole)
    epoch: Mapped[int | None]
    """The closed epoch of the usage, if it was closed by then."""
    reason: Mapped[str]
    at: Mapped[int]


class InvoiceRow(Base):
    """An invoice as it was issued; what changes later is in credit notes."""

    __tablename__ = "invoices"
    number: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    user_id: Mapped[str]
    period: Mapped[str]
    document: Mapped[str]
    digest: Mapped[str]
    created_at: Mapped[int]
    __table_args__ = (UniqueConstraint("user_id", "period"),)


class EpochRow(Base):
    """A closed epoch: the cumulative earnings up to the entry `head_seq`, and what became of its root."""

    __tablename__ = "epochs"
    number: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    state: Mapped[str]
    root: Mapped[str]
    total_wei: Mapped[int] = mapped_column(Whole)
    head_seq: Mapped[int]
    head_hash: Mapped[bytes]
    closed_at: Mapped[int]
    tx: Mapped[str | None]


class EpochLeafRow(Base):
    """What an address has earned from the beginning to the end of an epoch."""

    __tablename__ = "epoch_leaves"
    epoch: Mapped[int] = mapped_column(ForeignKey("epochs.number"), primary_key=True)
    address: Mapped[str] = mapped_column(Text, primary_key=True)
    cumulative_wei: Mapped[int] = mapped_column(Whole)


class EpochChargeRow(Base):
    """What a user pays for an epoch: of deposits, and of trial credit. Below 0 where refunds exceed the use."""

    __tablename__ = "epoch_charges"
    epoch: Mapped[int] = mapped_column(ForeignKey("epochs.number"), primary_key=True)
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    amount_wei: Mapped[int] = mapped_column(Whole)
    trial_wei: Mapped[int] = mapped_column(Whole)


class ChainCursorRow(Base):
    """Up to which block the events of the chain are in the ledger."""

    __tablename__ = "chain_cursor"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    block: Mapped[int]
    block_hash: Mapped[str]


class ChainEventRow(Base):
    """An event of the chain whose entries are in the ledger, or were until a reorganisation took it away."""

    __tablename__ = "chain_events"
    tx_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    log_index: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(Big, index=True)
    block_hash: Mapped[str]
    name: Mapped[str]
    args: Mapped[str]
    applied: Mapped[int]
    """How often it was applied, less how often it was reversed: 1 or 0."""
    times: Mapped[int]
    """How often it was applied: after a reorganisation it may come again."""


class ChainIntentRow(Base):
    """A transaction that is to be made on a chain, and what became of it."""

    __tablename__ = "chain_intents"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int] = mapped_column(Big, unique=True)
    chain_id: Mapped[int]
    sender: Mapped[str]
    nonce: Mapped[int | None]
    state: Mapped[str]
    version: Mapped[int]
    document: Mapped[str]
    __table_args__ = (
        UniqueConstraint("chain_id", "sender", "nonce"),
        Index("ix_chain_intents_state", "chain_id", "sender", "state"),
    )


class OrganisationRow(Base):
    """Whom users and their objects belong to; one of them runs the network."""

    __tablename__ = "organisations"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    operator: Mapped[bool]
    created_at: Mapped[int]


class PersonRow(Base):
    """Who can sign in. `users` has what the ledger remembers under the same id, and nothing personal."""

    __tablename__ = "people"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    login: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str]
    role: Mapped[str]
    password: Mapped[str | None]
    """Its argon2id hash."""
    created_at: Mapped[int]
    closed_at: Mapped[int | None]
    email: Mapped[str | None]
    email_confirmed_at: Mapped[int | None]
    profile: Mapped[str | None]
    """What the user says about itself, as JSON."""
    __table_args__ = (Index("ix_people_organisation", "organisation_id", "id"),)


class ApiKeyRow(Base):
    """An API key: its beginning, which is shown, and its SHA-256."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"))
    name: Mapped[str]
    prefix: Mapped[str]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[str]
    """As JSON, sorted."""
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    last_used_at: Mapped[int | None]
    revoked_at: Mapped[int | None]
    signed_in_at: Mapped[int | None]
    """When the user had signed in who made it; none of a key for automation."""
    __table_args__ = (Index("ix_api_keys_user", "user_id", "created_at", "id"),)


class SessionRow(Base):
    """A sign-in: the family of all tokens that came from it."""

    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("people.id"))
    client: Mapped[str]
    scopes: Mapped[str]
    created_at: Mapped[int]
    used_at: Mapped[int]
    expires_at: Mapped[int]
    revoked_at: Mapped[int | None]
    client_id: Mapped[str | None]
    """The program that it was given to by OAuth 2.0; none for a password's own."""
    signed_in_at: Mapped[int | None]
    """When the user showed who it is; none of a program by itself."""
    __table_args__ = (Index("ix_sessions_user", "user_id", "created_at", "id"),)


class RefreshTokenRow(Base):
    """A refresh token: its SHA-256. One that is used a second time was stolen, or its thief was first."""

    __tablename__ = "refresh_tokens"
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    issued_at: Mapped[int]
    used_at: Mapped[int | None]


class AuditRow(Base):
    """Who did what to which object (`rios.accounts.audit`). Never changed, never deleted."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    at: Mapped[int]
    organisation_id: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    detail: Mapped[str]
    hash: Mapped[bytes]
    __table_args__ = (Index("ix_audit_organisation", "organisation_id", "seq"),)
