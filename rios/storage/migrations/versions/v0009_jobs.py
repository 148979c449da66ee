"""Jobs as all gateways read them, and the keys that all gateways need."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "network_keys",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
    )
    op.create_table(
        "job_records",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", Big, nullable=False),
        sa.Column("seen_at", Big, nullable=False),
        sa.Column("ended_at", Big, nullable=True),
        sa.Column("lease_until", Big, nullable=False),
        sa.Column("followed_until", Big, nullable=False),
        sa.Column("cancel", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_job_records_ended", "job_records", ["ended_at", "lease_until"])
    op.create_index("ix_job_records_gateway", "job_records", ["gateway", "ended_at"])


def downgrade() -> None:
    """Drop all of it."""
    for table in ("job_records", "network_keys"):
        op.drop_table(table)
