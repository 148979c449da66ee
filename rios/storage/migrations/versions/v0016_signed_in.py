"""When the user showed who it is to whom a session, a key or a program's code belongs."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0016"
down_revision = "0015"
_TABLES = ("sessions", "api_keys", "device_codes")


def upgrade() -> None:
    """Add the columns. Of before nothing is known: who wants to act as an admin signs in again."""
    for table in _TABLES:
        op.add_column(table, sa.Column("signed_in_at", Big, nullable=True))


def downgrade() -> None:
    """Drop them."""
    for table in reversed(_TABLES):
        op.drop_column(table, "signed_in_at")
