"""Whoever looks after volumes and snapshots finds those about which something is to be done, without reading all."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
_COUNTED = (
    "UPDATE app_snapshots SET uneven = "
    "(SELECT count(*) FROM app_snapshot_copies c WHERE c.snapshot_id = app_snapshots.id) <> copies"
)
_PAID = (
    "UPDATE app_snapshot_copies SET paid = EXISTS ("
    "SELECT 1 FROM app_places p JOIN app_snapshots s ON s.app_id = p.app_id "
    "WHERE s.id = app_snapshot_copies.snapshot_id AND p.host = app_snapshot_copies.host "
    "AND p.sizes LIKE '%\"snapshots\"%')"
)
_ENDED = "UPDATE app_places SET ended = (1 = 1) WHERE app_id IN (SELECT id FROM apps WHERE ended_at > 0)"
_PARTIAL = (
    ("ix_app_places_host", "host", "volumes = 0", "NOT volumes"),
    ("ix_app_places_ended", "host", "ended = 1", "ended"),
    ("ix_app_places_due", "period_at", "sizes != ''", "sizes <> ''"),
)
"""Indexes of places: their column, and of which rows they are on SQLite and on PostgreSQL."""


def upgrade() -> None:
    """Note it beside them, with indexes."""
    op.add_column("app_snapshots", sa.Column("uneven", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("app_snapshot_copies", sa.Column("paid", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("app_places", sa.Column("ended", sa.Boolean(), nullable=False, server_default=sa.false()))
    for statement in (_COUNTED, _PAID, _ENDED):
        op.execute(statement)
    op.create_index("ix_app_snapshots_state", "app_snapshots", ["state", "uneven"])
    op.create_index("ix_app_snapshot_copies_host", "app_snapshot_copies", ["paid", "host"])
    for name, column, sqlite, postgres in _PARTIAL:
        op.create_index(name, "app_places", [column], sqlite_where=sa.text(sqlite), postgresql_where=sa.text(postgres))


def downgrade() -> None:
    """As it was."""
    for name, *_ in reversed(_PARTIAL):
        op.drop_index(name, "app_places")
    op.drop_index("ix_app_snapshot_copies_host", "app_snapshot_copies")
    op.drop_index("ix_app_snapshots_state", "app_snapshots")
    op.drop_column("app_places", "ended")
    op.drop_column("app_snapshot_copies", "paid")
    op.drop_column("app_snapshots", "uneven")
