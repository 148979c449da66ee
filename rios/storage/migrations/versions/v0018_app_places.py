"""Where deployments have run, and where their volumes lie."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Make the table. Volumes lie where a deployment ran last; elsewhere there may be older ones."""
    op.create_table(
        "app_places",
        sa.Column("app_id", sa.Text(), sa.ForeignKey("apps.id"), primary_key=True),
        sa.Column("host", sa.Text(), primary_key=True),
        sa.Column("volumes", sa.Boolean(), nullable=False),
    )
    found = op.get_bind().execute(
        sa.text(
            "SELECT r.app_id, r.host, v.specification FROM app_replicas r JOIN apps a ON a.id = r.app_id "
            "JOIN app_revisions v ON v.app_id = a.id AND v.number = a.revision "
            "WHERE a.ended_at = 0 ORDER BY r.created_at, r.id"
        )
    )
    places, homes = dict[tuple[str, str], None](), dict[str, str]()
    for app_id, host, specification in found:
        said = json.loads(specification)
        if said.get("model") is None:
            places[app_id, host] = None
            if said.get("volumes"):
                homes[app_id] = host
    table = sa.table("app_places", sa.column("app_id"), sa.column("host"), sa.column("volumes", sa.Boolean()))
    rows = [{"app_id": app_id, "host": host, "volumes": homes.get(app_id) == host} for app_id, host in places]
    op.bulk_insert(table, rows)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("app_places")
