"""The API is what its OpenAPI document says: generated requests over all routes, as each role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from schemathesis.core.failures import Failure, FailureGroup

from tests.gateway.generated import ask, operations, roles, whole
from tests.gateway.servers import Door, lean

REQUESTS = 20_000
TURNS = 10
"""Some operations have few possible requests: the others are asked again until there are enough."""


def test_no_request_breaks_it_and_no_answer_is_off_the_schema(door: Door) -> None:
    """A few of each as the first admin, a provider, a viewer and nobody; `make test-long` makes 20,000 as each role."""
    statuses = whole(door, examples=2, seconds=500)
    assert sum(statuses.values()) > 250
    assert {"200", "400", "401", "403", "404"} <= statuses.keys()
    assert "500" not in statuses


def test_a_break_is_found(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks see an answer that is a 500, and one that is off the schema."""
    chosen = {f"{one.method.upper()} {one.path}": one for one in operations(door)}
    monkeypatch.setattr(type(door.gate.tenancy), "models", lambda *_: 1 / 0)
    with pytest.raises(FailureGroup, match="Server error"):
        ask(door, chosen["GET /v1/deployments"], door.token, examples=1)
    monkeypatch.undo()
    monkeypatch.setattr(type(door.gate.accounts), "verified_audit", lambda *_: ["no object"])
    with pytest.raises((FailureGroup, Failure), match=r"(?i)server error|schema"):
        ask(door, chosen["GET /v1/audit/verify"], door.token, examples=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_thousand_requests(campaign_record: Any, tmp_path: Path) -> None:
    """In pieces by role and operation: each is kept, so that a second call goes on."""
    statuses: dict[str, int] = {}
    with lean(tmp_path / "home") as door:
        wanted, tokens = operations(door), roles(door)
        for turn in range(TURNS):
            total = sum(statuses.values())
            if total >= REQUESTS:
                break
            each = max(-(-(REQUESTS - total) // (len(wanted) * len(tokens))), 5)
            for role, token in tokens.items():
                for one in wanted:
                    found = campaign_record.once(
                        f"{turn} {role} {one.method.upper()} {one.path}",
                        lambda one=one, token=token, each=each: ask(door, one, token, examples=each, seed=1),
                    )
                    for status, count in found.items():
                        statuses[status] = statuses.get(status, 0) + count
    total = sum(statuses.values())
    campaign_record.conclude(
        requests=total, operations=len(wanted), roles=len(tokens), server_errors=statuses.get("500", 0),
        **{f"answers_{status}": statuses[status] for status in sorted(statuses)},
    )  # fmt: skip
    assert total >= REQUESTS
    assert "500" not in statuses
