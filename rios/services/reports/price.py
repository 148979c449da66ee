"""What a report costs itself: the processor time of its execution, held beforehand and posted with its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rios.billing.ledger import settling
from rios.billing.pricing import Host
from rios.billing.rating import Charge, rate
from rios.billing.usage import resource_record
from rios.services.charging import terms_of

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.billing.ledger.ledger import Ledger
    from rios.services.reports.values import Run
    from rios.words.ids import Address

WORKER = DEPLOYMENT = "reports"
"""Under these names it is on the bill."""
_HOLD_US = 3600 * 10**6


class Price:
    """The price of one attempt."""

    def __init__(self, ledger: Ledger, run: Run, payee: Address) -> None:
        """payee: who is paid for the machine that executes it."""
        self._ledger = ledger
        self._run = run
        self._id = f"{run.id}:{run.attempts}"
        self._host = Host(WORKER, payee, "cpu")
        self._terms = terms_of(ledger, run.owner, [self._host])

    def hold(self, cpu_s: int) -> None:
        """Set the price of `cpu_s` seconds aside. Raises InsufficientBalance, BudgetExceeded."""
        most = self._charge(cpu_s * 10**9).amount_wei
        until = self._ledger.now() + _HOLD_US
        self._ledger.hold(
            self._id, self._run.owner, most, request_id=self._id, terms=self._terms, expires_at=until
        )  # fmt: skip

    def bill(self, cpu_ns: int) -> Callable[[Batch], int]:
        """What posts the price of `cpu_ns` in a transaction and gives the rest back; it returns the price in wei."""
        charges = [self._charge(cpu_ns)] if cpu_ns else []

        def post(batch: Batch) -> int:
            settling.settle(batch, self._id, charges, deployment=DEPLOYMENT, final=True, at=batch.now)
            return sum(charge.amount_wei for charge in charges)

        return post

    def release(self) -> None:
        """Give everything back."""
        self._ledger.release(self._id)

    def _charge(self, cpu_ns: int) -> Charge:
        model = f"report/{self._run.name}"
        return rate(resource_record(self._id, self._host, "cpu", cpu_ns, period=0, model=model), self._terms)
