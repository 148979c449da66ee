"""What accounts used in each month, which discounts they have, and what those took off each use."""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0020"
down_revision = "0019"
_STREAM = 5_000


def upgrade() -> None:
    """Make the tables. What was used before counts in its month; nothing had a discount."""
    op.create_table(
        "discounts",
        sa.Column("subject", sa.Text(), primary_key=True),
        sa.Column("since", Big, primary_key=True, autoincrement=False),
        sa.Column("until", Big, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("granted_at", Big, nullable=False),
    )
    op.create_table(
        "volumes",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("start", Big, primary_key=True, autoincrement=False),
        sa.Column("quantities", sa.Text(), nullable=False),
    )
    op.add_column("usage", sa.Column("discount", sa.Text(), nullable=True))
    op.add_column("usage", sa.Column("discount_wei", Whole, nullable=False, server_default="0"))
    _count()


def _count() -> None:
    usage = sa.table(
        "usage", sa.column("user_id"), sa.column("at", Big), sa.column("line"), sa.column("quantity", Whole)
    )
    wanted = sa.select(usage.c.user_id, usage.c.at, usage.c.line, usage.c.quantity).where(usage.c.line != "minimum")
    found: dict[tuple[str, int], dict[str, int]] = {}
    months: dict[int, int] = {}
    for user, at, line, quantity in op.get_bind().execute(wanted, execution_options={"yield_per": _STREAM}):
        day = at // (86_400 * 10**6)
        if day not in months:
            first = datetime.fromtimestamp(day * 86_400, UTC).replace(day=1)
            months[day] = int(first.timestamp()) * 10**6
        used = found.setdefault((user, months[day]), {})
        used[line] = used.get(line, 0) + quantity
    volumes = sa.table("volumes", sa.column("user_id"), sa.column("start", Big), sa.column("quantities"))
    rows = [
        {"user_id": user, "start": start, "quantities": json.dumps({line: str(n) for line, n in sorted(used.items())})}
        for (user, start), used in found.items()
    ]
    op.bulk_insert(volumes, rows)


def downgrade() -> None:
    """Drop them."""
    for column in ("discount_wei", "discount"):
        op.drop_column("usage", column)
    op.drop_table("volumes")
    op.drop_table("discounts")
