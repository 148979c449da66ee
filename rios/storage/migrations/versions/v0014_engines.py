"""Deployments of models that are bound to an engine, and what engines say of themselves and of their models."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
_COLUMNS = (("apps", "bound"), ("app_replicas", "said"), ("app_replicas", "error"))


def upgrade() -> None:
    """Add the columns. Nothing was bound before."""
    for table, column in _COLUMNS:
        op.add_column(table, sa.Column(column, sa.Text(), nullable=False, server_default=""))
    op.add_column("leases", sa.Column("takes", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """End what is bound, which nobody would end any more, and drop the columns."""
    op.execute("UPDATE apps SET wish = 'delete', state = 'stopping' WHERE bound <> '' AND ended_at = 0")
    op.execute("DELETE FROM leases WHERE name LIKE 'engine-%'")
    op.drop_column("leases", "takes")
    for table, column in reversed(_COLUMNS):
        op.drop_column(table, column)
