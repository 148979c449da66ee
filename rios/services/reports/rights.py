"""Who may have a report about whose costs: the rights of the owner at the moment at which it is made."""

from __future__ import annotations

from collections.abc import Callable

from rios.accounts.roles import scopes_of
from rios.accounts.store import AccountStore
from rios.services.books import LOCAL_USER
from rios.words.errors import NotAllowed

_EVERYBODYS, _OWN = "settlement:write", "usage:read"


def rights_of(store: AccountStore) -> Callable[[str, str], None]:
    """What raises NotAllowed where `owner` may not see the costs of `subject`; "" is everybody."""

    def may(owner: str, subject: str) -> None:
        user = store.user(owner)
        if user is None and owner == LOCAL_USER:
            return  # a ledger without accounts is of whoever has its file
        if user is None or user.closed_at is not None:
            raise NotAllowed(f"{owner} is no user of this network any more; delete the schedule")
        organisation = store.organisation(user.organisation_id)
        scopes = scopes_of(user.role, operator=organisation is not None and organisation.operator)
        if _EVERYBODYS in scopes or (_OWN in scopes and subject == owner):
            return
        raise NotAllowed(f"{owner} may see the own costs alone, not those of {subject or 'everybody'}")

    return may
