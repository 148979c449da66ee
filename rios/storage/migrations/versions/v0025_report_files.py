"""Where the files of published reports are, and which hosts of the network keep them."""

import json
import secrets

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0025"
down_revision = "0024"
_STREAM = 1_000


def upgrade() -> None:
    """Make the tables. What was published before is to be kept too."""
    op.create_table(
        "report_files",
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("size_bytes", Big, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("folder", "name", "seal_key", "digest")),
        sa.Column("uneven", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_report_files_uneven", "report_files", ["uneven", "sha256"])
    op.create_table(
        "report_places",
        sa.Column("sha256", sa.Text(), sa.ForeignKey("report_files.sha256"), primary_key=True),
        sa.Column("folder", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
    )
    op.create_table(
        "report_copies",
        sa.Column("sha256", sa.Text(), sa.ForeignKey("report_files.sha256"), primary_key=True),
        sa.Column("host", sa.Text(), primary_key=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_report_copies_host", "report_copies", ["host", "sha256"])
    _fill()


def _fill() -> None:
    past = sa.table("report_history", sa.column("seq"), sa.column("folder"), sa.column("files"))
    wanted = sa.select(past.c.folder, past.c.files).where(past.c.files != "{}").order_by(past.c.seq)
    found, others = dict[str, dict[str, object]](), set[tuple[str, str, str]]()
    for folder, files in op.get_bind().execute(wanted, execution_options={"yield_per": _STREAM}):
        for name, said in json.loads(files).items():
            new = {
                "sha256": said["sha256"], "size_bytes": said["bytes"], "folder": folder, "name": name,
                "seal_key": secrets.token_hex(32), "digest": "", "uneven": True,
            }  # fmt: skip
            first = found.setdefault(said["sha256"], new)
            if (first["folder"], first["name"]) != (folder, name):
                others.add((said["sha256"], folder, name))
    more = (sa.column("size_bytes", Big), sa.column("uneven", sa.Boolean()))
    table = sa.table("report_files", *map(sa.column, ("sha256", "folder", "name", "seal_key", "digest")), *more)
    op.bulk_insert(table, list(found.values()))
    columns = ("sha256", "folder", "name")
    places = sa.table("report_places", *map(sa.column, columns))
    op.bulk_insert(places, [dict(zip(columns, one, strict=True)) for one in sorted(others)])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("report_copies")
    op.drop_table("report_places")
    op.drop_table("report_files")
