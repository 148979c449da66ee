"""`rios backup` and `rios restore`: all that a network keeps, in one file, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path | None, typer.Option(help="The network's home; default RIOS_HOME, or ~/.rios.")]
Where = Annotated[
    str | None,
    typer.Option("--database", help="Such as postgresql://user@host/rios; else RIOS_DATABASE, or in the home."),
]


def add_to(app: typer.Typer) -> None:
    """Add both to the command line."""
    app.command()(backup)
    app.command()(restore)


def backup(file: Path, home: Home = None, database: Where = None) -> None:
    """Write all that a network keeps to FILE, while it runs. It holds keys: keep it where nobody else reads it."""
    from rios.services.backup import backup as write
    from rios.words.config import settings

    found = write(_home(home), file, database=database or settings().database)
    sys.stdout.write(f"{sum(found['rows'].values())} rows and {len(found['home'])} files of the home are in {file}\n")


def restore(file: Path, home: Home = None, database: Where = None) -> None:
    """Bring a network back from FILE, into an empty home and an empty database."""
    from rios.services.backup import restore as read
    from rios.words.config import settings

    place = _home(home)
    found = read(file, place, database=database or settings().database)
    sys.stdout.write(f"{sum(found['rows'].values())} rows and {len(found['home'])} files are back in {place}\n")


def _home(home: Path | None) -> Path:
    from rios.words.config import settings

    return home or settings().home or Path.home() / ".rios"
