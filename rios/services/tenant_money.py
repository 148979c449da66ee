"""What users of a gateway may do with money: their own, and for admins of the network everybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rios.accounts.store import AccountStore, must, record
from rios.accounts.values import Principal
from rios.services.accounting import Proof, Reconciliation
from rios.services.books import LOCAL_USER
from rios.services.linking import Linking
from rios.services.wallet import Earnings
from rios.storage.models import OrganisationRow, PersonRow
from rios.words.errors import InvalidRequest, NotAllowed, NotFound, NotProvable
from rios.words.ids import Address, check_address
from rios.words.money import Wei

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.values import Balance, CreditNote, Grant
    from rios.billing.parameters import Setting
    from rios.services.governance import Proposal, Subject
    from rios.services.payouts import PaidOut
    from rios.services.purse import Purse
    from rios.services.settlement import Settled

_OPERATE, _GIVE = "settlement:write", "credit:write"


class TenantMoney:
    """Money of the users of a gateway. What moves money is in the audit log."""

    def __init__(self, purse: Purse, store: AccountStore) -> None:
        self._purse = purse
        self._store = store

    # --- the wallet ------------------------------------------------------------------------------------------

    def deposit(self, who: Principal, amount: str, *, key: str) -> Balance:
        """As `net.wallet.deposit`, once for each `key`. Raises LedgerConflict where the key came with another amount.

        The network holds the key of its first admin's wallet alone: NotAllowed for others.
        """
        self._must_hold(who)
        found = self._purse.wallet.deposit(amount, key=f"{who.user_id}:{key}")
        self._log(who, "wallet.deposit", who.user_id, amount=amount, key=key)
        return found

    def withdraw(self, who: Principal, amount: str, *, key: str) -> Balance:
        """As `net.wallet.withdraw`, once for each `key`. Raises as `deposit`."""
        self._must_hold(who)
        found = self._purse.wallet.withdraw(amount, key=f"{who.user_id}:{key}")
        self._log(who, "wallet.withdraw", who.user_id, amount=amount, key=key)
        return found

    def finish_withdrawal(self, who: Principal, *, key: str) -> Balance:
        """As `net.wallet.finish_withdrawal`, once for each `key`. Raises as `deposit`."""
        self._must_hold(who)
        found = self._purse.wallet.finish_withdrawal(key=f"{who.user_id}:{key}")
        self._log(who, "wallet.withdraw", who.user_id, key=key)
        return found

    def cancel_withdrawal(self, who: Principal, *, key: str) -> Balance:
        """As `net.wallet.cancel_withdrawal`, once for each `key`. Raises as `deposit`."""
        self._must_hold(who)
        found = self._purse.wallet.cancel_withdrawal(key=f"{who.user_id}:{key}")
        self._log(who, "wallet.cancel", who.user_id, key=key)
        return found

    @property
    def linking(self) -> Linking:
        """How an address becomes a user's."""
        return Linking(self._purse)

    def on_chain(self, who: Principal) -> Wei:
        """Wei of ROS that the user's address has outside the escrow; 0 without an address."""
        who.require("wallet:read")
        address = self._purse.books.ledger.address_of(who.user_id)
        return Wei(0) if address is None else self._purse.settlement.chain.tokens_of(address)

    def _must_hold(self, who: Principal) -> None:
        who.require("wallet:write")
        if who.user_id != LOCAL_USER:
            raise NotAllowed(
                "the network holds the key of its first admin's wallet alone; link an address of your own (`rios "
                "wallet link ADDRESS`) and deposit into the escrow from it, or ask an admin of the network for credit"
            )

    # --- what was earned -------------------------------------------------------------------------------------

    def earnings(self, who: Principal, owner: str | None) -> Earnings:
        """As `net.earnings`, of the user's own address; of any other for admins of the network. Raises NotFound."""
        who.require("wallet:read")
        own = self._purse.books.ledger.address_of(who.user_id)
        wanted = own if owner is None else check_address(owner, name="owner")
        if wanted is None:
            raise NotFound("this user has no address on the chain, so no worker earns for it; name an owner")
        if wanted != own and not self._operates(who):
            raise NotFound(f"{wanted} is not this user's address")
        return self._purse.earnings.of(Address(wanted))

    def claim(self, who: Principal, owner: str | None) -> Wei:
        """As `net.earnings.claim`. The contract pays the owner, whoever asks."""
        who.require("wallet:write")
        earnings = self.earnings(who, owner)
        paid = earnings.claim()
        self._log(who, "earnings.claim", earnings.owner, wei=str(paid))
        return paid

    # --- accounting ------------------------------------------------------------------------------------------

    def settle(self, who: Principal) -> Settled | None:
        """As `net.billing.settle`."""
        who.require(_OPERATE)
        found = self._purse.billing.settle()
        if found is not None:
            self._log(who, "settlement.settle", str(found.epoch), root=found.root)
        return found

    def pay_out(self, who: Principal, minimum: str | None) -> PaidOut:
        """As `net.billing.pay_out`."""
        who.require(_OPERATE)
        found = self._purse.billing.pay_out(minimum)
        if found.paid:
            self._log(who, "settlement.pay_out", str(found.epoch), wei=str(found.total_wei))
        return found

    def reconcile(self, who: Principal) -> Reconciliation:
        """As `net.billing.reconcile`."""
        who.require(_OPERATE)
        return self._purse.billing.reconcile()

    def prove(self, who: Principal, usage_id: str) -> Proof:
        """As `net.billing.prove`, of the user's own use; an admin of the network proves everybody's.

        What a stranger can verify names other users' requests of the same workers, so `export` is for those admins.
        Raises NotProvable for what is not the user's, as for what is not there.
        """
        who.require("usage:read")
        operates = self._operates(who)
        usage = self._purse.books.ledger.usage_of(usage_id)
        if usage is None or not (operates or usage.user_id == who.user_id):
            raise NotProvable(f"the ledger has no usage {usage_id!r}; net.billing.usage() lists what it has")
        found = self._purse.billing.prove(usage_id)
        return found if operates else Proof(found.usage, found.links, None)

    def refund(
        self, who: Principal, usage_id: str, reason: str, amount: str | None, *, key: str | None = None
    ) -> CreditNote:
        """As `net.billing.refund`, of everybody's use. Raises NotAllowed to all but admins of the network."""
        who.require(_OPERATE)
        note = self._purse.billing.refund(usage_id, reason, amount=amount, key=key)
        self._log(who, "usage.refund", usage_id, wei=str(note.amount_wei), note=note.id)
        return note

    def grant_discount(
        self,
        who: Principal,
        discount: str,
        *,
        user: str | None,
        organisation: str | None,
        since: str | None,
        until: str | None,
    ) -> Grant:
        """As `net.billing.grant_discount`, to whom is named. Raises NotFound."""
        who.require(_GIVE)
        if user is not None:
            must(self._store.row(PersonRow, PersonRow.id == user), f"user {user!r}")
        if organisation is not None:
            must(self._store.row(OrganisationRow, OrganisationRow.id == organisation), f"organisation {organisation!r}")
        if user is None and organisation is None:
            raise InvalidRequest("a discount is for one user or for one organisation: name one of the two")
        billing = self._purse.billing
        given = billing.grant_discount(discount, user=user, organisation=organisation, since=since, until=until)
        subject, until_us = user or f"organisation:{organisation}", str(given.until)
        self._log(who, "discount.grant", subject, discount=discount, since_us=str(given.since), until_us=until_us)
        return given

    def discounts(self, who: Principal, *, after: tuple[int, str], limit: int) -> list[Grant]:
        """As `net.billing.discounts`, those after `since` and `subject` of another."""
        who.require(_GIVE)
        return self._purse.books.ledger.discounts(after=after, limit=limit)

    # --- governance ------------------------------------------------------------------------------------------

    def propose(self, who: Principal, what: Subject) -> Proposal:
        """As `net.governance.propose`."""
        who.require(_OPERATE)
        return self._voted(who, "governance.propose", self._purse.governance.propose(what))

    def vote(self, who: Principal, what: Subject, choice: str) -> Proposal:
        """As `net.governance.vote`."""
        who.require(_OPERATE)
        return self._voted(who, "governance.vote", self._purse.governance.vote(what, choice), choice=choice)

    def execute(self, who: Principal, what: Subject) -> Proposal:
        """As `net.governance.execute`."""
        who.require(_OPERATE)
        return self._voted(who, "governance.execute", self._purse.governance.execute(what))

    def proposal(self, who: Principal, what: Subject) -> Proposal:
        """As `net.governance.proposal`."""
        who.require(_OPERATE)
        return self._purse.governance.proposal(what)

    def parameters(self, who: Principal) -> list[Setting]:
        """As `net.governance.parameters`."""
        who.require(_OPERATE)
        return self._purse.governance.parameters()

    def _voted(self, who: Principal, action: str, found: Proposal, **detail: str) -> Proposal:
        said = found.to_dict()
        about = {name: str(said[name]) for name in ("version", "parameter", "value") if name in said}
        self._log(who, action, found.id, **about, state=found.state, **detail)
        return found

    @staticmethod
    def _operates(who: Principal) -> bool:
        return who.operator and _OPERATE in who.scopes

    def _log(self, who: Principal, action: str, object: str, **detail: str) -> None:  # noqa: A002
        now = self._purse.books.ledger.now()

        def run(connection: Connection) -> None:
            record(
                connection, at=now, organisation_id=who.organisation_id, actor=who.user_id, action=action,
                object=object, detail=detail,
            )  # fmt: skip

        self._store.transact(run)
