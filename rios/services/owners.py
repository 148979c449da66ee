"""Who is paid for the work of a host, and what it asks: as its worker announces.

Without a word of it the owner of the local wallet is paid, at the price book's prices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rios.billing.split import BASIS_POINTS
from rios.words.errors import InvalidRequest
from rios.words.ids import Address, check_address

log = logging.getLogger(__name__)

_ASK_MAX_BP = 100 * BASIS_POINTS  # no price book allows more

Announced = Mapping[str, tuple[object, Mapping[str, Any]]]
"""By the name of a host, as `Membership.hosts` has it: how to reach it, and what its worker says."""


class Owners:
    """Owners by host. A host whose worker has gone and that still serves keeps the owner that was announced last."""

    def __init__(
        self,
        hosts: Callable[[], Announced],
        *,
        wallet: Callable[[], Address],
        before: Callable[[str], Address | None] = lambda _: None,
    ) -> None:
        """hosts: those that are announced now. wallet: the address of the local wallet.

        before: who was paid last for a host, as the ledger has it; None where nobody was.
        """
        self._hosts = hosts
        self._wallet = wallet
        self._paid_before = before
        self._before: dict[str, Address | None] = {}
        self._known: dict[str, tuple[object, Address | None]] = {}
        self._asks: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Owners of {len(self._known)} hosts>"

    def learn(self) -> None:
        """Remember what is announced now."""
        for name, (_, said) in self._hosts().items():
            self._take(name, said)

    def __call__(self, name: str) -> Address:
        """The address that is paid for what the host called `name` does."""
        self._look(name)
        return self._known.get(name, (None, None))[1] or self._wallet()

    def lasting(self, name: str) -> Address:
        """The same where this process may have begun after a host was lost, for which something is still owed.

        Of one that was not announced since, whoever was paid for it last. Raises LedgerUnavailable.
        """
        self._look(name)
        if name in self._known:
            return self(name)
        if name not in self._before:
            self._before[name] = self._paid_before(name)
        return self._before[name] or self._wallet()

    def ask_bp(self, name: str) -> int:
        """What the host called `name` asks, in basis points of the price book's prices."""
        self._look(name)
        return self._asks.get(name, BASIS_POINTS)

    def _look(self, name: str) -> None:
        found = self._hosts().get(name)
        if found is not None:
            self._take(name, found[1])

    def _take(self, name: str, said: Mapping[str, Any]) -> None:
        announced, ask = said.get("owner"), said.get("ask_bp")
        if name not in self._known or self._known[name][0] != announced:
            self._known[name] = (announced, _checked(name, announced))
        # Of any other word the book's price is taken: who announces nonsense earns nothing by it. What a book allows
        # is looked at where terms are made.
        self._asks[name] = ask if type(ask) is int and 0 <= ask <= _ASK_MAX_BP else BASIS_POINTS


def _checked(name: str, said: object) -> Address | None:
    """The address that was announced; None without one, or for one that nobody can be paid by.

    A worker that announces nonsense must not keep others from being asked, so it is not an error.
    """
    if not said:
        return None
    try:
        owner = check_address(said, name=f"the owner of {name}")
    except InvalidRequest as error:
        log.warning("a worker has no valid owner: the local wallet is paid", extra={"host": name, "reason": str(error)})
        return None
    if int(owner, 16) == 0:
        log.warning("a worker announces the zero address: the local wallet is paid", extra={"host": name})
        return None
    return owner
