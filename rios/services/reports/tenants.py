"""The reports of a user of a gateway: about the own costs, or everybody's for who may settle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rios.services.reports.own import UserReports
from rios.services.reports.values import Wish

if TYPE_CHECKING:
    from rios.accounts.values import Principal
    from rios.services.gate import Gate

_EVERYBODYS, _TELLS = "settlement:write", "webhooks:write"


def reports_of(gate: Gate, who: Principal) -> UserReports:
    """`net.reports` of `who`."""

    def checked(wish: Wish) -> None:
        """A gateway sends no mail to strangers for whoever asks: the own address, or an admin's word."""
        user = gate.accounts.store.user(who.user_id)
        own = user.email if user is not None and user.email_confirmed_at is not None else None
        if wish.webhooks or any(email != own for email in wish.emails):
            who.require(_TELLS)

    return UserReports(
        gate.network._reports, user=who.user_id, everybodys=_EVERYBODYS in who.scopes, checked=checked
    )  # fmt: skip
