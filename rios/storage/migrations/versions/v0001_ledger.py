"""Accounts, transfers, holds, usage, budgets, price books, outbox, refunds and invoices."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and keep the entries from being changed."""
    _accounts()
    _holds()
    _usage()
    _budgets()
    _documents()
    _immutable()


def downgrade() -> None:
    """Drop all of it, with what is in it."""
    for table in [
        "invoices",
        "credit_notes",
        "outbox",
        "price_books",
        "alerts",
        "spending",
        "budgets",
        "usage",
        "hold_steps",
        "holds",
        "users",
        "transfers",
        "accounts",
    ]:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION rios_immutable()")


def _text(name: str, *, null: bool = False, key: bool = False, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null, primary_key=key, unique=unique or None)


def _big(name: str, *, null: bool = False, key: bool = False, unique: bool = False) -> sa.Column[int]:
    return sa.Column(name, Big, nullable=null, primary_key=key, autoincrement=False, unique=unique or None)


def _whole(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, Whole(), nullable=null)


def _accounts() -> None:
    floor = sa.CheckConstraint("floor_wei IS NULL OR balance_wei >= floor_wei", name="above_floor")
    op.create_table(
        "accounts",
        _big("id", key=True),
        _text("name", unique=True),
        _text("kind"),
        _whole("floor_wei", null=True),
        _whole("balance_wei"),
        *([floor] if op.get_bind().dialect.name == "postgresql" else []),
    )
    op.create_index("ix_accounts_kind", "accounts", ["kind"])
    op.create_table(
        "transfers",
        _big("seq", key=True),
        _text("id", unique=True),
        sa.Column("debit_id", Big, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("credit_id", Big, sa.ForeignKey("accounts.id"), nullable=False),
        _whole("amount_wei"),
        _text("kind"),
        _text("reference"),
        _big("at"),
        _text("payload", null=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_transfers_debit", "transfers", ["debit_id", "seq"])
    op.create_index("ix_transfers_credit", "transfers", ["credit_id", "seq"])
    op.create_table(
        "users",
        _text("id", key=True),
        _text("address", null=True, unique=True),
        _whole("full_wei"),
        _big("fillings"),
        _whole("least_wei"),
        _whole("unsettled_wei"),
        _whole("unsettled_trial_wei"),
    )


def _holds() -> None:
    op.create_table(
        "holds",
        _text("id", key=True),
        _text("user_id"),
        _text("request_id"),
        *(_whole(f"{name}_wei") for name in ("amount", "trial", "posted", "trial_posted", "released")),
        _text("state"),
        _text("price_book"),
        _text("terms"),
        _big("created_at"),
        _big("expires_at"),
        _big("grace_until", null=True),
    )
    op.create_index("ix_holds_state", "holds", ["state", "expires_at"])
    op.create_index("ix_holds_user", "holds", ["user_id", "created_at"])
    op.create_table(
        "hold_steps",
        sa.Column("hold_id", sa.Text(), sa.ForeignKey("holds.id"), primary_key=True),
        _big("step", key=True),
        _whole("amount_wei"),
        _whole("trial_wei"),
        _big("at"),
    )


def _usage() -> None:
    op.create_table(
        "usage",
        _text("id", key=True),
        sa.Column("hold_id", sa.Text(), sa.ForeignKey("holds.id"), nullable=False),
        _big("step"),
        *(_text(name) for name in ("request_id", "user_id", "model", "deployment", "worker", "owner")),
        _text("resource"),
        _text("device_class"),
        _big("ask_bp"),
        _text("line"),
        _whole("quantity"),
        *(_text(name) for name in ("unit", "units", "price")),
        *(_whole(f"{name}_wei") for name in ("amount", "worker", "platform", "trial", "refunded")),
        _big("rows"),
        _whole("measured_ns"),
        _big("events"),
        _text("events_digest"),
        _big("at"),
        _text("price_book"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _big("epoch", null=True),
    )
    for name, columns in (
        ("hold_id", ["hold_id"]),
        ("request_id", ["request_id"]),
        ("epoch", ["epoch"]),
        ("user", ["user_id", "at"]),
        ("at", ["at"]),
    ):
        op.create_index(f"ix_usage_{name}", "usage", columns)


def _budgets() -> None:
    op.create_table(
        "budgets",
        _text("user_id", key=True),
        _text("period", key=True),
        _whole("limit_wei"),
        _text("alerts"),
        sa.Column("hard", sa.Boolean(), nullable=False),
        _big("set_at"),
    )
    op.create_table(
        "spending",
        _text("user_id", key=True),
        _text("period", key=True),
        _big("start", key=True),
        _whole("spent_wei"),
        _whole("most_wei"),
    )
    op.create_table("alerts", _text("key", key=True), _big("at"))


def _documents() -> None:
    op.create_table(
        "price_books",
        _text("digest", key=True),
        _big("version"),
        _big("effective_from_s"),
        sa.Column("published", sa.Boolean(), nullable=False),
        _text("document"),
    )
    op.create_table(
        "outbox",
        _big("id", key=True),
        _text("topic"),
        _text("key", unique=True),
        _text("payload"),
        _big("created_at"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _big("next_attempt_at"),
        _big("delivered_at", null=True),
        _text("error", null=True),
    )
    op.create_index("ix_outbox_due", "outbox", ["delivered_at", "next_attempt_at"])
    op.create_table(
        "credit_notes",
        _text("id", key=True),
        _big("number", unique=True),
        sa.Column("usage_id", sa.Text(), sa.ForeignKey("usage.id"), nullable=False),
        _text("user_id"),
        *(
            _whole(f"{name}_wei")
            for name in ("amount", "trial", "from_worker", "from_platform", "worker_owes", "platform_owes")
        ),
        _big("epoch", null=True),
        _text("reason"),
        _big("at"),
    )
    for name in ("usage_id", "user_id"):
        op.create_index(f"ix_credit_notes_{name}", "credit_notes", [name])
    op.create_table(
        "invoices",
        _big("number", key=True),
        _text("user_id"),
        _text("period"),
        _text("document"),
        _text("digest"),
        _big("created_at"),
        sa.UniqueConstraint("user_id", "period"),
    )


def _immutable() -> None:
    """Entries are reversed by new ones, never changed: the database itself refuses that."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER transfers_no_{verb.lower()} BEFORE {verb} ON transfers "
                "BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never changed'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION rios_immutable() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'entries of the ledger are never changed'; END $$"
    )
    op.execute(
        "CREATE TRIGGER transfers_immutable BEFORE UPDATE OR DELETE ON transfers "
        "FOR EACH STATEMENT EXECUTE FUNCTION rios_immutable()"
    )
