"""A network as one user of its gateway has it: what a panel shows of `rios.local()`, under the user's rights."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rios.services.gate import Gate
from rios.services.jobs import Jobs, JobView
from rios.words.money import Wei

if TYPE_CHECKING:
    import pandas as pd

    from rios.accounts.values import Principal
    from rios.billing.ledger.values import Balance, Budget
    from rios.services.accounting import Proof
    from rios.services.billing import Costs
    from rios.services.deployments.service import Deployments
    from rios.services.reports.own import UserReports
    from rios.services.settlement import Settled
    from rios.services.views import Workers
    from rios.services.wallet import Earned


class TenantNetwork:
    """What belongs to `who`, and what it may see of the rest. Every verb asks for its scope, as routes do."""

    def __init__(self, gate: Gate, who: Principal, *, address: str, recent: Callable[[], None]) -> None:
        """address: where the gateway is. recent: raises SignInAgain where `who` signed in too long ago."""
        self._gate = gate
        self._who = who
        self.address = address
        self.account = who.login
        self.wallet = TenantWallet(gate, who)
        self.billing = TenantBilling(gate, who, recent)
        self.earnings = TenantEarnings(gate, who)
        self.jobs = TenantJobs(gate.network.jobs, who)

    @property
    def workers(self) -> Workers:
        """The workers of the network."""
        self._who.require("workers:read")
        return self._gate.network.workers

    @property
    def deploy(self) -> Deployments:
        """The deployments of the organisation; whoever changes one asks for that scope first."""
        self._who.require("models:read")
        return self._gate.tenancy.deployments(self._who)

    @property
    def reports(self) -> UserReports:
        """The user's reports."""
        from rios.services.reports.tenants import reports_of

        self._who.require("usage:read")
        return reports_of(self._gate, self._who)

    @property
    def models(self) -> tuple[Any, ...]:
        """The models of the organisation that serve: name and placement."""
        self._who.require("models:read")
        found = self._gate.tenancy.serving(self._who.organisation_id)
        return tuple(SimpleNamespace(name=one.name, placement=model.placement) for one, model in found)


class TenantWallet:
    """`net.wallet` of one user."""

    def __init__(self, gate: Gate, who: Principal) -> None:
        self._gate = gate
        self._who = who

    @property
    def address(self) -> str | None:
        """The address on the chain whose deposits are the user's, or None."""
        return self._gate.tenancy.ledger.address_of(self._who.user_id)

    @property
    def balance(self) -> Balance:
        """What is deposited, given as trial credit, and held."""
        self._who.require("wallet:read")
        return self._gate.tenancy.ledger.balance(self._who.user_id)

    @property
    def deposited(self) -> Wei:
        """Wei in the escrow that can be spent."""
        return self.balance.deposited_wei

    @property
    def on_chain(self) -> Wei:
        """Wei of ROS that the address has outside the escrow."""
        return self._gate.money.on_chain(self._who)

    def deposit(self, wei: int, *, key: str | None = None) -> Balance:
        """As `TenantMoney.deposit`; without a key, another one each time."""
        return self._gate.money.deposit(self._who, f"{wei} wei", key=key or secrets.token_hex(8))

    def withdraw(self, wei: int, *, key: str | None = None) -> Balance:
        """As `TenantMoney.withdraw`, and of the key as `deposit`."""
        return self._gate.money.withdraw(self._who, f"{wei} wei", key=key or secrets.token_hex(8))

    def finish_withdrawal(self, *, key: str | None = None) -> Balance:
        """As `TenantMoney.finish_withdrawal`, and of the key as `deposit`."""
        return self._gate.money.finish_withdrawal(self._who, key=key or secrets.token_hex(8))

    def cancel_withdrawal(self, *, key: str | None = None) -> Balance:
        """As `TenantMoney.cancel_withdrawal`, and of the key as `deposit`."""
        return self._gate.money.cancel_withdrawal(self._who, key=key or secrets.token_hex(8))


class TenantBilling:
    """`net.billing` of one user."""

    def __init__(self, gate: Gate, who: Principal, recent: Callable[[], None]) -> None:
        self._gate = gate
        self._who = who
        self._recent = recent
        self._billing = gate.tenancy.billing(who.user_id)

    def mark(self) -> int:
        """As `Billing.mark`."""
        return self._billing.mark()

    def costs(self, by: str, **more: Any) -> Costs:
        """As `Billing.costs`."""
        self._who.require("usage:read")
        return self._billing.costs(by, **more)

    def usage(self, **filters: Any) -> Any:
        """As `Billing.usage`."""
        self._who.require("usage:read")
        return self._billing.usage(**filters)

    @property
    def budgets(self) -> list[Budget]:
        """As `Billing.budgets`."""
        self._who.require("usage:read")
        return self._billing.budgets

    def budget(self, limit: int | None, *, period: str, hard: bool) -> Budget | None:
        """As `Billing.budget`."""
        self._who.require("budgets:write")
        return self._billing.budget(limit, period=period, hard=hard)

    def prove(self, usage_id: str) -> Proof:
        """As `TenantMoney.prove`."""
        return self._gate.money.prove(self._who, usage_id)

    def settle(self) -> Settled | None:
        """As `TenantMoney.settle`. Raises SignInAgain, as the route does."""
        self._who.require("settlement:write")
        self._recent()
        return self._gate.money.settle(self._who)


class TenantEarnings:
    """`net.earnings` of one user."""

    def __init__(self, gate: Gate, who: Principal) -> None:
        self._gate = gate
        self._who = who

    @property
    def now(self) -> Earned:
        """As `Earnings.now`."""
        return self._gate.money.earnings(self._who, None).now

    def to_frame(self) -> pd.DataFrame:
        """As `Earnings.to_frame`."""
        return self._gate.money.earnings(self._who, None).to_frame()

    def claim(self) -> Wei:
        """As `TenantMoney.claim`."""
        return self._gate.money.claim(self._who, None)


class TenantJobs(Sequence[JobView]):
    """`net.jobs` of one user: another's job is not there.

    Who may see the own use sees which jobs it was of; who may generate sees what they were asked, and ends them.
    """

    def __init__(self, jobs: Jobs, who: Principal) -> None:
        self._jobs = jobs
        self._who = who

    def __len__(self) -> int:
        return len(self.all())

    def __getitem__(self, key: Any) -> Any:
        self._may_see()
        return self._named(self._jobs.view(key, self._who.user_id)) if isinstance(key, str) else self.all()[key]

    def all(self) -> list[JobView]:
        """All that are remembered."""
        self._may_see()
        return [self._named(view) for view in self._jobs.all(self._who.user_id)]

    def changed(self, since: int, timeout: float) -> tuple[int, list[JobView]]:
        """As `Jobs.changed`."""
        self._may_see()
        version, found = self._jobs.changed(since, timeout, self._who.user_id)
        return version, [self._named(view) for view in found]

    def cancel(self, job_id: str) -> None:
        """As `Jobs.cancel`."""
        self._who.require("generate")
        self._jobs.cancel(self[job_id].id)

    def retry(self, job_id: str) -> str:
        """As `Jobs.retry`: paid by the user again."""
        self._who.require("generate")
        return self._jobs.retry(self[job_id].id)

    def text(self, job_id: str) -> tuple[str, str]:
        """As `Jobs.text`."""
        self._who.require("generate")
        return self._jobs.text(self[job_id].id)

    def params(self, job_id: str) -> dict[str, Any]:
        """As `Jobs.params`."""
        self._who.require("generate")
        return self._jobs.params(self[job_id].id)

    def _named(self, view: JobView) -> JobView:
        return replace(view, owner_login=self._who.login)

    def _may_see(self) -> None:
        if "generate" not in self._who.scopes:
            self._who.require("usage:read")
