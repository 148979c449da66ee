"""Organisations, people with their keys and sessions, the audit log, and the models that organisations want."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables, and keep the audit log from being changed."""
    op.create_table(
        "organisations",
        _text("id", key=True),
        _text("name", unique=True),
        sa.Column("operator", sa.Boolean(), nullable=False),
        _big("created_at"),
    )
    op.create_table(
        "people",
        _text("id", key=True),
        _reference("organisation_id", "organisations.id"),
        _text("login", unique=True),
        _text("name"),
        _text("role"),
        _text("password", null=True),
        _big("failures"),
        _big("locked_until"),
        _big("created_at"),
        _big("closed_at", null=True),
    )
    op.create_index("ix_people_organisation", "people", ["organisation_id", "id"])
    _tokens()
    op.create_table(
        "audit",
        _big("seq", key=True),
        _big("at"),
        _text("organisation_id"),
        _text("actor"),
        _text("action"),
        _text("object"),
        _text("detail"),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_audit_organisation", "audit", ["organisation_id", "seq"])
    op.create_table(
        "deployments",
        _text("id", key=True),
        _reference("organisation_id", "organisations.id"),
        _text("name"),
        _text("specification"),
        _text("created_by"),
        _big("created_at"),
        sa.UniqueConstraint("organisation_id", "name"),
    )
    _immutable()


def downgrade() -> None:
    """Drop all of it: nobody can sign in any more, and what was spent stays in the ledger."""
    for table in (
        "deployments",
        "audit",
        "refresh_tokens",
        "sessions",
        "api_keys",
        "people",
        "organisations",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION rios_audit_immutable()")


def _tokens() -> None:
    op.create_table(
        "api_keys",
        _text("id", key=True),
        _reference("user_id", "people.id"),
        _text("name"),
        _text("prefix"),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False, unique=True),
        _text("scopes"),
        _big("created_at"),
        _big("expires_at", null=True),
        _big("last_used_at", null=True),
        _big("revoked_at", null=True),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_table(
        "sessions",
        _text("id", key=True),
        _reference("user_id", "people.id"),
        _text("client"),
        _text("scopes"),
        _big("created_at"),
        _big("used_at"),
        _big("expires_at"),
        _big("revoked_at", null=True),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        sa.Column("fingerprint", sa.LargeBinary(), primary_key=True),
        _reference("session_id", "sessions.id"),
        _big("issued_at"),
        _big("used_at", null=True),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])


def _immutable() -> None:
    """What was done stays written: the database itself refuses to change it."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION rios_audit_immutable() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is never changed'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_immutable BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION rios_audit_immutable()"
    )


def _text(name: str, *, null: bool = False, key: bool = False, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null, primary_key=key, unique=unique or None)


def _big(name: str, *, null: bool = False, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, Big, nullable=null, primary_key=key, autoincrement=False)


def _reference(name: str, column: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), sa.ForeignKey(column), nullable=False)
