"""Bringing a database to the version of the tables that this rios knows, by Alembic, without any file of the user's."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from rios.storage.engine import MIGRATE_LOCK, Database, translated
from rios.words.errors import LedgerUnavailable

_VERSIONS = "alembic_version"


def latest() -> str:
    """The newest version that this rios knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def version(database: Database) -> str | None:
    """The version that a database has; None where it is empty."""
    with database.reading() as connection:
        return _version(connection)


def upgrade(database: Database, to: str = "head") -> None:
    """Make the tables in an empty database, or bring an older one up to version `to`, with what is in it.

    Several processes may do so at once: one does the work. Raises LedgerUnavailable for a newer or foreign database.
    """
    if version(database) == (latest() if to == "head" else to):
        return
    with translated(database.name), database.writing(lock=MIGRATE_LOCK) as connection:
        _check(connection, database.name)
        command.upgrade(_config(connection), to)


def downgrade(database: Database, to: str) -> None:
    """Bring a database back to the older version `to` ("base" for none): what the newer ones added is lost."""
    with translated(database.name), database.writing(lock=MIGRATE_LOCK) as connection:
        _check(connection, database.name)
        command.downgrade(_config(connection), to)


def _check(connection: Connection, name: str) -> None:
    found = _version(connection)
    if found is None:
        others = sorted(set(inspect(connection).get_table_names()) - {_VERSIONS})
        if others:
            raise LedgerUnavailable(
                f"{name} holds tables that are not of rios ({', '.join(others[:5])}); give the ledger an empty database"
            )
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found not in known:
        raise LedgerUnavailable(
            f"{name} is of version {found} and this rios knows versions up to {latest()}: use the rios that wrote it"
        )


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    # Alembic says each step at INFO, which is not for a notebook.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    # The path may hold a percent sign, which the configuration would take as the start of a variable.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
