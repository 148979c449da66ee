"""All that stands behind a gateway: the network, the accounts and the tenants."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rios.services.accounts import Accounts
from rios.services.gate_file import read_file
from rios.services.network import Network
from rios.services.once import Once
from rios.services.tenancy import Tenancy
from rios.services.tenant_money import TenantMoney


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gateway serves. Close it before the network."""

    network: Network
    accounts: Accounts
    tenancy: Tenancy
    once: Once = field(init=False)
    """What is done once for each Idempotency-Key."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "once", Once(self.tenancy.ledger))

    @classmethod
    def open(cls, network: Network, *, models: Path | None = None) -> Self:
        """models: the directory whose folders may be deployed."""
        accounts = Accounts(network._purse.books.ledger, home=network._settings.home)
        return cls(network, accounts, Tenancy(network, accounts.store, models=models))

    @property
    def money(self) -> TenantMoney:
        """What users may do with money."""
        return TenantMoney(self.network._purse, self.accounts.store)

    def close(self) -> None:
        """End what was begun here; the network goes on."""
        self.once.close()


def first_token(accounts: Accounts, home: Path) -> str:
    """The first admin's token; the one that lies in the home while it is good."""
    return accounts.first_token(read_file(home).get("token"))
