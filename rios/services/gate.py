"""All that stands behind a gateway: the network, the accounts and the tenants."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rios.services.accounts import Accounts
from rios.services.network import Network
from rios.services.tenancy import Tenancy

FILE = "gateway.json"
"""In a home: the URL of its gateway and the first admin's token, for commands on the same machine."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gateway serves. Close it before the network."""

    network: Network
    accounts: Accounts
    tenancy: Tenancy

    @classmethod
    def open(cls, network: Network, *, models: Path | None = None) -> Self:
        """models: the directory whose folders may be deployed."""
        accounts = Accounts(network._purse.books.ledger, home=network._settings.home)
        return cls(network, accounts, Tenancy(network, accounts.store, models=models))

    def close(self) -> None:
        """End what was begun here; the network goes on."""
        self.tenancy.close()


def first_token(accounts: Accounts, home: Path) -> str:
    """The first admin's token; the one that lies in the home while it is good."""
    return accounts.first_token(read_file(home).get("token"))


def read_file(home: Path) -> dict[str, str]:
    """URL and token of the gateway of a home; nothing where it never had one."""
    try:
        found = json.loads((home / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_file(home: Path, *, url: str, token: str) -> None:
    """Keep URL and token of the gateway of a home, for its owner alone."""
    new = home / f"{FILE}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)
    new.replace(home / FILE)
