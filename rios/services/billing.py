"""`net.billing`: prices, balance, usage, costs, budgets, refunds and invoices of a network, exact to the wei."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.billing.budgets import asked_for
from rios.billing.estimate import Estimate
from rios.billing.ledger.values import Grant
from rios.billing.pricing import DEFAULT_BOOK
from rios.services.accounting import Proof, Reconciliation, prove
from rios.services.alerts import Alert, Alerts
from rios.services.books import Books
from rios.services.charging import Charging
from rios.services.frames import exact_frame
from rios.services.moments import moment_of, month, parse_moment
from rios.services.payouts import PaidOut
from rios.services.settlement import Settled, Settlement
from rios.words.display import Shown, answer, html_line, text_table
from rios.words.errors import InvalidRequest, NotProvable
from rios.words.ids import derived_id
from rios.words.money import format_ros, parse_ros

if TYPE_CHECKING:
    import pandas as pd

    from rios.billing.books import PriceBook
    from rios.billing.ledger.values import Balance, Budget, CreditNote, Invoice, Usage
    from rios.billing.parameters import Setting
    from rios.services.generation import Model
    from rios.services.plots import Plots

USAGE_COLUMNS = (
    "usage_id", "time", "user", "model", "worker", "resource", "quantity", "unit", "price", "amount_wei", "amount",
    "epoch", "discount", "discount_wei",
)  # fmt: skip


def usage_frame(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Usage records as a frame with `USAGE_COLUMNS`; what is a whole number stays a Python int."""
    return exact_frame(rows, USAGE_COLUMNS, whole=("quantity", "amount_wei", "epoch", "discount", "discount_wei"))


@dataclass(frozen=True, slots=True)
class Costs(Shown):
    """What was spent, by one thing: exact integers, and the same as ROS for people."""

    by: str
    wei: Mapping[str, int]

    @property
    def total_wei(self) -> int:
        """The sum."""
        return sum(self.wei.values())

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        rows = [(key, format_ros(amount)) for key, amount in self.wei.items()]
        return (self.by, "cost"), [*rows, ("total", format_ros(self.total_wei))]

    def __repr__(self) -> str:
        return text_table(*self._table())

    @property
    def rios(self) -> Plots:
        """Pictures: `.rios.plot()`, as of the frame."""
        from rios.services.plots import Plots

        return Plots(self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """Columns: what it is by, `wei` (Python ints) and `ros` (text); `.rios.plot()` draws it."""
        rows = [(key, amount, format_ros(amount, unit=False)) for key, amount in self.wei.items()]
        return exact_frame(rows, (self.by, "wei", "ros"), whole=("wei",))


class Billing:
    """What a network costs and pays, for one account."""

    def __init__(
        self, books: Books, charging: Charging, settlement: Settlement, alerts: Alerts, *, operates: bool = True
    ) -> None:
        """operates: whose ledger this is, so costs by user are those of all."""
        self._operates = operates
        self._books = books
        self._alerts = alerts
        self._charging = charging
        self._settlement = settlement

    def of(self, user: str) -> Billing:
        """The same for another account of this ledger, and about no other."""
        return Billing(self._books, self._charging.of(user), self._settlement, self._alerts, operates=False)

    def __repr__(self) -> str:
        return f"<Billing of {self._charging.user}: {answer(lambda: self.balance)}>"

    def _repr_html_(self) -> str:
        return html_line(answer(lambda: self.balance), title=f"Balance of {self._charging.user}")

    @property
    def balance(self) -> Balance:
        """.wei = .available + .held, ints of wei; prints as "24.731 ROS (0.2 held)"."""
        return self._books.ledger.balance(self._charging.user)

    def mark(self) -> int:
        """The number of the ledger's newest entry: while it stays the same, so do all amounts."""
        return self._books.ledger.head()[0]

    @property
    def price_book(self) -> PriceBook:
        """The price book in force now."""
        ledger = self._books.ledger
        return ledger.price_book_at(ledger.now()) or DEFAULT_BOOK

    @property
    def parameters(self) -> list[Setting]:
        """The network's own parameters: as a vote has set each, else as this process is set."""
        return self._books.parameters()

    @property
    def discounts(self) -> list[Grant]:
        """The discounts that were given to accounts and organisations, ended ones too."""
        return self._books.ledger.discounts()

    def grant_discount(
        self,
        discount: str,
        *,
        user: str | None = None,
        organisation: str | None = None,
        since: str | date | datetime | None = None,
        until: str | date | datetime | None = None,
    ) -> Grant:
        """Let a discount of the price book hold for a user, or for all of an organisation; for this account without.

        It holds for what is held for from `since` (now without) until `until`, itself excluded (for ever without). The
        same with an earlier `until` ends it. An account has one at a time: its own comes before its organisation's, and
        of several the one that began last.

        Raises PriceBookError where the price book in force has no such discount, and InvalidRequest.
        """
        ledger = self._books.ledger
        self.price_book.off_bp(discount, "")
        given = Grant(
            discount=discount,
            user=self._charging.user if user is None and organisation is None else user,
            organisation=organisation,
            since=ledger.now() if since is None else parse_moment(since, name="since"),
            until=None if until is None else parse_moment(until, name="until"),
        )
        ledger.grant_discount(given)
        return given

    def estimate(self, model: Model, *, prompt_tokens: int, max_new_tokens: int = 64) -> Estimate:
        """The lowest, expected and highest price of a request, with its price lines. The highest is what is held."""
        return self._charging.estimate(
            model.work, model.hosts(), prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens
        )

    def usage(
        self, *, since: str | date | datetime | None = None, until: str | date | datetime | None = None, **filters: Any
    ) -> pd.DataFrame:
        """Usage records: usage_id, time, user, model, worker, resource, quantity, unit, price, amount_wei, epoch,
        and what a discount took off: discount, discount_wei (`amount_wei` is without it).

        filters: model, deployment, worker, owner, resource, request_id, epoch. Amounts are Python ints of wei.
        """
        rows = [self._usage_row(usage) for usage in self._books.ledger.usage(**self._filters(since, until, filters))]
        return usage_frame(rows)

    def costs(
        self,
        by: str = "worker",
        *,
        since: str | date | datetime | None = None,
        until: str | date | datetime | None = None,
        **filters: Any,
    ) -> Costs:
        """What was spent less refunds, by worker, owner, user, model, deployment, day, resource or line.

        Of this account; by "user", whoever's ledger it is sees all that have used it.
        """
        if by == "user" and self._operates:
            filters = {"user": None, **filters}
        return Costs(by, self._books.ledger.costs(by, **self._filters(since, until, filters)))

    def budget(
        self,
        limit: str | int | None,
        *,
        period: str = "month",
        alerts: Sequence[float | str] = (0.5, 0.75, 0.9),
        hard: bool = True,
    ) -> Budget | None:
        """Set what may be spent in each day, week, month or in total; None takes the budget away.

        A hard budget refuses what does not fit (BudgetExceeded) before it starts; a soft one only alerts.
        """
        ledger, user = self._books.ledger, self._charging.user
        limit_wei, shares = asked_for(limit, alerts)
        ledger.set_budget(user, limit_wei, period=period, alerts_bp=shares, hard=hard)
        return next((one for one in self.budgets if str(one.period) == period), None)

    @property
    def budgets(self) -> list[Budget]:
        """The budgets of this account, with what is spent and held in their periods."""
        ledger = self._books.ledger
        return ledger.budgets(self._charging.user, at=ledger.now())

    @property
    def alerts(self) -> list[Alert]:
        """Every alert so far, oldest first: 50, 75 and 90 % of a budget spent, the balance below 20, 10 and 5 %.

        Each comes once: in the log as a warning, and to the callbacks of `on_alert`.
        """
        return self._alerts.all(self._charging.user)

    def on_alert(self, callback: Callable[[Alert], None]) -> None:
        """Have `callback` called with each alert to come, in another thread. One that raises is called again later."""
        user = self._charging.user

        def ours(alert: Alert) -> None:
            if alert.user == user:
                callback(alert)

        self._alerts.on_alert(ours)

    def refund(
        self, usage_id: str, reason: str, *, amount: str | int | None = None, key: str | None = None
    ) -> CreditNote:
        """Give the price of a usage record back, or a part of it, by credit note; without `amount` what is left of it.

        The same reason and amount again is the same note, so that a repetition gives nothing twice. key: tells two
        parts of the same amount apart; the same key is the same note.

        Raises InvalidAmount for more than is left, LedgerConflict where the key came with other contents.
        """
        if not reason.strip():
            raise InvalidRequest("a refund needs a reason: it stands on the credit note")
        amount_wei = None if amount is None else parse_ros(amount, name="the refund")
        note_id = None if key is None else derived_id("cn", usage_id, "key", key)
        return self._books.ledger.refund(usage_id, reason, amount_wei=amount_wei, note_id=note_id)

    def invoice(self, period: str) -> Invoice:
        """The invoice of a month such as "2026-11": its lines add up to what was posted. The first one issued stays.

        Until two minutes after the month's end it is a draft, without a number. What is refunded after a month's
        invoice is on the next one that is issued.
        """
        since, until = month(period)
        return self._books.ledger.invoice(self._charging.user, period, since=since, until=until)

    def settle(self) -> Settled | None:
        """Close an epoch over all that was used and post its root: .epoch .root .total .tx.

        Again where nothing was used meanwhile, or while that root can be challenged: the same, and nothing happens
        twice. None before anything was used.
        """
        self._charging.post_late()
        return self._settlement.settle()

    def pay_out(self, minimum: str | int | None = None) -> PaidOut:
        """Pay all owners to whom at least `minimum` is due (`RIOS_PAYOUT_MIN` without): .paid .total_wei .txs.

        Owners can claim smaller amounts, and need not wait. Again where nothing is due: nothing happens twice.
        """
        return self._settlement.pay_out(minimum)

    def reconcile(self) -> Reconciliation:
        """Compare the ledger with itself, its rebuilt root, the contracts and their tokens: `.difference_wei` is 0.

        On a node, with the contracts after the last final block, up to which the ledger has its events.
        """
        return self._settlement.reconcile()

    def prove(self, usage_id: str) -> Proof:
        """From a usage record to price, postings, leaf, root, contract and payout. Raises NotProvable."""
        chain = self._settlement.chain
        return prove(self._books.ledger, usage_id, chain, keccak=chain.keccak)

    def export(self, usage_id: str, path: str | Path) -> Path:
        """Write what a stranger needs to verify the payout of a usage record: `rios verify FILE`.

        Raises NotProvable while its epoch is not closed, and where nothing was due to the owner of the worker.
        """
        proof = self.prove(usage_id)
        if proof.export is None:
            raise NotProvable(f"usage {usage_id} has no payout to verify: {proof.links[-1].reason}")
        target = Path(path)
        target.write_text(proof.export.to_json())
        return target

    def _filters(
        self, since: str | date | datetime | None, until: str | date | datetime | None, filters: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "user": self._charging.user,
            **filters,
            "since": None if since is None else parse_moment(since, name="since"),
            "until": None if until is None else parse_moment(until, name="until"),
        }

    @staticmethod
    def _usage_row(usage: Usage) -> tuple[Any, ...]:
        return (
            usage.usage_id, moment_of(usage.at), usage.user_id, usage.model, usage.worker, usage.resource,
            usage.quantity, usage.unit, usage.price, usage.amount_wei, format_ros(usage.amount_wei), usage.epoch,
            usage.discount, usage.discount_wei,
        )  # fmt: skip
