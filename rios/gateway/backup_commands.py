"""`rios backup` and `rios restore`: all that a network keeps, in one file, and back."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
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


def backup(
    file: Annotated[Path, typer.Argument(help="A new file; or a folder, for one that is called after the moment.")],
    home: Home = None,
    database: Where = None,
    keep: Annotated[int, typer.Option(min=0, help="So many of the newest in that folder alone; all without.")] = 0,
) -> None:
    """Write all that a network keeps to FILE, while it runs. It holds keys: keep it where nobody else reads it."""
    from rios.services.backup import backup as write
    from rios.services.backup import clear_cut_off, keep_newest, named_now
    from rios.words.config import settings

    folder = file if file.is_dir() else None
    if folder is not None:
        clear_cut_off(folder)  # before: it may be what has filled the disk
        file = named_now(folder)
    with _ending_in_order():
        found = write(_home(home), file, database=database or settings().database)
    sys.stdout.write(f"{sum(found['rows'].values())} rows and {len(found['home'])} files of the home are in {file}\n")
    if folder is not None and keep:
        keep_newest(folder, keep)


def restore(file: Path, home: Home = None, database: Where = None) -> None:
    """Bring a network back from FILE, into an empty home and an empty database."""
    from rios.services.backup import restore as read
    from rios.words.config import settings

    place = _home(home)
    found = read(file, place, database=database or settings().database)
    sys.stdout.write(f"{sum(found['rows'].values())} rows and {len(found['home'])} files are back in {place}\n")


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM, as of a timer that waits no longer, ends the process by an exception: drafts, with keys, are removed."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _home(home: Path | None) -> Path:
    from rios.words.config import settings

    return home or settings().home or Path.home() / ".rios"
