"""`net.governance` of a network behind a gateway: votes over its price book, for admins of the network."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from rios.client.http import MONEY_S, Http
from rios.words.display import Shown

if TYPE_CHECKING:
    from rios.billing.books import PriceBook
    from rios.services.governance import Proposal


class RemoteGovernance(Shown):
    """Price books by vote, as `net.governance` of a local network. Raises NotAllowed to all but those admins."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<RemoteGovernance at {self._http.url}>"

    def propose(self, book: PriceBook) -> Proposal:
        """Put a price book to the vote of all who hold ROS. Its version must be the next one."""
        return self._of(book, "proposals")

    def vote(self, book: PriceBook, choice: str = "for") -> Proposal:
        """Vote with all that operator and wallet hold: "for", "against" or "abstain"."""
        return self._of(book, "votes", choice=choice)

    def execute(self, book: PriceBook) -> Proposal:
        """Publish a book that has won."""
        return self._of(book, "executions")

    def proposal(self, book: PriceBook) -> Proposal:
        """How the vote over a book stands. Raises TransactionFailed where it was never proposed."""
        return self._of(book, "proposals/state")

    def _of(self, book: PriceBook, path: str, **more: Any) -> Proposal:
        from rios.services.governance import Proposal

        body = {"book": book.to_dict(), **more}
        said = self._http.post(f"/v1/governance/{path}", body, key=secrets.token_hex(16), timeout=MONEY_S)
        return Proposal(
            said["id"], said["state"], int(said["for"]), int(said["against"]), int(said["abstain"]), book
        )  # fmt: skip
