"""`rios/storage/fresh.sql`, written anew: `python -m tests.storage.fresh > rios/storage/fresh.sql`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rios.storage import migrate
from rios.storage.engine import Database


def made(folder: Path) -> str:
    """What all steps leave in an empty database."""
    database = Database(f"sqlite:///{folder / 'steps.sqlite'}", timeout_s=60)
    try:
        migrate.upgrade(database, migrate.latest())
        with database.reading() as connection:
            return migrate.written(connection)
    finally:
        database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(made(Path(folder)))
