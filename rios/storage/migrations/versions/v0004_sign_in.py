"""Profiles, programs that ask for access by OAuth 2.0, their codes, cookies of browsers, links by mail, identities."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables; nobody has a profile yet."""
    for column in ("failures", "locked_until"):  # now counted by login, in "guesses"
        op.drop_column("people", column)
    op.add_column("people", _text("email", null=True))
    op.add_column("people", _big("email_confirmed_at", null=True))
    op.add_column("people", _text("profile", null=True))
    op.add_column("sessions", _text("client_id", null=True))
    op.create_table("cookies", _fingerprint(), _reference("session_id", "sessions.id"))
    op.create_index("ix_cookies_session_id", "cookies", ["session_id"])
    op.create_table(
        "tickets",
        _fingerprint(),
        _text("purpose"),
        _reference("user_id", "people.id", null=True),
        _text("payload"),
        _big("expires_at"),
    )
    op.create_index("ix_tickets_user_id", "tickets", ["user_id"])
    op.create_index("ix_tickets_expires_at", "tickets", ["expires_at"])
    _oauth()
    op.create_table(
        "identities",
        _text("issuer", key=True),
        _text("subject", key=True),
        _reference("user_id", "people.id"),
        _big("created_at"),
    )
    op.create_index("ix_identities_user_id", "identities", ["user_id"])
    op.create_table("guesses", _fingerprint(), _big("failures"), _big("locked_until"), _big("at"))
    op.create_index("ix_guesses_at", "guesses", ["at"])


def downgrade() -> None:
    """Drop all of it."""
    for table in ("guesses", "identities", "device_codes", "oauth_codes", "oauth_clients", "tickets", "cookies"):
        op.drop_table(table)
    op.drop_column("sessions", "client_id")
    for column in ("profile", "email_confirmed_at", "email"):
        op.drop_column("people", column)
    for column in ("failures", "locked_until"):
        op.add_column("people", sa.Column(column, Big, nullable=False, server_default="0"))


def _oauth() -> None:
    op.create_table(
        "oauth_clients",
        _text("id", key=True),
        _reference("organisation_id", "organisations.id"),
        _reference("user_id", "people.id"),
        _text("name"),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        _text("redirect_uris"),
        _text("scopes"),
        _text("grants"),
        _big("created_at"),
        _big("closed_at", null=True),
    )
    op.create_index("ix_oauth_clients_organisation", "oauth_clients", ["organisation_id", "id"])
    op.create_table(
        "oauth_codes",
        _fingerprint(),
        _text("client_id"),
        _reference("user_id", "people.id"),
        _text("redirect_uri"),
        _text("scopes"),
        _text("nonce", null=True),
        _text("challenge"),
        _big("signed_in_at"),
        _big("expires_at"),
        _big("used_at", null=True),
        _text("session_id", null=True),
    )
    op.create_index("ix_oauth_codes_user_id", "oauth_codes", ["user_id"])
    op.create_index("ix_oauth_codes_expires_at", "oauth_codes", ["expires_at"])
    op.create_table(
        "device_codes",
        _fingerprint(),
        sa.Column("user_code", sa.Text(), nullable=False, unique=True),
        _text("client_id"),
        _text("scopes"),
        _big("expires_at"),
        _big("polled_at", null=True),
        _reference("user_id", "people.id", null=True),
        sa.Column("approved", sa.Boolean(), nullable=True),
    )
    op.create_index("ix_device_codes_user_id", "device_codes", ["user_id"])
    op.create_index("ix_device_codes_expires_at", "device_codes", ["expires_at"])


def _fingerprint() -> sa.Column[bytes]:
    return sa.Column("fingerprint", sa.LargeBinary(), primary_key=True)


def _text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null, primary_key=key)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, Big, nullable=null, autoincrement=False)


def _reference(name: str, column: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), sa.ForeignKey(column), nullable=null)
