"""Generations as each gateway tells the others of them."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "job_views",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("version", Big, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("ended_at", Big, nullable=True),
        sa.Column("lease_until", Big, nullable=False),
        sa.Column("followed_until", Big, nullable=False),
        sa.Column("cancel", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_job_views_version", "job_views", ["version"])
    op.create_index("ix_job_views_ended", "job_views", ["ended_at", "lease_until"])
    op.create_index("ix_job_views_gateway", "job_views", ["gateway", "ended_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("job_views")
