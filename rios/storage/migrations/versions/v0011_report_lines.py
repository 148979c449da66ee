"""What a report has written while it is made."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "report_lines",
        sa.Column("run_id", sa.Text(), sa.ForeignKey("report_runs.id"), primary_key=True),
        sa.Column("seq", Big, primary_key=True, autoincrement=False),
        sa.Column("attempt", Big, nullable=False),
        sa.Column("at", Big, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("report_lines")
