"""`rios certs`: the authority of a home, and the certificates of a network's members."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rios.gateway.certs import Certificates

DEFAULT_HOME = "~/.rios"
certs = typer.Typer(help="Certificates of a local authority.", no_args_is_help=True)
Home = Annotated[Path | None, typer.Option(help="What outlives the process; default RIOS_HOME, or ~/.rios.")]
Name = Annotated[str, typer.Argument(help="Whom the certificate is for, such as the name of the machine.")]


def chosen(
    home: Path, host: str, *, tls: bool, certificate: Path | None, key: Path | None, redirect: int | None
) -> Certificates | None:
    """The certificates of a gateway at `host`: those that are given, or with `tls` those of the home; None without.

    What is wrong with them is said before anything starts. Raises InvalidRequest.
    """
    from rios.gateway.certs import Certificates, init
    from rios.gateway.places import own_names
    from rios.words.errors import InvalidRequest

    if (certificate is None) != (key is None):
        raise InvalidRequest("--certificate and --key go together")
    if redirect is not None and not (tls or certificate):
        raise InvalidRequest("--redirect sends plain HTTP on to HTTPS: give --tls or --certificate too")
    if certificate is not None and key is not None:
        found = Certificates(certificate, key)
    elif tls:
        found = init(home, names=own_names(host))
    else:
        return None
    found.context()
    return found


@certs.command("init")
def init_certs(
    home: Home = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name or address that clients use; once for each.")
    ] = None,
) -> None:
    """Make a local authority and a certificate for the gateway; print what clients have to trust."""
    from rios.gateway.certs import init

    sys.stdout.write(f"{init(home_of(home), names=name or []).ca}\n")


@certs.command("worker")
def worker(name: Name, home: Home = None) -> None:
    """Make a member of the network; print the directory to copy to its machine, where `rios certs env` reads it."""
    from rios.dmoe.authority import Authority

    sys.stdout.write(f"{Authority.made(home_of(home) / 'certs').host(name).ca.parent}\n")


@certs.command("env")
def env(
    directory: Annotated[Path, typer.Argument(help="A member's directory, as it lies on this machine.")],
) -> None:
    """Print the environment of a machine that is secured by a member's directory, for `source` or a systemd unit."""
    from rios.dmoe.comms import environment
    from rios.words.config import settings

    directory = directory.resolve()
    found = environment(settings().model_copy(update={"tls": directory}))
    for variable, value in {"RIOS_TLS": str(directory), **found}.items():
        sys.stdout.write(f"{variable}={value}\n")


@certs.command("revoke")
def revoke(name: Name, home: Home = None) -> None:
    """Revoke every certificate of a name; hosts that a network with this authority reaches are told within seconds."""
    from rios.dmoe.authority import Authority

    count = Authority(home_of(home) / "certs").revoke(name)
    sys.stdout.write(f"{count} certificates of {name} are revoked now\n")


@certs.command("list")
def list_certs(home: Home = None) -> None:
    """Show every certificate that was made: serial number, end, state, name."""
    from rios.dmoe.authority import Authority

    for one in Authority(home_of(home) / "certs").issued():
        state = "revoked" if one.revoked else "good"
        sys.stdout.write(f"{one.serial:x}  {one.ends:%Y-%m-%d %H:%M}  {state:7}  {one.name}\n")


def home_of(home: Path | None) -> Path:
    """The home that a command means."""
    from rios.words.config import settings

    return (home or settings().home or Path(DEFAULT_HOME).expanduser()).resolve()
