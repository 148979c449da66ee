"""Which image a revision of a deployment is, by digest: resolved once, when it is first started."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the table. Revisions of before are resolved when a replica of them is started next."""
    op.create_table(
        "app_images",
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), primary_key=True),
        sa.Column("revision", Big, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("resolved_at", Big, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("app_images")
