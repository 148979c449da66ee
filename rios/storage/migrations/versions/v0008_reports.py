"""Reports: schedules, what is due, runs and their history."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "report_schedules",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("emails", sa.Text(), nullable=False),
        sa.Column("webhooks", sa.Text(), nullable=False),
        sa.Column("catch_up", sa.Boolean(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
        sa.Column("paused_at", Big, nullable=True),
        sa.Column("closed_at", Big, nullable=True),
        sa.Column("next_at", Big, nullable=False),
    )
    op.create_index("ix_report_schedules_owner", "report_schedules", ["owner"])
    op.create_index("ix_report_schedules_next_at", "report_schedules", ["next_at"])
    op.create_table(
        "report_runs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("identity", sa.Text(), nullable=False, unique=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("since_us", Big, nullable=False),
        sa.Column("until_us", Big, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", Big, nullable=False),
        sa.Column("not_before", Big, nullable=False),
        sa.Column("attempts", Big, nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("lease_until", Big, nullable=True),
        sa.Column("height", Big, nullable=True),
        sa.Column("head", sa.Text(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=True),
        sa.Column("version", Big, nullable=True),
    )
    op.create_index("ix_report_runs_state", "report_runs", ["state", "not_before"])
    op.create_table(
        "report_dues",
        sa.Column("schedule_id", sa.Text(), sa.ForeignKey("report_schedules.id"), primary_key=True),
        sa.Column("due_at", Big, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.Text(), sa.ForeignKey("report_runs.id"), nullable=False),
        sa.Column("told", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_report_dues_run_id", "report_dues", ["run_id"])
    op.create_table(
        "report_history",
        sa.Column("seq", Big, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.Text(), sa.ForeignKey("report_runs.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("attempt", Big, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", Big, nullable=False),
        sa.Column("ended_at", Big, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("height", Big, nullable=True),
        sa.Column("notebook", sa.Text(), nullable=False),
        sa.Column("version", Big, nullable=True),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("cpu_ns", Whole, nullable=False),
        sa.Column("cost_wei", Whole, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
    )
    op.create_index("ix_report_history_run_id", "report_history", ["run_id"])


def downgrade() -> None:
    """Drop all of it."""
    for table in ("report_history", "report_dues", "report_runs", "report_schedules"):
        op.drop_table(table)
