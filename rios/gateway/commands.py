"""The command that starts a network with its gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = "~/.rios"
certs = typer.Typer(help="Certificates of a local authority.", no_args_is_help=True)
Home = Annotated[Path | None, typer.Option(help="What outlives the process; default RIOS_HOME, or ~/.rios.")]


def add_to(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command()(up)
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
    tls: Annotated[bool, typer.Option("--tls", help="TLS 1.3, by certificates of `rios certs init`.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="TLS 1.3, by this certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --certificate.")] = None,
) -> None:
    """Start a network on this machine with its gateway; print its URL and the first admin's token."""
    from rios.gateway.certs import Certificates, init
    from rios.gateway.serve import up as start
    from rios.words.errors import InvalidRequest

    def ready(url: str, token: str) -> None:
        sys.stdout.write(f"rios is at {url}\ntoken      {token}\n")
        sys.stdout.flush()

    if (certificate is None) != (key is None):
        raise InvalidRequest("--certificate and --key go together")
    chosen, found = _home(home), None
    if certificate is not None and key is not None:
        found = Certificates(certificate, key)
    elif tls:
        found = init(chosen, names=[host])
    if found is not None:
        found.context()  # what is wrong with them is said before anything starts
    start(home=chosen, host=host, port=port, workers=workers, models=models, ready=ready, certificates=found)


@certs.command("init")
def init_certs(
    home: Home = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name or address that clients use; once for each.")
    ] = None,
) -> None:
    """Make a local authority and a certificate for the gateway; print what clients have to trust."""
    from rios.gateway.certs import init

    sys.stdout.write(f"{init(_home(home), names=name or []).ca}\n")


def _home(home: Path | None) -> Path:
    from rios.words.config import settings

    return (home or settings().home or Path(DEFAULT_HOME).expanduser()).resolve()
