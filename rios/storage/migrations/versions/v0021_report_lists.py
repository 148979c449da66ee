"""Lists of reports and of their schedules are read in pages."""

from alembic import op

revision = "0021"
down_revision = "0020"
_INDEXES = (
    ("ix_report_runs_created", "report_runs", ("created_at", "id")),
    ("ix_report_runs_owner", "report_runs", ("owner", "created_at", "id")),
    ("ix_report_runs_subject", "report_runs", ("subject", "created_at", "id")),
    ("ix_report_schedules_created", "report_schedules", ("created_at", "id")),
)


def upgrade() -> None:
    """Make their indexes."""
    for name, table, columns in _INDEXES:
        op.create_index(name, table, list(columns))


def downgrade() -> None:
    """Drop them."""
    for name, table, _ in reversed(_INDEXES):
        op.drop_index(name, table)
