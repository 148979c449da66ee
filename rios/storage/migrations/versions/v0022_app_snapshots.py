"""Snapshots of deployments' volumes, and the hosts that keep them."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "app_snapshots",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("organisation_id", "path", "state", "reason")),
        sa.Column("digest", sa.Text(), nullable=False),
        *(sa.Column(name, Big, nullable=False) for name in ("size_bytes", "quota_bytes", "copies")),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
    )
    op.create_index("ix_app_snapshots_app", "app_snapshots", ["app_id", "created_at", "id"])
    op.create_table(
        "app_snapshot_copies",
        sa.Column("snapshot_id", sa.Text(), sa.ForeignKey("app_snapshots.id"), primary_key=True),
        sa.Column("host", sa.Text(), primary_key=True),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("app_snapshot_copies")
    op.drop_index("ix_app_snapshots_app", "app_snapshots")
    op.drop_table("app_snapshots")
