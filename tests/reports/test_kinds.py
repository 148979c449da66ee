"""The reports beside that of costs: their figures, their schemas, and that each notebook says what its data say."""

from __future__ import annotations

import json

import jsonschema
import pytest

from rios.billing.ledger.accounts import earned
from rios.billing.ledger.ledger import Ledger
from rios.reporting.runner import Job, run_job
from rios.reporting.templates import Templates
from rios.services.reports.kinds import KINDS, kind_of
from rios.services.reports.periods import Span, parse_span
from rios.services.reports.reading import pin
from rios.words.errors import InvalidRequest
from tests.campaigns import ROOT
from tests.reports.conftest import NOW
from tests.reports.ledgers import OWNERS, TERMS

SPAN = parse_span("2026-11", at_us=NOW)


def document(ledger: Ledger, name: str, span: Span = SPAN, *, subject: str = "") -> dict[str, object]:
    kind, found = kind_of(name), pin(ledger.database)
    facts = kind.ask(ledger, span, found, subject=subject, chain=None)
    with ledger.database.reading() as connection:
        made = json.loads(kind.make(connection, span, found, facts, subject=subject))
        assert json.loads(kind.make(connection, span, found, facts, subject=subject)) == made
    schema = kind.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(made, schema)
    return made  # type: ignore[no-any-return]


def test_earnings_are_what_the_ledger_credited(ledger: Ledger) -> None:
    found = document(ledger, "earnings")
    names = {earned(owner) for owner in OWNERS}
    entries = [e for e in ledger.entries() if e.kind == "usage" and e.credit in names]
    wanted = sum(e.amount_wei for e in entries if SPAN.since_us <= e.at < SPAN.until_us)
    assert int(found["earned_wei"]) == int(found["ledger_wei"]) == wanted > 0  # type: ignore[call-overload]
    due = {one["owner"]: one["balance_wei"] for one in found["due"]}  # type: ignore[attr-defined]
    assert due == {owner: str(ledger.accounts([earned(owner)])[earned(owner)]) for owner in OWNERS}


def test_a_provider_sees_the_own_earnings_alone(ledger: Ledger) -> None:
    ledger.link_address("user-01", OWNERS[2])
    found = document(ledger, "earnings", subject="user-01")
    assert found["owner"] == OWNERS[2]
    assert [row["key"] for row in found["by"]["owner"]] == [OWNERS[2]]  # type: ignore[index]
    assert [one["owner"] for one in found["due"]] == [OWNERS[2]]  # type: ignore[attr-defined]
    assert found["earned_wei"] == found["ledger_wei"]
    nobody = document(ledger, "earnings", subject="user-02")
    assert (nobody["earned_wei"], nobody["due"]) == ("0", [])


def test_reliability_counts_every_end(ledger: Ledger) -> None:
    before = document(ledger, "reliability")
    at = SPAN.since_us + 10
    ledger.hold("h-released", "user-01", 5, request_id="x", terms=TERMS, at=at)
    ledger.release("h-released", at=at)
    ledger.hold("h-dead", "user-01", 5, request_id="y", terms=TERMS, at=at, expires_at=at + 1)
    ledger.expire(at=at + 2)
    ledger.hold("h-open", "user-01", 5, request_id="z", terms=TERMS, at=at, expires_at=NOW + 10**12)
    found = document(ledger, "reliability")
    old, new = before["total"], found["total"]
    assert [new[name] - old[name] for name in ("posted", "released", "expired", "live")] == [0, 1, 1, 1]  # type: ignore[index]
    assert new["answered_bp"] == new["posted"] * 10_000 // (new["posted"] + 2)  # type: ignore[index]
    assert sum(one["count"] for one in found["refunds"]) == len(  # type: ignore[attr-defined]
        [note for note in ledger.credit_notes() if SPAN.since_us <= note.at < SPAN.until_us]
    )
    mine = document(ledger, "reliability", subject="user-02")
    assert [row["key"] for row in mine["by_user"]] == ["user-02"]  # type: ignore[attr-defined]
    assert mine["waiting"] == mine["transactions"] == []


def test_throughput_adds_up(ledger: Ledger) -> None:
    found = document(ledger, "throughput")
    usage = list(ledger.usage(since=SPAN.since_us, until=SPAN.until_us))
    assert int(found["tokens_out"]) == sum(one.quantity for one in usage if one.resource == "tokens_out")  # type: ignore[call-overload]
    assert found["requests"] == len({one.request_id for one in usage})
    rows = {one["key"]: int(one["rows"]) for one in found["workers"]}  # type: ignore[attr-defined]
    assert sum(rows.values()) == sum(one.rows for one in usage)
    assert len(found["days"]) == 30  # type: ignore[arg-type]
    assert len(found["hours"]) == 24  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"cost"}))
def test_its_notebook_says_so(ledger: Ledger, name: str) -> None:
    template = Templates([ROOT / "reports"]).get(name)
    assert template.data == name
    assert template.summary
    data = json.dumps(document(ledger, name)).encode()
    done = run_job(Job(
        name=name, title=name, source=template.source, data=data, parameters={}, cpu_s=300, memory_bytes=8 << 30,
        timeout_s=280.0, pdf=False,
    ))  # fmt: skip
    assert (done.state, done.error) == ("ok", "")
    page = done.files["html"].decode()
    assert "Traceback" not in page
    assert page.count("rios-tiles") >= 2


def test_other_data_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="cost, earnings"):
        kind_of("secrets")
