"""What went wrong on the way of requests."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "request_faults",
        sa.Column("request_id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("about", sa.Text(), primary_key=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("at", Big, nullable=False),
        sa.Column("count", Big, nullable=False),
        sa.Column("longest_us", Big, nullable=False),
    )
    op.create_index("ix_request_faults_at", "request_faults", ["at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("request_faults")
