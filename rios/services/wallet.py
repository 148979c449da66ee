"""`net.wallet` and `net.earnings`: what the local account has, and what the owner of workers has earned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rios.services.books import LOCAL_USER, Books
from rios.services.edges import edge
from rios.services.frames import exact_frame
from rios.services.settlement import Settlement
from rios.services.teller import Teller
from rios.words.display import Shown, Unknown, answer, html_line, html_table, text_table
from rios.words.errors import NetworkClosed, RiosError
from rios.words.ids import Address
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    import pandas as pd

    from rios.billing.ledger.values import Balance


class Holdings(ABC):
    """What somebody has, by one question: its parts are the same wherever it is asked."""

    @property
    @abstractmethod
    def address(self) -> Address | None:
        """The address on the chain."""

    @property
    @abstractmethod
    def on_chain(self) -> Wei:
        """Wei of ROS that the address has on the chain, outside the escrow."""

    @property
    @abstractmethod
    def balance(self) -> Balance:
        """What is deposited, given as trial credit, and held."""

    @property
    def deposited(self) -> Wei:
        """Wei in the escrow that can be spent or withdrawn."""
        return self.balance.deposited_wei

    @property
    def available(self) -> Wei:
        """Wei that a new request may hold, trial credit included."""
        return self.balance.available

    @property
    def held(self) -> Wei:
        """Wei that running requests have set aside."""
        return self.balance.held

    def _chain_started(self) -> bool:
        """Whether the chain can be asked without starting one, and without waiting for somebody else."""
        return False

    def _rows(self, *, ask: bool) -> list[tuple[str, str]]:
        """ask: the chain, too, whatever that takes."""
        address = answer(lambda: self.address)
        if isinstance(address, Unknown):  # who does not say this says nothing of the rest
            return [("balance", address)]
        rows, balance = [("address", str(address or "none"))], answer(lambda: self.balance)
        if isinstance(balance, Unknown):
            return [*rows, ("balance", balance)]
        if ask or self._chain_started():
            rows.append(("on chain", self._on_chain_said()))
        return [
            *rows,
            ("deposited", format_ros(balance.deposited_wei)),
            ("trial credit", format_ros(balance.trial_wei)),
            ("available", format_ros(balance.available)),
            ("held", format_ros(balance.held)),
            *([("being withdrawn", format_ros(balance.withdrawing_wei))] if balance.withdrawing_wei else []),
        ]

    def _on_chain_said(self) -> str:
        try:
            return format_ros(self.on_chain)  # a chain in this process may have to start first: not by `answer`
        except RiosError as error:
            return Unknown(f"unknown: {error}")

    def __str__(self) -> str:
        return text_table(("wallet", ""), self._rows(ask=True))

    def _repr_html_(self) -> str:
        return html_table(("wallet", ""), self._rows(ask=False))


class Wallet(Holdings):
    """The wallet of this network's user. Reading `on_chain` starts the chain; the rest is in the ledger."""

    def __init__(self, books: Books, settlement: Settlement) -> None:
        self._books = books
        self._settlement = settlement
        self._teller = Teller(books, settlement)
        self.network: Callable[[], Any] = _no_network
        """The network whose wallet this is; None where it has gone."""

    def widget(self) -> Any:
        """The wallet of JupyterLab's sidebar in the notebook, live. Raises NetworkClosed."""
        network = self.network()
        if network is None:
            raise NetworkClosed("the network of this wallet was closed; make another one")
        return edge("widgets").of_network(network, "wallet")

    @property
    def address(self) -> Address:
        """The address on the chain."""
        return self._books.address

    @property
    def balance(self) -> Balance:
        """What is deposited, given as trial credit, and held."""
        return self._books.ledger.balance(LOCAL_USER)

    @property
    def on_chain(self) -> Wei:
        """Wei of ROS that the address has on the chain, outside the escrow."""
        return self._settlement.chain.tokens_of(self.address)

    def deposit(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Move ROS ("25 ROS") from the wallet into the escrow; returns once they are credited.

        key: the same deposit again, after an error or in another process, moves nothing twice.

        Without a key, one of the same amount whose call had no answer is gone on with, and no other one is made.

        Raises InvalidAmount, InvalidRequest, TransactionFailed, ChainUnavailable, and LedgerConflict where the key came
        with another amount.
        """
        return self._teller.deposit(amount, key=key)

    def withdraw(self, amount: str | int, *, key: str | None = None) -> Balance:
        """Take deposited ROS back: settles what was used, then asks the escrow. Trial credit cannot be withdrawn.

        Where the escrow delays withdrawals, `finish_withdrawal` takes them when they are due, and `cancel_withdrawal`
        leaves them where they are. There is one at a time. key: as of `deposit`.
        """
        return self._teller.withdraw(amount, key=key)

    def finish_withdrawal(self, *, key: str | None = None) -> Balance:
        """Take what `withdraw` asked for and the escrow's delay has passed for. key: as of `deposit`."""
        return self._teller.finish_withdrawal(key=key)

    def cancel_withdrawal(self, *, key: str | None = None) -> Balance:
        """Leave what `withdraw` asked for in the escrow, to be spent. key: as of `deposit`.

        Raises InvalidRequest where nothing was asked for.
        """
        return self._teller.cancel_withdrawal(key=key)

    def __repr__(self) -> str:
        return f"<Wallet {answer(lambda: self.address)}: {answer(lambda: self.balance)}>"

    def _chain_started(self) -> bool:
        return self._books.started_chain is not None


def _no_network() -> None:
    """A wallet that was opened without a network, as by commands."""


def earnings_frame(lines: Mapping[tuple[str, str, str], int]) -> pd.DataFrame:
    """Wei by worker, model and resource as a frame."""
    rows = [(*key, wei, format_ros(wei, unit=False)) for key, wei in lines.items()]
    return exact_frame(rows, ("worker", "model", "resource", "wei", "ros"), whole=("wei",))


@dataclass(frozen=True, slots=True)
class Earned(Shown):
    """What one owner has earned, in wei."""

    owner: Address
    earned_wei: Wei
    """In all, refunds taken off."""
    claimable_wei: Wei
    """Promised by a root that can be challenged no more, and not paid yet."""
    claimed_wei: Wei
    """Paid on the chain."""

    @property
    def pending_wei(self) -> Wei:
        """Not claimable yet: earned since the last epoch, or promised by a root that waits to be final."""
        return Wei(self.earned_wei - self.claimable_wei - self.claimed_wei)

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        return (f"earnings of {self.owner}", ""), [
            ("earned", format_ros(self.earned_wei)),
            ("of it not claimable yet", format_ros(self.pending_wei)),
            ("claimable", format_ros(self.claimable_wei)),
            ("claimed", format_ros(self.claimed_wei)),
        ]

    def __str__(self) -> str:
        return text_table(*self._table())


def earnings_line(owner: str, now: Earned | Unknown) -> str:
    """Earnings as `repr` has them."""
    if isinstance(now, Unknown):
        return f"{owner}: {now}"
    return f"{owner}: {format_ros(now.earned_wei)}, {format_ros(now.claimable_wei)} claimable"


class Earnings:
    """What the workers of an owner have earned; without an owner, of the local wallet's."""

    def __init__(self, books: Books, settlement: Settlement, owner: Address | None = None) -> None:
        self._books = books
        self._settlement = settlement
        self._owner = owner

    def of(self, owner: Address) -> Earnings:
        """The earnings of another owner."""
        return Earnings(self._books, self._settlement, owner)

    @property
    def owner(self) -> Address:
        """Whose earnings these are."""
        return self._owner or self._books.address

    @property
    def now(self) -> Earned:
        """The amounts now, from the ledger: it follows the chain's claims."""
        ledger, owner = self._books.ledger, self.owner
        account = f"worker:{owner}:earned"
        claimed = sum(
            int(event.args["amount"]) for event in ledger.chain_events(name="Claimed") if event.args["account"] == owner
        )
        unclaimed = ledger.accounts([account]).get(account, 0)
        claimable = max(ledger.claimable(owner).get(account, 0) - self._waiting(), 0)
        return Earned(owner, Wei(unclaimed + claimed), Wei(claimable), Wei(claimed))

    def _waiting(self) -> int:
        """Wei that the last root promises while it is not final."""
        from rios.billing.ledger.values import EpochState

        ledger = self._books.ledger
        epochs = ledger.epochs()
        if not epochs or epochs[-1].state is EpochState.FINAL:
            return 0
        final = [epoch.number for epoch in epochs if epoch.state is EpochState.FINAL]
        before = ledger.leaves(final[-1]).get(self.owner, 0) if final else 0
        return ledger.leaves(epochs[-1].number).get(self.owner, 0) - before

    def claim(self) -> Wei:
        """Have the settlement contract pay what the last final root promises; wei that were paid. Of any amount."""
        return self._settlement.claim(self.owner)

    def to_frame(self) -> pd.DataFrame:
        """What was earned by worker, model and resource: columns worker, model, resource, wei (Python ints), ros."""
        return earnings_frame(self.lines())

    def lines(self) -> dict[tuple[str, str, str], int]:
        """The same: wei by worker, model and resource, in their order."""
        sums: dict[tuple[str, str, str], int] = {}
        for usage in self._books.ledger.usage(owner=self.owner):
            key = (usage.worker, usage.model, usage.resource)
            sums[key] = sums.get(key, 0) + usage.worker_wei
        return dict(sorted(sums.items()))

    def __repr__(self) -> str:
        return self._line(answer(lambda: self.now))

    def __str__(self) -> str:
        now = answer(lambda: self.now)
        return self._line(now) if isinstance(now, Unknown) else str(now)

    def _repr_html_(self) -> str:
        now = answer(lambda: self.now)
        return html_line(self._line(now)) if isinstance(now, Unknown) else now._repr_html_()

    def _line(self, now: Earned | Unknown) -> str:
        return f"<Earnings of {earnings_line(answer(lambda: self.owner), now)}>"
