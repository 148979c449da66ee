"""The cost report's figures: against sums that are made another way, and at a height that is pinned."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import jsonschema
import pytest

from rios.billing.ledger.ledger import Ledger
from rios.services.reports import documents as doc
from rios.services.reports.costs import cost_report
from rios.services.reports.facts import facts_of
from rios.services.reports.kinds import KINDS
from rios.services.reports.periods import Span, parse_span
from rios.services.reports.reading import Pin, pin
from tests.billing.clock import Clock
from tests.reports.conftest import NOW
from tests.reports.ledgers import charges, use

SPAN = parse_span("2026-11", at_us=NOW)
DAY = parse_span("2026-11-26", at_us=NOW)


def report(ledger: Ledger, span: Span, height: Pin, *, user: str | None = None) -> doc.CostReport:
    with ledger.database.reading() as connection:
        return cost_report(connection, span, height, facts=doc.Facts(), user=user)


def test_totals_are_the_ledgers_to_the_wei(ledger: Ledger) -> None:
    found = report(ledger, SPAN, pin(ledger.database))
    entries = [entry for entry in ledger.entries() if SPAN.since_us <= entry.at < SPAN.until_us]
    used = sum(entry.amount_wei for entry in entries if entry.kind == "usage")
    given = sum(entry.amount_wei for entry in entries if entry.kind == "refund")
    assert used > 0
    assert given > 0
    assert int(found.totals.cost_wei) == int(found.check.ledger_wei) == used
    assert int(found.totals.refunds_wei) == int(found.check.refunds_ledger_wei) == given
    assert found.check.unallocated_wei == "0"
    for rows in found.by.values():
        assert sum(int(row.net_wei) for row in rows) == used - given
    assert sum(int(cell.net_wei) for cell in found.user_models) == used - given


@pytest.mark.parametrize("by", ["user", "model", "worker", "deployment", "resource", "day"])
def test_rows_are_those_of_the_ledgers_own_sums(ledger: Ledger, by: str) -> None:
    found = report(ledger, SPAN, pin(ledger.database))
    # The ledger takes a refund off the use that it is for, the report off the moment at which it was given: no refund
    # of these is of another month, so the sums of a month agree; of days, those before refunds do.
    if by == "day":
        wanted: Counter[str] = Counter()
        for one in ledger.usage(since=SPAN.since_us, until=SPAN.until_us):
            wanted[f"{one.at // 86_400_000_000}"] += one.amount_wei
        assert sorted(int(row.cost_wei) for row in found.by["day"] if row.cost_wei != "0") == sorted(wanted.values())
        assert len(found.by["day"]) == 30
        return
    sums = ledger.costs(by, since=SPAN.since_us, until=SPAN.until_us)
    rows = {row.key: int(row.net_wei) for row in found.by[by] if row.cost_wei != "0"}  # type: ignore[index]
    assert rows == sums


def test_the_period_before_is_another_report(ledger: Ledger) -> None:
    found, past = report(ledger, DAY, pin(ledger.database)), report(ledger, DAY.before(), pin(ledger.database))
    assert found.totals_before == past.totals
    now = {row.key: row.before_wei for row in found.by["user"]}
    assert {row.key: row.net_wei for row in past.by["user"] if row.net_wei != "0"}.items() <= now.items()


def test_a_height_is_the_same_for_ever(ledger: Ledger) -> None:
    height = pin(ledger.database)
    before = report(ledger, SPAN, height)
    # Posted later, though of that month: a late price, a refund of a counted record, and one that costs nothing.
    rng = Random(5)
    late = charges("late", 2, rng)
    use(ledger, "late", "user-01", late, at=DAY.since_us + 5)
    one = next(iter(ledger.usage(since=DAY.since_us, until=DAY.until_us, user="local")))
    ledger.refund(one.usage_id, "late, too", amount_wei=1, note_id="late-note", at=DAY.since_us + 9)
    assert report(ledger, SPAN, height) == before
    after = report(ledger, SPAN, pin(ledger.database))
    assert int(after.totals.cost_wei) == int(before.totals.cost_wei) + sum(one.amount_wei for one in late)
    assert int(after.totals.refunds_wei) == int(before.totals.refunds_wei) + 1
    assert after.totals.requests == before.totals.requests + 1


def test_a_user_sees_the_own_costs_alone(ledger: Ledger) -> None:
    whole = report(ledger, SPAN, pin(ledger.database))
    parts = {row.key: report(ledger, SPAN, pin(ledger.database), user=row.key) for row in whole.by["user"]}
    for user, part in parts.items():
        assert {row.key for row in part.by["user"]} <= {user}
        assert {cell.user for cell in part.user_models} <= {user}
        assert part.check.unallocated_wei == "0"
    for name in ("cost_wei", "refunds_wei", "net_wei"):
        assert sum(int(getattr(part.totals, name)) for part in parts.values()) == int(getattr(whole.totals, name))


def test_unit_costs_are_exact(ledger: Ledger) -> None:
    found = report(ledger, DAY, pin(ledger.database))
    rows = {row.key: row for row in found.by["model"]}
    assert found.unit_costs
    for one in found.unit_costs:
        tokens = int(rows[one.model].tokens_in) + int(rows[one.model].tokens_out)
        assert int(one.tokens) == tokens
        assert one.per_thousand_wei is not None
        exact = int(rows[one.model].net_wei) * 1000
        assert int(one.per_thousand_wei) * tokens <= exact < (int(one.per_thousand_wei) + 1) * tokens


def test_it_holds_to_its_schema(ledger: Ledger) -> None:
    height = pin(ledger.database)
    facts = facts_of(ledger, DAY, height, user=None, chain=None)
    with ledger.database.reading() as connection:
        document = json.loads(doc.to_json(cost_report(connection, DAY, height, facts=facts)))
    schema = KINDS["cost"].schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    document["totals"]["cost_wei"] = 1.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_facts_have_budgets_books_and_proofs(ledger: Ledger, clock: Clock) -> None:
    ledger.set_budget("user-01", 10**30, period="month")
    ledger.set_budget("user-02", 1, period="total", hard=False)
    ledger.set_budget("local", 5, period="day")
    ledger.set_budget("local", None, period="day")
    found = facts_of(ledger, DAY, pin(ledger.database), user=None, chain=None)
    assert [(one.user, one.period, one.state) for one in found.budgets] == [
        ("user-01", "month", "good"), ("user-02", "total", "used up"),
    ]  # fmt: skip
    assert int(found.budgets[0].spent_wei) == ledger.costs("user", since=SPAN.since_us, until=NOW)["user-01"]
    assert found.reconciliation is not None
    assert found.reconciliation.sound
    assert len(found.samples) == 3
    assert all(one.holds for one in found.samples)
    mine = facts_of(ledger, DAY, pin(ledger.database), user="user-01", chain=None)
    assert {one.user for one in mine.budgets} == {one.user for one in mine.samples} == {"user-01"}
    assert mine.reconciliation is None


def test_an_empty_ledger_has_a_report(clock: Clock) -> None:
    with Ledger.open(clock=clock) as empty:
        found = report(empty, SPAN, pin(empty.database))
    assert found.totals.cost_wei == "0"
    assert found.ledger.height == 0
    assert found.unit_costs == found.anomalies == ()
    assert len(found.by["day"]) == 30
