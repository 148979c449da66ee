"""What a report says, as JSON: the models that its schema is made from. Amounts are whole numbers of wei, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Amount = Annotated[str, Field(pattern=r"^-?(0|[1-9][0-9]*)$")]
"""Wei, or another whole number that may pass 2^53."""


class Part(BaseModel):
    """The shape of all parts: nothing that is not named, and nothing that is missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SpanPart(Part):
    """A half-open period of UTC."""

    label: str
    since: str
    until: str


class PinPart(Part):
    """The last entry of the ledger that counts, and the hash of the chain up to it."""

    height: int
    head: str


class Totals(Part):
    """What a period cost. `net_wei` is cost less refunds given in it."""

    cost_wei: Amount
    refunds_wei: Amount
    net_wei: Amount
    workers_wei: Amount
    platform_wei: Amount
    records: int
    requests: int
    tokens_in: Amount
    tokens_out: Amount


class Check(Part):
    """`allocated_wei + unallocated_wei = ledger_wei`: of usage by its records, and of the entries by the ledger."""

    allocated_wei: Amount
    unallocated_wei: Amount
    ledger_wei: Amount
    refunds_allocated_wei: Amount
    refunds_ledger_wei: Amount


class Row(Part):
    """One user, model, worker, deployment, resource or day."""

    key: str
    cost_wei: Amount
    refunds_wei: Amount
    net_wei: Amount
    before_wei: Amount
    """Net, in the period before."""
    records: int
    requests: int | None
    """None for workers and resources, of which a request has several."""
    tokens_in: Amount
    tokens_out: Amount


class Day(Part):
    """What one day cost, net."""

    day: str
    net_wei: Amount


class Cell(Part):
    """What one user spent on one model, net."""

    user: str
    model: str
    net_wei: Amount


class UnitCost(Part):
    """What a thousand tokens of a model cost, read and written ones together, rounded down to whole wei."""

    model: str
    tokens: Amount
    net_wei: Amount
    per_thousand_wei: Amount | None
    before_per_thousand_wei: Amount | None


class Forecast(Part):
    """The month of the period's last day: what was spent in it so far, and what its other days will add."""

    month: str
    spent_wei: Amount
    days_left: int
    low_wei: Amount
    expected_wei: Amount
    high_wei: Amount
    days_known: int
    """Days of the four weeks before, of which the expectation is the mean; low and high are their quartiles."""


class BudgetState(Part):
    """A budget, at the end of the period."""

    user: str
    period: str
    limit_wei: Amount
    spent_wei: Amount
    share_bp: int
    hard: bool
    state: Literal["good", "watch", "used up"]


class Anomaly(Part):
    """A day on which somebody or something cost far more, or less, than its days before."""

    by: str
    key: str
    day: str
    net_wei: Amount
    usual_wei: Amount
    """The median of the days before."""
    spread_wei: Amount
    """Their median distance from it."""


class Comparison(Part):
    """Two books of the network, compared."""

    what: str
    here_wei: Amount
    there_wei: Amount


class Reconciled(Part):
    """All of the ledger against itself, its last root, and the chain where one runs, when the report was pinned."""

    sound: bool
    chain: bool
    difference_wei: Amount
    checks: tuple[Comparison, ...]
    broken: tuple[str, ...]


class Link(Part):
    """One link of a proof."""

    name: str
    state: str
    reason: str


class Sample(Part):
    """One usage record of the period, chosen by hash, followed to its payout."""

    usage_id: str
    user: str
    model: str
    line: str
    amount_wei: Amount
    holds: bool
    links: tuple[Link, ...]


class CostReport(Part):
    """The cost report."""

    format: Literal["rios-cost-report/1"] = "rios-cost-report/1"
    period: SpanPart
    before: SpanPart
    ledger: PinPart
    user: str | None
    """Whose costs alone; none for those of all."""
    totals: Totals
    totals_before: Totals
    check: Check
    by: dict[Literal["user", "model", "worker", "deployment", "resource", "day"], tuple[Row, ...]]
    history: tuple[Day, ...]
    """Each day of the period, and of the four weeks before it."""
    user_models: tuple[Cell, ...]
    unit_costs: tuple[UnitCost, ...]
    forecast: Forecast
    budgets: tuple[BudgetState, ...]
    anomalies: tuple[Anomaly, ...]
    reconciliation: Reconciled | None
    samples: tuple[Sample, ...]


class Facts(Part):
    """What a report says besides the entries of the ledger, as it was when the report was pinned."""

    budgets: tuple[BudgetState, ...] = ()
    reconciliation: Reconciled | None = None
    samples: tuple[Sample, ...] = ()


def to_json(report: Part) -> str:
    """The report as text: sorted, indented, and the same for the same report."""
    return json.dumps(report.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def schema_of(kind: type[Part]) -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
