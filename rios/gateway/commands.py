"""The command that starts a network with its gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rios.gateway.certs_commands import certs, chosen, home_of
from rios.gateway.join_command import gateway
from rios.words.importing import uncollected


def add_to(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command()(up)
    app.command()(gateway)
    app.add_typer(certs, name="certs")


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
    tls: Annotated[
        bool, typer.Option("--tls", help="TLS 1.3 at the door and between workers, by certificates of `rios certs`.")
    ] = False,
    certificate: Annotated[Path | None, typer.Option(help="TLS 1.3, by this certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --certificate.")] = None,
    redirect: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With TLS: the port whose plain HTTP is sent on to HTTPS.")
    ] = None,
) -> None:
    """Start a network on this machine with its gateway; print its URL, the first admin's token, and its scheduler."""
    with uncollected():
        from rios.gateway.serve import up as start

    def ready(url: str, token: str, scheduler: str) -> None:
        sys.stdout.write(f"rios is at {url}\ntoken      {token}\nscheduler  {scheduler}\n")
        sys.stdout.flush()

    place = home_of(home)
    found = chosen(place, host, tls=tls, certificate=certificate, key=key, redirect=redirect)
    start(
        home=place,
        host=host,
        port=port,
        workers=workers,
        models=models,
        ready=ready,
        certificates=found,
        secured=tls,
        redirect=redirect,
    )
