"""What a deployment cost in the last day that it cost something: what its budget is compared with."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; what was spent earlier in the day of the migration is in no budget."""
    op.add_column("app_spend", sa.Column("day", Big, nullable=False, server_default="0"))
    op.add_column("app_spend", sa.Column("day_wei", Whole, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for column in ("day_wei", "day"):
        op.drop_column("app_spend", column)
