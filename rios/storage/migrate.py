"""Bringing a database to the version of the tables that this rios knows, by Alembic, without any file of the user's.

Alembic takes half a second to import and its steps another fifth, so it is asked only where there is something to bring
on: a new SQLite database is made of `fresh.sql`, which is what the steps leave in an empty one.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from rios.storage.engine import MIGRATE_LOCK, Database, translated
from rios.words.errors import LedgerUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

_VERSIONS = "alembic_version"
_HERE = Path(__file__).parent
FRESH = _HERE / "fresh.sql"


@lru_cache
def latest() -> str:
    """The newest version that this rios knows."""
    return max(step.name[1:5] for step in (_HERE / "migrations" / "versions").glob("v*.py"))


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
        if to == "head" and database.is_sqlite and not inspect(connection).get_table_names():
            for statement in FRESH.read_text().split("\n\n"):
                connection.exec_driver_sql(statement)
            return
        _check(connection, database.name)

        from alembic import command

        command.upgrade(_config(connection), to)


def written(connection: Connection) -> str:
    """What `fresh.sql` is to be, from a SQLite database that the steps have made: its tables, and its version."""
    made = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")).scalars()
    version = f"INSERT INTO alembic_version VALUES ('{_version(connection)}')"  # noqa: S608  a version of its own
    return "\n\n".join([*(re.sub(r"\n\s*\n", "\n", one.strip()) for one in made), version]) + "\n"


def downgrade(database: Database, to: str) -> None:
    """Bring a database back to the older version `to` ("base" for none): what the newer ones added is lost."""
    from alembic import command

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

    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found not in known:
        raise LedgerUnavailable(
            f"{name} is of version {found} and this rios knows versions up to {latest()}: use the rios that wrote it"
        )


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSIONS):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    # Alembic says each step at INFO, which is not for a notebook.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    # The path may hold a percent sign, which the configuration would take as the start of a variable.
    config.set_main_option("script_location", str(_HERE / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
