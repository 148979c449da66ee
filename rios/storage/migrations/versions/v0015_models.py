"""The models that organisations want deployed become deployments as all others are."""

import hashlib
import json
import re
from typing import Any

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0015"
down_revision = "0014"

_NAME_MAX = 40
_OPTIONS = (
    ("replicas", "copies"), ("dtype", "dtype"), ("partial", "partial"), ("wire_dtype", "wire_dtype"),
    ("private", "private"),
)  # fmt: skip
_USUAL: dict[str, Any] = {
    "version": 1, "image": None, "rootfs": None, "python": None, "command": [], "workdir": None, "port": None,
    "env": {}, "volumes": {}, "replicas": {"min": 1, "max": 1}, "runtime": None, "egress": [], "health": None,
    "resources": {"cpu": 1.0, "memory": 512 << 20, "gpu": 0, "pids": 256, "files": 1024, "tmp": 64 << 20},
    "scale": {"on": "requests", "target": 10.0, "metric": None, "stabilise": 60.0, "idle": 300.0},
    "schedule": {"region": None, "objective": "both", "spread": True, "isolation": "process"},
    "update": {"strategy": "rolling", "surge": 1, "unavailable": 0, "weight": 10, "deadline": 300.0},
    "restart": "always", "grace": 10.0, "access": "platform", "user": 10001, "scratch": [], "budget": None,
    "secrets": {},
}  # fmt: skip
"""All else that the specification of a model said in this version."""
_WHOLE = (
    "revision", "round", "replicas", "replicas_min", "replicas_max", "reached", "failures", "retry_at", "since",
    "settled_revision", "good_revision", "asked_at", "created_at", "ended_at",
)  # fmt: skip
_TEXTS = ("id", "organisation_id", "user_id", "name", "state", "wish", "reason", "bound")
_apps = sa.table("apps", *map(sa.column, (*_TEXTS, *_WHOLE, "paid")))
_revisions = sa.table(
    "app_revisions", *map(sa.column, ("app_id", "number", "specification", "digest", "created_by", "created_at"))
)
_events = sa.table("app_events", *map(sa.column, ("seq", "app_id", "replica_id", "at", "kind", "state", "cause")))
_spend = sa.table(
    "app_spend", sa.column("app_id"), sa.column("amount_wei", Whole), sa.column("day"), sa.column("day_wei", Whole)
)
_deployments = sa.table(
    "deployments", *map(sa.column, ("id", "organisation_id", "name", "specification", "created_by", "created_at"))
)
_BESIDE = ("app_secrets", "app_spend", "app_loads", "app_images", "app_events", "app_replicas", "app_revisions")


def upgrade() -> None:
    """Move each to where deployments are; it is begun anew, as it was at each start."""
    connection = op.get_bind()
    seq = connection.scalar(sa.text("SELECT max(seq) FROM app_events")) or 0
    taken = {
        (one.organisation_id, one.name)
        for one in connection.execute(sa.select(_apps.c.organisation_id, _apps.c.name).where(_apps.c.ended_at == 0))
    }
    for place, row in enumerate(connection.execute(sa.select(_deployments).order_by(_deployments.c.created_at)).all()):
        name = _free(_slug(row.name), row.organisation_id, taken)
        at, said = row.created_at, json.loads(row.specification)
        given = {field: said.get(old) for old, field in _OPTIONS if said.get(old)}
        specification = {**_USUAL, "name": name, "model": said["checkpoint"], "served_name": row.name, **given}
        text = json.dumps(specification, sort_keys=True, separators=(",", ":"))
        connection.execute(
            sa.insert(_apps).values(
                id=row.id, organisation_id=row.organisation_id, user_id=row.created_by, name=name, state="requested",
                wish="run", reason="", revision=1, settled_revision=None, good_revision=None, round=0, replicas=1,
                replicas_min=1, replicas_max=1, reached=0, failures=0, retry_at=0, since=at, asked_at=at, paid=True,
                created_at=at, ended_at=0, bound="",
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(_revisions).values(
                app_id=row.id, number=1, specification=json.dumps(specification),
                digest=hashlib.sha256(text.encode()).hexdigest(), created_by=row.created_by, created_at=at,
            )
        )  # fmt: skip
        cause = f"{row.created_by} asked for it"
        connection.execute(
            sa.insert(_events).values(
                seq=seq + 1 + place, app_id=row.id, replica_id="", at=at, kind="state", state="requested", cause=cause
            )
        )
        connection.execute(sa.insert(_spend).values(app_id=row.id, amount_wei=0, day=0, day_wei=0))
    op.drop_table("deployments")


def downgrade() -> None:
    """Move those back that are known by a name of their own, of organisations that there are; the others stay."""
    op.create_table(
        "deployments",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("name", "specification", "created_by")],
        sa.Column("created_at", Big, nullable=False),
        sa.UniqueConstraint("organisation_id", "name"),
    )
    connection = op.get_bind()
    organisations = set(connection.scalars(sa.text("SELECT id FROM organisations")))
    same = (_revisions.c.app_id == _apps.c.id) & (_revisions.c.number == _apps.c.revision)
    living = (_apps.c.ended_at == 0, _apps.c.bound == "", _apps.c.wish != "delete")
    wanted = sa.select(_apps, _revisions.c.specification).join(_revisions, same).where(*living)
    known = set()
    for row in connection.execute(wanted.order_by(_apps.c.created_at)).all():
        said = json.loads(row.specification)
        name = said.get("served_name")
        if not said["model"] or not name or row.organisation_id not in organisations:
            continue
        if (row.organisation_id, name) in known:
            continue
        known.add((row.organisation_id, name))
        options = {old: said.get(field) for old, field in _OPTIONS}
        options |= {option: bool(options[option]) for option in ("partial", "private")}
        connection.execute(
            sa.insert(_deployments).values(
                id=row.id, organisation_id=row.organisation_id, name=name, created_by=row.user_id,
                specification=json.dumps({"checkpoint": said["model"], **options}), created_at=row.created_at,
            )
        )  # fmt: skip
        for table in _BESIDE:
            connection.execute(sa.text(f"DELETE FROM {table} WHERE app_id = :app"), {"app": row.id})  # noqa: S608
        connection.execute(sa.delete(_apps).where(_apps.c.id == row.id))


def _slug(name: str) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_NAME_MAX].rstrip("-")
    return found if found[:1].isalpha() else f"model-{found}"[:_NAME_MAX].rstrip("-")


def _free(name: str, organisation_id: str, taken: set[tuple[str, str]]) -> str:
    number, found = 1, name
    while (organisation_id, found) in taken:
        number += 1
        found = f"{name[: _NAME_MAX - len(str(number)) - 1].rstrip('-')}-{number}"
    taken.add((organisation_id, found))
    return found
