"""The command that starts a network with its gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = "~/.rios"


def add_to(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command()(up)


def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen at; others reach it only at one of theirs.")] = (
        "127.0.0.1"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Workers to start.")] = 2,
    home: Annotated[Path | None, typer.Option(help="What outlives the process; default RIOS_HOME, or ~/.rios.")] = None,
    models: Annotated[
        Path | None, typer.Option(help="The directory whose folders may be deployed; 'demo' alone without.")
    ] = None,
) -> None:
    """Start a network on this machine with its gateway; print its URL and the first admin's token."""
    from rios.gateway.serve import up as start
    from rios.words.config import settings

    def ready(url: str, token: str) -> None:
        sys.stdout.write(f"rios is at {url}\ntoken      {token}\n")
        sys.stdout.flush()

    chosen = home or settings().home or Path(DEFAULT_HOME).expanduser()
    start(home=chosen.resolve(), host=host, port=port, workers=workers, models=models, ready=ready)
