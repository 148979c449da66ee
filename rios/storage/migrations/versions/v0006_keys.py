"""Public keys of access tokens; keys and sessions of a user in pages."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0006"
down_revision = "0005"
_PAGED = ("api_keys", "sessions")


def upgrade() -> None:
    """Make the table, and indexes that end with the order of pages."""
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text(), primary_key=True),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
        sa.Column("ends_at", Big, nullable=False),
    )
    op.create_index("ix_signing_keys_ends_at", "signing_keys", ["ends_at"])
    for table in _PAGED:
        op.drop_index(f"ix_{table}_user_id", table)
        op.create_index(f"ix_{table}_user", table, ["user_id", "created_at", "id"])


def downgrade() -> None:
    """Take them away."""
    for table in _PAGED:
        op.drop_index(f"ix_{table}_user", table)
        op.create_index(f"ix_{table}_user_id", table, ["user_id"])
    op.drop_table("signing_keys")
