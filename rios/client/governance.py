"""`net.governance` of a network behind a gateway: votes over price book and parameters, for admins of the network."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from rios.billing.books import PriceBook
from rios.client import reading
from rios.client.http import MONEY_S, Http
from rios.words.display import Shown

if TYPE_CHECKING:
    from rios.billing.parameters import Change, Setting
    from rios.services.governance import Proposal


class RemoteGovernance(Shown):
    """Price books and parameters by vote, as `net.governance` of a local network. For admins of the network alone."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<RemoteGovernance at {self._http.url}>"

    def propose(self, what: PriceBook | Change) -> Proposal:
        """Put a price book, whose version must be the next one, or a parameter to the vote of all who hold ROS."""
        return self._of(what, "proposals")

    def vote(self, what: PriceBook | Change, choice: str = "for") -> Proposal:
        """Vote with all that operator and wallet hold: "for", "against" or "abstain"."""
        return self._of(what, "votes", choice=choice)

    def execute(self, what: PriceBook | Change) -> Proposal:
        """Put in force what has won."""
        return self._of(what, "executions")

    def proposal(self, what: PriceBook | Change) -> Proposal:
        """How the last vote over a book or a parameter stands. Raises TransactionFailed where it was never proposed."""
        return self._of(what, "proposals/state")

    def parameters(self) -> list[Setting]:
        """All parameters as they are now, those of voting and those that are fixed too."""
        return [reading.setting_of(one) for one in self._http.get("/v1/governance/parameters")["data"]]

    def _of(self, what: PriceBook | Change, path: str, **more: Any) -> Proposal:
        from rios.services.governance import Proposal

        body: dict[str, Any] = dict(more)
        if isinstance(what, PriceBook):
            body["book"] = what.to_dict()
        else:
            body |= {"parameter": what.name, "value": str(what.value)}
        said = self._http.post(f"/v1/governance/{path}", body, key=secrets.token_hex(16), timeout=MONEY_S)
        return Proposal(
            said["id"], said["state"], int(said["for"]), int(said["against"]), int(said["abstain"]), what
        )  # fmt: skip
