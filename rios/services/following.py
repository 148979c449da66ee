"""Follows the chain though nobody asks for money: deposits, withdrawals, claims and votes of others are seen."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rios.services.books import Books
from rios.services.looking import Looker
from rios.services.settlement import Settled, Settlement
from rios.words.errors import NetworkClosed, RiosError

log = logging.getLogger(__name__)

_END_S = 5.0  # closing waits no longer for what is under way: it is kept, and goes on later


class Follower(Looker):
    """Looks from `start` to `close` at a chain that was started, or a node that has the network's contracts.

    It sends again what a reorganisation took away, and settles at once where somebody asks the escrow for more than he
    has free: what he used is charged before the escrow's delay is over and it pays.
    """

    def __init__(
        self, books: Books, settlement: Settlement, settle: Callable[[], Settled | None], *, look_s: float
    ) -> None:
        """settle: closes an epoch. look_s: between two looks."""
        super().__init__(self.look, name="rios-follower", look_s=look_s, end_s=_END_S)
        self._books = books
        self._settlement = settlement
        self._settle = settle
        self._said = ""

    def look(self) -> None:
        """Look once. Whatever fails is tried again at the next look; the log says once what it was."""
        try:
            if self._books.followed_chain is not None and self._settlement.follow():
                self._settle()
            self._said = ""
        except NetworkClosed:
            return
        except Exception as error:
            if self._stop.is_set():  # what it needs was closed meanwhile
                return
            if isinstance(error, RiosError):
                self._say(str(error))
            else:
                log.exception("the chain could not be followed; it is tried again")

    def _say(self, reason: str) -> None:
        level = logging.DEBUG if reason == self._said else logging.WARNING
        log.log(level, "the chain could not be followed; it is tried again", extra={"reason": reason})
        self._said = reason
