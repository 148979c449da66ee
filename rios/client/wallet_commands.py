"""`rios wallet link`: an address of one's own for one's account at a gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rios.client.where import must_find


def add_to(wallet: typer.Typer) -> None:
    """Add it to `rios wallet`."""
    wallet.command()(link)


def link(
    address: Annotated[str, typer.Argument(help="Yours, whose deposits into the escrow are to be this account's.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Keystore file of the address, which signs then; without it, you are asked for a signature."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the deposits of an address counted as this account's at the gateway; the address has to sign for it."""
    with must_find().connect() as network:
        message = network.wallet.link_message(address)
        found = network.wallet.link(message, _asked(message) if key is None else _signed(message, key))
    sys.stdout.write((json.dumps({"address": found}) if as_json else f"deposits of {found} are yours") + "\n")


def _asked(message: str) -> str:
    typer.echo(f"Sign this with the wallet of the address (personal_sign, EIP-191):\n\n{message}\n", err=True)
    return str(typer.prompt("Signature", err=True))


def _signed(message: str, key: Path) -> bytes:
    from rios.billing.keystore import read_file

    word = typer.prompt(f"Passphrase of {key.name}", hide_input=True, err=True)
    return read_file(key, word).sign_message(message.encode())
