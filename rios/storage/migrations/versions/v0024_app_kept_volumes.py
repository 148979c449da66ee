"""Volumes that deleted deployments left on hosts."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0024"
down_revision = "0023"
_TABLE = "app_kept_volumes"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        _TABLE,
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("organisation_id", "path", "host")),
        sa.Column("quota_bytes", Big, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("state", "taker", "taker_path")),
        sa.Column("kept_at", Big, nullable=False),
    )
    op.create_index("ix_app_kept_volumes_organisation", _TABLE, ["organisation_id", "kept_at", "id"])
    op.create_index("ix_app_kept_volumes_state", _TABLE, ["state", "taker"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table(_TABLE)
