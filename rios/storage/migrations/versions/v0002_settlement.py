"""Epochs with their leaves and charges, how far the chain has been followed, and what is to be done on it."""

import sqlalchemy as sa
from alembic import op

from rios.storage.types import Big, Whole

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "epochs",
        _big("number", key=True),
        _text("state"),
        _text("root"),
        sa.Column("total_wei", Whole(), nullable=False),
        _big("head_seq"),
        sa.Column("head_hash", sa.LargeBinary(), nullable=False),
        _big("closed_at"),
        _text("tx", null=True),
    )
    op.create_table(
        "epoch_leaves",
        sa.Column("epoch", Big, sa.ForeignKey("epochs.number"), primary_key=True, autoincrement=False),
        _text("address", key=True),
        sa.Column("cumulative_wei", Whole(), nullable=False),
    )
    op.create_table(
        "epoch_charges",
        sa.Column("epoch", Big, sa.ForeignKey("epochs.number"), primary_key=True, autoincrement=False),
        _text("user_id", key=True),
        sa.Column("amount_wei", Whole(), nullable=False),
        sa.Column("trial_wei", Whole(), nullable=False),
    )
    op.create_table("chain_cursor", _text("name", key=True), _big("block"), _text("block_hash"))
    op.create_table(
        "chain_events",
        _text("tx_hash", key=True),
        _big("log_index", key=True),
        _big("block"),
        _text("block_hash"),
        _text("name"),
        _text("args"),
        _big("applied"),
        _big("times"),
    )
    op.create_index("ix_chain_events_block", "chain_events", ["block"])
    op.create_table(
        "chain_intents",
        _text("key", key=True),
        sa.Column("seq", Big, nullable=False, unique=True, autoincrement=False),
        _big("chain_id"),
        _text("sender"),
        _big("nonce", null=True),
        _text("state"),
        _big("version"),
        _text("document"),
        sa.UniqueConstraint("chain_id", "sender", "nonce"),
    )
    op.create_index("ix_chain_intents_state", "chain_intents", ["chain_id", "sender", "state"])


def downgrade() -> None:
    """Drop the tables; usage that was in a closed epoch is in none again."""
    for table in ("chain_intents", "chain_events", "chain_cursor", "epoch_charges", "epoch_leaves", "epochs"):
        op.drop_table(table)
    op.execute("UPDATE usage SET epoch = NULL")


def _text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null, primary_key=key)


def _big(name: str, *, null: bool = False, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, Big, nullable=null, primary_key=key, autoincrement=False)
