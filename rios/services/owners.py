"""Who is paid for the work of a host: the address that its worker announces, else the owner of the local wallet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rios.words.errors import InvalidRequest
from rios.words.ids import Address, check_address

log = logging.getLogger(__name__)


Announced = Mapping[str, tuple[object, Mapping[str, Any]]]
"""By the name of a host, as `Membership.hosts` has it: how to reach it, and what its worker says."""


class Owners:
    """Owners by host. A host whose worker has gone and that still serves keeps the owner that was announced last."""

    def __init__(self, hosts: Callable[[], Announced], *, wallet: Callable[[], Address]) -> None:
        """hosts: those that are announced now. wallet: the address of the local wallet."""
        self._hosts = hosts
        self._wallet = wallet
        self._known: dict[str, tuple[object, Address | None]] = {}

    def __repr__(self) -> str:
        return f"<Owners of {len(self._known)} hosts>"

    def learn(self) -> None:
        """Remember what is announced now."""
        for name, (_, said) in self._hosts().items():
            self._take(name, said.get("owner"))

    def __call__(self, name: str) -> Address:
        """The address that is paid for what the host called `name` does."""
        found = self._hosts().get(name)
        if found is not None:
            self._take(name, found[1].get("owner"))
        return self._known.get(name, (None, None))[1] or self._wallet()

    def _take(self, name: str, announced: object) -> None:
        if name not in self._known or self._known[name][0] != announced:
            self._known[name] = (announced, _checked(name, announced))


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
