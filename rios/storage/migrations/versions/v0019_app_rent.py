"""What volumes of a deployment have taken of a host, and the accounting period that they are in."""

import json

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the columns. Volumes that are there are as large as the wanted revision says, and paid for from now on."""
    op.add_column("app_places", sa.Column("sizes", sa.Text(), nullable=False, server_default=""))
    for name in ("period", "period_at"):
        op.add_column("app_places", sa.Column(name, Big, nullable=False, server_default="0"))
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            "SELECT p.app_id, p.host, v.specification FROM app_places p JOIN apps a ON a.id = p.app_id "
            "JOIN app_revisions v ON v.app_id = a.id AND v.number = a.revision "
            "WHERE p.volumes AND a.ended_at = 0"
        )
    ).all()
    for app_id, host, specification in found:
        volumes = json.loads(specification).get("volumes")
        if not volumes:
            continue
        sizes = json.dumps({path: volume["size"] for path, volume in volumes.items()}, sort_keys=True)
        wanted = sa.text("UPDATE app_places SET sizes = :sizes WHERE app_id = :app_id AND host = :host")
        connection.execute(wanted, {"sizes": sizes, "app_id": app_id, "host": host})


def downgrade() -> None:
    """Drop them."""
    for name in ("period_at", "period", "sizes"):
        op.drop_column("app_places", name)
