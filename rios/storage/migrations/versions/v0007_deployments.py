"""Deployments: applications and models with a life cycle."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0007"
down_revision = "0006"
_BESIDE = ("app_secrets", "app_spend", "leases", "app_loads")


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _whole(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, Big, nullable=False) for name in names]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "apps",
        sa.Column("id", sa.Text(), primary_key=True),
        *_text("organisation_id", "user_id", "name", "state", "wish", "reason"),
        *_whole("revision"),
        sa.Column("settled_revision", Big, nullable=True),
        sa.Column("good_revision", Big, nullable=True),
        *_whole("round", "replicas", "replicas_min", "replicas_max", "reached", "failures", "retry_at", "since"),
        *_whole("asked_at"),
        sa.Column("paid", sa.Boolean(), nullable=False),
        *_whole("created_at", "ended_at"),
        sa.UniqueConstraint("organisation_id", "name", "ended_at"),
    )
    op.create_index("ix_apps_ended_at", "apps", ["ended_at"])
    op.create_table(
        "app_revisions",
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), primary_key=True),
        sa.Column("number", Big, primary_key=True, autoincrement=False),
        *_text("specification", "digest", "created_by"),
        *_whole("created_at"),
    )
    op.create_table(
        "app_replicas",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), nullable=False),
        *_whole("revision", "round"),
        *_text("host", "state", "outcome", "address"),
        *_whole("created_at", "started_at", "ready_at", "ended_at", "period", "period_at"),
        *_text("metered"),
    )
    op.create_index("ix_app_replicas_app", "app_replicas", ["app_id", "ended_at"])
    op.create_index("ix_app_replicas_ended", "app_replicas", ["ended_at"])
    op.create_table(
        "app_events",
        sa.Column("seq", Big, primary_key=True, autoincrement=False),
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), nullable=False),
        *_text("replica_id"),
        *_whole("at"),
        *_text("kind", "state", "cause"),
    )
    op.create_index("ix_app_events_app", "app_events", ["app_id", "seq"])
    op.create_table(
        "app_loads",
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), primary_key=True),
        sa.Column("router", sa.Text(), primary_key=True),
        *_whole("at", "requests", "running", "waiting"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), primary_key=True),
        *_text("holder"),
        *_whole("term", "until"),
    )
    op.create_table(
        "app_spend",
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), primary_key=True),
        sa.Column("amount_wei", Whole, nullable=False),
    )
    op.create_table(
        "app_secrets",
        *[sa.Column(name, sa.Text(), primary_key=True) for name in ("organisation_id", "app_id", "name")],
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        *_whole("changed_at"),
    )


def downgrade() -> None:
    """Drop all of it."""
    for table in (*_BESIDE, "app_events", "app_replicas", "app_revisions", "apps"):
        op.drop_table(table)
