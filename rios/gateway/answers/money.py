"""Answers about money: every amount, and every count that a double could not hold, is decimal text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import (
    Address,
    Answer,
    Hash,
    Iso,
    ModelName,
    Moment,
    OrganisationId,
    Page,
    Quantity,
    RequestId,
    Root,
    Rows,
    UserId,
    Wei,
    WorkerName,
)

Period = Literal["day", "week", "month", "total"]
_RESOURCE = Field(examples=["expert"])
_UNIT = Field(examples=["flop"])
DISCOUNT = Field(description="Of the price book; null where none took something off.", examples=[None])


class UsageRow(Answer):
    """A usage record with its price."""

    usage_id: str = Field(examples=["usage-7d1f0c2b"])
    request_id: RequestId
    at: Moment
    user: UserId
    model: ModelName
    worker: WorkerName
    resource: str = _RESOURCE
    quantity: Quantity
    unit: str = _UNIT
    price: str = Field(description="Of so many units as the price line says, in wei.", examples=["1200000000"])
    amount_wei: Wei
    refunded_wei: Wei
    discount: str | None = DISCOUNT
    discount_wei: Wei = Field(description="What it took off.", examples=["0"])
    epoch: int | None = Field(description="Null while it is open.")


class UsageRows(Page[UsageRow]):
    """The user's own usage records."""


class Costs(Answer):
    """What the user spent, less refunds."""

    by: Literal["worker", "model", "deployment", "day", "resource", "line"] = Field(examples=["model"])
    data: dict[str, Wei] = Field(examples=[{"demo": "250000000000000"}])
    total_wei: Wei


class BudgetRow(Answer):
    """A budget, with what is spent and held in its period."""

    user: UserId
    period: Period
    limit_wei: Wei
    spent_wei: Wei
    held_wei: Wei
    alerts_bp: list[int] = Field(description="Shares to be told of: 5000 is 50 %.", examples=[[5000, 7500, 9000]])
    hard: bool = Field(description="Whether what does not fit is refused before it starts.")


class Budgets(Rows[BudgetRow]):
    """The user's own budgets: one for each period at most."""


class BalanceNow(Answer):
    """What a user has."""

    user: UserId
    deposited_wei: Wei
    trial_wei: Wei
    held_wei: Wei
    withdrawing_wei: Wei
    overdrawn_wei: Wei
    available_wei: Wei
    available: str = Field(examples=["0.00025 ROS"])


class Wallet(BalanceNow):
    """What a user has, and whose address that is."""

    address: Address | None = Field(description="Null where none is linked.")


class OnChain(Answer):
    """What the user's address has outside the escrow."""

    on_chain_wei: Wei


class EpochClosed(Answer):
    """A closed epoch; `epoch` is null, and nothing else is there, before anything was used."""

    epoch: int | None
    root: Root = ""
    total_wei: Wei = "0"
    tx: str = Field("", description="What posted the root; empty where it is not posted yet.", examples=["0x88df0164"])
    closed_at: Iso = ""
    final: bool = Field(True, description="Whether the root can be challenged no more.")


class ParameterNow(Answer):
    """A parameter of the network."""

    name: str = Field(examples=["payout_min_wei"])
    value: str | None = Field(
        description="In the unit that the name ends with; null for never.", examples=["1000000000000000000"]
    )
    by: Literal["vote", "setting", "contract", "fixed"] = Field(
        description='What has set it; "contract" and "setting" until a vote does, "fixed" for good.'
    )


class ParametersNow(Rows[ParameterNow]):
    """The parameters of the network: those that a vote can set, and those that the contracts fix."""


class PricesNow(Answer):
    """The price book in force."""

    book: dict[str, Any] = Field(
        description="As it was published.", examples=[{"format": "rios-price-book-1", "version": 1}]
    )
    digest: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    parameters: list[ParameterNow]


class EstimateRow(Answer):
    """One price line of an estimate."""

    line: str = Field(examples=["expert:cpu"])
    unit: str = _UNIT
    quantity_min: Quantity
    quantity_max: Quantity
    lowest_wei: Wei
    expected_wei: Wei
    highest_wei: Wei


class Estimated(Answer):
    """What a request will cost; the highest price is what is held."""

    lines: list[EstimateRow]
    lowest_wei: Wei
    expected_wei: Wei
    highest_wei: Wei
    discount: str | None = DISCOUNT
    discount_wei: Wei = Field(description="How much more the expected price were without it.", examples=["0"])


class AddressMessage(Answer):
    """What an address has to sign, and where deposits go afterwards."""

    message: str = Field(examples=["With this signature I say that 0x5aAe… is mine,\n…\nnonce: 4f1c"])
    chain_id: int = Field(examples=[1337])
    escrow: Address
    token: Address


class AddressLinked(Answer):
    """The address that is the user's now."""

    address: Address


class AlertRow(Answer):
    """What the user was told."""

    key: str = Field(examples=["budget:user-3f9a:month:5000"])
    about: Literal["budget", "balance"]
    user: UserId
    share_bp: int = Field(examples=[5000])
    amount_wei: Wei = Field(description="What is spent, or left.")
    whole_wei: Wei = Field(description="The budget, or the balance after the last deposit.")
    at: Iso
    period: Period | None
    text: str = Field(examples=["50 % of the budget for the month is spent"])


class AlertRows(Page[AlertRow]):
    """What the user was told of budgets and balance."""


class InvoiceDocument(Answer):
    """An invoice, or a draft without a number while its month is not over."""

    number: int | None
    user: UserId
    period: str = Field(examples=["2026-11"])
    document: dict[str, Any] = Field(description="Lines and sums.", examples=[{"lines": []}])
    digest: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    created_at: Moment


class ProvenUsage(UsageRow):
    """A usage record with what its proof is about."""

    hold_id: str = Field(examples=["hold-7d1f"])
    deployment: str = Field(examples=["app-0c4f"])
    owner: Address
    line: str = Field(examples=["expert:cpu"])


class ProofLink(Answer):
    """One link of the chain from use to payout."""

    name: str = Field(examples=["ledger"])
    state: Literal["ok", "failed", "pending"]
    reason: str = Field(examples=["the entry is in the ledger's hash chain"])


class ProofOfUse(Answer):
    """From a usage record to its payout."""

    usage: ProvenUsage
    links: list[ProofLink]
    verified: bool
    export: dict[str, Any] | None = Field(
        description="What `rios verify` checks again; for admins of the network, once the epoch is closed.",
        examples=[None],
    )


class RefundNote(Answer):
    """A credit note."""

    id: str = Field(examples=["note-51d0"])
    number: int
    usage_id: str = Field(examples=["usage-7d1f0c2b"])
    user_id: UserId
    amount_wei: Wei
    trial_wei: Wei
    from_worker_wei: Wei
    from_platform_wei: Wei
    worker_owes_wei: Wei
    platform_owes_wei: Wei
    epoch: int | None
    reason: str = Field(examples=["The answer was cut off."])
    at: Moment


class GrantRow(Answer):
    """A discount of the price book that a user, or all accounts of an organisation, were given."""

    discount: str = Field(examples=["academic"])
    user: UserId | None
    organisation: OrganisationId | None
    since: Moment
    until: Moment | None = Field(description="Itself excluded; null for no end.")


class Grants(Page[GrantRow]):
    """The discounts that were given, ended ones too."""


class EarningsNow(Answer):
    """What the workers of an owner have earned."""

    owner: Address
    earned_wei: Wei = Field(description="In all, refunds taken off.")
    claimable_wei: Wei
    claimed_wei: Wei
    pending_wei: Wei = Field(description="Not claimable yet.")
    earned: str = Field(examples=["0.00025 ROS"])


class EarningsLine(Answer):
    """A sum of what was earned."""

    worker: WorkerName
    model: ModelName
    resource: str = _RESOURCE
    wei: Wei


class EarningsLines(Rows[EarningsLine]):
    """What was earned by worker, model and resource: sums over all use."""


class PaidClaim(Answer):
    """What the contract has paid."""

    paid_wei: Wei


class PaidOwners(Answer):
    """What owners were paid."""

    epoch: int = Field(description="Whose root promised it; 0 before any.")
    paid: dict[str, Wei] = Field(examples=[{"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed": "250000000000000"}])
    txs: list[str] = Field(examples=[["0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b"]])
    total_wei: Wei


class Comparison(Answer):
    """Two books compared."""

    what: str = Field(examples=["the ledger's claims and the contract's"])
    here_wei: Wei
    there_wei: Wei


class BooksCompared(Answer):
    """All books of the network compared."""

    checks: list[Comparison]
    broken: list[str] = Field(description="What is wrong.", examples=[[]])
    difference_wei: Wei
    sound: bool


class ProposalNow(Answer):
    """How the vote over a price book or a parameter stands, in wei of ROS."""

    id: Quantity
    state: str = Field(examples=["active"])
    for_wei: Wei = Field(alias="for")
    against: Wei
    abstain: Wei
    version: int | None = Field(None, description="Of the price book; absent for a parameter.", examples=[2])
    digest: Hash | None = Field(None, description="Of the price book; absent for a parameter.")
    parameter: str | None = Field(None, description="Its name; absent for a price book.", examples=["payout_min_wei"])
    value: str | None = Field(None, description="Wanted of the parameter.", examples=["1000000000000000000"])
