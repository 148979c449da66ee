"""Asks the chain's node whether it is there, so that its outage and its return are known though nobody needs it."""

from __future__ import annotations

import logging

from rios.services.books import Books
from rios.services.looking import Looker
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

LOOK_S = 1.0
_END_S = 15.0  # a call of the node ends within less


class Watch(Looker):
    """Looks from `start` to `close`. A chain that nobody has asked for is not started."""

    def __init__(self, books: Books, *, look_s: float = LOOK_S) -> None:
        super().__init__(self._ask, name="rios-watch", look_s=look_s, end_s=_END_S)
        self._books = books

    def _ask(self) -> None:
        try:
            chain = self._books.started_chain
            if chain is None and self._books.chain_breaker.why is not None:
                chain = self._books.chain  # somebody asked for it, and it was not there
            if chain is not None:
                chain.block_number()
        except RiosError as error:  # the breaker has said so once
            log.debug("the chain is not there", extra={"reason": str(error)})
