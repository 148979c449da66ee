"""`rios gateway`: one more gateway of a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rios.gateway.certs_commands import chosen, home_of
from rios.words.importing import uncollected


def gateway(
    scheduler: Annotated[str, typer.Option(help="The network's Dask scheduler, such as tcp://head:8786.")],
    database: Annotated[
        str | None, typer.Option(help="Accounts and ledger, such as postgresql://user@host/rios; else in the home.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="What its gateways share: limits and revocations. redis://host:6379/0")
    ] = None,
    broker: Annotated[str | None, typer.Option(help="RabbitMQ for domain events. amqp://user@host:5672/")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    home: Annotated[
        Path | None, typer.Option(help="The network's home, or one with its secrets.key alone; default RIOS_HOME.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="The directory whose folders may be deployed.")] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="TLS 1.3 at the door, by certificates of `rios certs` in the home.")
    ] = False,
    certificate: Annotated[Path | None, typer.Option(help="TLS 1.3, by this certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --certificate.")] = None,
    redirect: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With TLS: the port whose plain HTTP is sent on to HTTPS.")
    ] = None,
) -> None:
    """Start one more gateway of a network; print its URL and the first admin's token."""
    with uncollected():
        from rios.gateway.join import join
    from rios.gateway.settings import GatewaySettings

    def ready(url: str, token: str) -> None:
        sys.stdout.write(f"rios is at {url}\ntoken      {token}\n")
        sys.stdout.flush()

    place = home_of(home)
    found = chosen(place, host, tls=tls, certificate=certificate, key=key, redirect=redirect)
    given = {name: value for name, value in (("redis", redis), ("broker", broker)) if value is not None}
    join(
        scheduler=scheduler,
        home=place,
        host=host,
        port=port,
        database=database,
        models=models,
        settings=GatewaySettings().model_copy(update=given),
        ready=ready,
        certificates=found,
        redirect=redirect,
    )
