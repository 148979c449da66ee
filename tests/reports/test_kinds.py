"""The reports beside that of costs: their figures, their schemas, and that each notebook says what its data say."""

from __future__ import annotations

import json

import jsonschema
import pytest
from sqlalchemy import insert

from rios.billing.ledger.accounts import earned
from rios.billing.ledger.ledger import Ledger
from rios.reporting.runner import Job, run_job
from rios.reporting.templates import Templates
from rios.services.reports.kinds import KINDS, kind_of
from rios.services.reports.periods import DAY_US, Span, parse_span
from rios.services.reports.reading import pin
from rios.storage.report_models import RequestFaultRow
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


def test_reliability_tells_faults_and_stalls(ledger: Ledger) -> None:
    days = [SPAN.since_us + 10, SPAN.since_us + 3 * DAY_US, SPAN.until_us]
    faults = [
        {"request_id": f"r{number}", "kind": kind, "about": about, "user_id": user, "model": "m", "at": days[day],
         "count": count, "longest_us": count * 10**6 if kind == "stalled" else 0}
        for number, (kind, about, user, day, count) in enumerate([
            ("host failed", "host-1", "user-01", 0, 2), ("host failed", "host-1", "user-02", 1, 1),
            ("trunk lost", "host-2", "user-01", 1, 1), ("trunk lost", "host-2", "user-01", 2, 1),
            ("stalled", "", "user-01", 0, 2), ("stalled", "", "user-02", 0, 5), ("stalled", "", "user-02", 1, 1),
        ])
    ]  # fmt: skip
    ledger.transact(lambda batch: batch.connection.execute(insert(RequestFaultRow), faults), alone=True)
    found = document(ledger, "reliability")
    assert found["faults"] == [
        {"kind": "host failed", "about": "host-1", "requests": 2, "count": 3},
        {"kind": "trunk lost", "about": "host-2", "requests": 1, "count": 1},
    ]
    assert found["stalls"] == [
        {"key": "2026-11-01", "requests": 2, "count": 7, "longest_us": 5_000_000},
        {"key": "2026-11-04", "requests": 1, "count": 1, "longest_us": 1_000_000},
    ]
    mine = document(ledger, "reliability", subject="user-02")
    assert [one["requests"] for one in mine["faults"]] == [1]  # type: ignore[attr-defined]
    assert [one["count"] for one in mine["stalls"]] == [5, 1]  # type: ignore[attr-defined]


def test_what_was_pinned_before_there_were_faults_is_made_again(ledger: Ledger) -> None:
    kind, found = kind_of("reliability"), pin(ledger.database)
    said = json.loads(kind.ask(ledger, SPAN, found, subject="", chain=None))
    older = json.dumps({name: value for name, value in said.items() if name not in ("faults", "stalls")})
    with ledger.database.reading() as connection:
        made = json.loads(kind.make(connection, SPAN, found, older, subject=""))
    assert made == {**said, "faults": [], "stalls": []}


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
    went_wrong = {"request_id": "r", "user_id": "local", "model": "m", "at": SPAN.since_us, "count": 3}
    rows = [
        {**went_wrong, "kind": "host failed", "about": "host-of-faults", "longest_us": 0},
        {**went_wrong, "kind": "stalled", "about": "", "longest_us": 4_200_000},
    ]
    ledger.transact(lambda batch: batch.connection.execute(insert(RequestFaultRow), rows), alone=True)
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
    assert all((said in page) == (name == "reliability") for said in ("host-of-faults", "4.2 s"))


def test_other_data_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="cost, earnings"):
        kind_of("secrets")
