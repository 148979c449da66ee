"""What the ledger answers with. Amounts are wei, moments microseconds of UTC since 1970."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from rios.billing.books import PriceBook
from rios.billing.budgets import Period
from rios.billing.pricing import Terms
from rios.billing.usage import UsageRecord
from rios.words.display import Shown, html_line, said
from rios.words.ids import Address, UsageId
from rios.words.money import Wei, format_ros


@dataclass(frozen=True, slots=True)
class Wanted:
    """A hold to be: what to set aside for which request, under which terms."""

    id: str
    user: str
    amount_wei: int
    _: KW_ONLY
    request_id: str
    terms: Terms


class HoldState(StrEnum):
    """What became of a hold."""

    OPEN = "open"
    PAUSED = "paused"
    POSTED = "posted"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The highest price of a request, set aside."""

    id: str
    user_id: str
    request_id: str
    amount_wei: Wei
    """All steps together."""
    trial_wei: Wei
    """How much of it came from trial credit."""
    posted_wei: Wei
    trial_posted_wei: Wei
    released_wei: Wei
    state: HoldState
    price_book: str
    """Digest of the price book that was pinned."""
    terms: str
    """All that was pinned: canonical JSON of `Terms.to_dict`."""
    created_at: int
    expires_at: int
    grace_until: int | None

    @property
    def left_wei(self) -> Wei:
        """What is still set aside."""
        return Wei(self.amount_wei - self.posted_wei - self.released_wei)

    @property
    def is_live(self) -> bool:
        """Whether it can still be extended, posted to and released."""
        return self.state in (HoldState.OPEN, HoldState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStep:
    """One step of a hold."""

    hold_id: str
    step: int
    amount_wei: Wei
    trial_wei: Wei
    at: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Balance:
    """What a user has."""

    user_id: str
    deposited_wei: Wei
    """Deposited, free, and withdrawable."""
    trial_wei: Wei
    held_wei: Wei
    withdrawing_wei: Wei
    overdrawn_wei: Wei
    """What left the chain though it had been spent; later deposits repay it."""

    @property
    def available_wei(self) -> Wei:
        """What a new request may hold: deposits and trial credit."""
        return Wei(self.deposited_wei + self.trial_wei)

    @property
    def wei(self) -> Wei:
        """Available and held together."""
        return Wei(self.available_wei + self.held_wei)

    @property
    def available(self) -> Wei:
        """`available_wei`, by its name in notebooks."""
        return self.available_wei

    @property
    def held(self) -> Wei:
        """`held_wei`, by its name in notebooks."""
        return self.held_wei

    def __str__(self) -> str:
        held = f" ({format_ros(self.held_wei, unit=False)} held)" if self.held_wei else ""
        return f"{format_ros(self.wei)}{held}"

    def __repr__(self) -> str:
        return f"<Balance of {self.user_id}: {self}>"

    def _repr_html_(self) -> str:
        return html_line(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What `settle` did."""

    hold: Hold
    amount_wei: Wei
    """What this call's charges cost, those that were posted before included."""
    new: int
    """How many usage records were not in the ledger before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Shown):
    """One usage record with its price, as it is in the ledger."""

    usage_id: UsageId
    hold_id: str
    step: int
    request_id: str
    user_id: str
    model: str
    deployment: str
    worker: str
    owner: Address
    resource: str
    device_class: str
    ask_bp: int
    line: str
    quantity: int
    unit: str
    units: str
    price: str
    amount_wei: Wei
    worker_wei: Wei
    platform_wei: Wei
    trial_wei: Wei
    discount: str | None
    """The discount that took something off; None where none did."""
    discount_wei: Wei
    """What it took off: `amount_wei` is without it."""
    refunded_wei: Wei
    rows: int
    measured_ns: int
    events: int
    events_digest: str
    at: int
    price_book: str
    digest: bytes
    epoch: int | None

    @property
    def record(self) -> UsageRecord:
        """What was rated."""
        names = {field.name for field in dataclasses.fields(UsageRecord)} - {"source", "hold_step"}
        return UsageRecord(source=self.request_id, hold_step=self.step, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Shown):
    """What a user may spend in each period, and what was spent in the one that was asked about."""

    user_id: str
    period: Period
    limit_wei: Wei
    alerts_bp: tuple[int, ...]
    hard: bool
    spent_wei: Wei
    held_wei: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Shown):
    """That a discount of the price book in force holds for an account, or for all accounts of an organisation."""

    discount: str
    """Its name in the price book. While a book has none of that name, there is nothing off."""
    user: str | None
    organisation: str | None
    """One of the two."""
    since: int
    until: int | None
    """Itself excluded; None for no end."""

    @property
    def subject(self) -> str:
        """Who has it, as text: "user:ID" or "organisation:ID"."""
        return f"organisation:{self.organisation}" if self.user is None else f"user:{self.user}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Shown):
    """What the prices of an account depend on at a moment, besides who serves it."""

    book: PriceBook | None
    """The published book in force; None before the first."""
    discount: str | None
    used: Mapping[str, int]
    """What it used in the month (UTC) so far: base units by the key of each price line that has tiers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote(Shown):
    """A refund: `amount_wei` went back to the user, of it `trial_wei` as trial credit.

    The other amounts say who gives it: out of what worker and platform had not been promised by a root yet, and as what
    they owe, which their later earnings repay first.
    """

    id: str
    number: int
    usage_id: UsageId
    user_id: str
    amount_wei: Wei
    trial_wei: Wei
    from_worker_wei: Wei
    from_platform_wei: Wei
    worker_owes_wei: Wei
    platform_owes_wei: Wei
    epoch: int | None
    reason: str
    at: int


class EpochState(StrEnum):
    """What became of an epoch's root."""

    CLOSED = "closed"
    POSTING = "posting"
    POSTED = "posted"
    FINAL = "final"
    CHALLENGED = "challenged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A closed epoch."""

    number: int
    state: EpochState
    root: str
    """0x and 64 hex digits."""
    total_wei: Wei
    """The sum of all leaves."""
    head_seq: int
    head_hash: bytes
    """The ledger's hash chain when it was closed."""
    closed_at: int
    tx: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCharge:
    """What a user pays for an epoch, below 0 where refunds exceed the use."""

    user_id: str
    amount_wei: int
    """Of deposits."""
    trial_wei: int
    """Of trial credit, which the treasury pays for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice(Shown):
    """An invoice as it was issued, or the draft of one."""

    number: int | None
    """None: a draft, because its month is not over."""
    user_id: str
    period: str
    document: Mapping[str, Any]
    digest: str
    created_at: int

    def __repr__(self) -> str:
        number = "draft" if self.number is None else f"number {self.number}"
        return f"<Invoice {number} for {self.user_id}, {self.period}: {self.document.get('total', '')}>"

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        rows = [(key, said(value)) for key, value in self.document.items() if not key.endswith("_wei")]
        return ("invoice", "draft" if self.number is None else str(self.number)), rows


class Entry(NamedTuple):
    """One line of the ledger."""

    seq: int
    id: str
    debit: str
    credit: str
    amount_wei: int
    kind: str
    reference: str
    at: int
    document: str | None
    """The payload as canonical JSON."""
    digest: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One entry as one account sees it: `amount_wei` is below 0 where it gave."""

    entry: Entry
    other: str
    amount_wei: int
    balance_wei: int
    """After the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a pass over all entries found."""

    entries: int
    head_hash: bytes
    balances: Mapping[str, int]
    """By account, from the entries alone."""
    stored: Mapping[str, int]
    """By account, as the ledger keeps them."""
    broken_at: int | None
    """The first entry that is missing, or whose contents do not make its digest and hash; None for a whole chain."""

    @property
    def difference_wei(self) -> int:
        """The sum of all that differs between entries and balances; 0 in a sound ledger."""
        names = self.balances.keys() | self.stored.keys()
        return sum(abs(self.balances.get(name, 0) - self.stored.get(name, 0)) for name in names)

    @property
    def sum_wei(self) -> int:
        """The sum over all accounts; 0 in a sound ledger."""
        return sum(self.stored.values())

    @property
    def sound(self) -> bool:
        """Whether entries, balances and hash chain agree."""
        return self.broken_at is None and self.difference_wei == 0 and self.sum_wei == 0
