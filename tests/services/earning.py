"""A purse whose owners have earned something, without workers that did the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.ids import Address, check_address
from tests.billing.ledger.work import TERMS, charge


def purse_of(*, background: bool = False, **options: Any) -> Purse:
    """A purse with some settings; without `home`, its chain and ledger are gone with it."""
    return Purse(settings().model_copy(update=options), background=background)


def owner(number: int) -> Address:
    """One of as many addresses as anybody wants."""
    return check_address(f"0x{number:040x}")


def earn(purse: Purse, name: str, wei: Mapping[Address, int]) -> None:
    """Post use of the local account that gives each owner so much, and the platform nothing."""
    ledger = purse.books.ledger
    ledger.hold(f"hold-{name}", "local", sum(wei.values()), request_id=name, terms=TERMS)
    charges = [
        charge(amount, request_id=name, owner=who, worker=f"worker-of-{who}", platform_bp=0)
        for who, amount in wei.items()
    ]
    ledger.settle(f"hold-{name}", charges, deployment="demo")
