"""Requests that are done once, webhooks, and quotas of a day."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "once",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("lease_until", Big, nullable=False),
        sa.Column("status", Big, nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", Big, nullable=False),
    )
    op.create_index("ix_once_created_at", "once", ["created_at"])
    op.create_index("ix_once_gateway", "once", ["gateway", "status"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("topics", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
        sa.Column("closed_at", Big, nullable=True),
    )
    op.create_index("ix_webhooks_organisation", "webhooks", ["organisation_id", "id"])
    op.create_table(
        "quotas",
        sa.Column("user_id", sa.Text(), sa.ForeignKey("people.id"), primary_key=True),
        sa.Column("tokens", Big, nullable=True),
        sa.Column("spend_wei", Whole, nullable=True),
    )
    op.create_table(
        "quota_use",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("day", Big, primary_key=True, autoincrement=False),
        sa.Column("tokens", Big, nullable=False),
    )
    op.create_table("cursors", sa.Column("name", sa.Text(), primary_key=True), sa.Column("seq", Big, nullable=False))


def downgrade() -> None:
    """Drop all of it."""
    for table in ("cursors", "quota_use", "quotas", "webhooks", "once"):
        op.drop_table(table)
