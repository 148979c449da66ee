"""Requests that schemathesis makes from the OpenAPI document, each answer checked: no 5xx, none off the schema."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    content_type_conformance,
    load_all_checks,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway.servers import Door

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
# Generated requests are refused where there is no worker, and where a readiness is asked for.
UNAVAILABLE = 503
WITHOUT_WORKERS = ("/ready", "/v1/deployments/{name}/", "/v1/completions", "/v1/chat/completions", "/v1/jobs")
ENDLESS = "/v1/events"
_WAIT_S = 30.0
_PATIENT_S, _PATIENT_MAX_S = 0.5, 60.0
"""Of generated questions that wait for something; above the second a route refuses them."""


def roles(door: Door) -> dict[str, str]:
    """A token for each role, by its name; "" for nobody. The first admin is the network's."""
    found = {"operator": door.token, "nobody": ""}
    with door.client() as http:
        lab = http.post("/v1/organisations", json={"name": "Generated", "admin": "generated"}).json()
        found["admin"] = lab["token"]
    with door.client(lab["token"]) as http:
        for role in ("developer", "worker", "viewer"):
            made = http.post("/v1/users", json={"login": f"generated-{role}", "role": role})
            found[role] = made.json()["token"]
    return found


def operations(door: Door) -> list[Any]:
    """All operations of a gateway's document."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{door.url}/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def ask(door: Door, operation: Any, token: str, *, examples: int, seed: int = 0) -> dict[str, int]:
    """Make so many requests of an operation and check each answer; how many had which status."""
    statuses: Counter[str] = Counter()
    headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"} if token else {}

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed == 0, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        case.headers = {**(case.headers or {}), **headers}
        if not token:
            case.headers.pop("Authorization", None)
        if operation.path == ENDLESS:
            statuses[_begun(case, door)] += 1
            return
        waits = (case.query or {}).get("wait_s")
        if isinstance(waits, int | float) and _PATIENT_S < waits <= _PATIENT_MAX_S:
            case.query["wait_s"] = _PATIENT_S
        response = case.call(base_url=door.url, timeout=_WAIT_S)
        statuses[str(response.status_code)] += 1
        away = response.status_code == UNAVAILABLE and operation.path.startswith(WITHOUT_WORKERS)
        checks = [check for check in CHECKS if not (away and check is not_a_server_error)]
        case.validate_response(response, checks=checks)

    run()
    return dict(statuses)


def _begun(case: Any, door: Door) -> str:
    """The status of a stream that would never end; what it is said to be is checked here."""
    asked = case.as_transport_kwargs(base_url=door.url)
    with httpx2.stream(asked["method"], asked["url"], headers=dict(asked["headers"]), timeout=_WAIT_S) as response:
        good = response.status_code == 200
        kind = response.headers["content-type"].partition(";")[0]
        assert response.status_code < 500, "Server error"
        assert kind == ("text/event-stream" if good else "application/problem+json")
    return str(response.status_code)


def whole(door: Door, *, examples: int, seconds: float) -> Counter[str]:
    """All operations as the network's admin, `examples` of each, and one of each as those who may less; statuses of all
    answers. Raises AssertionError after `seconds`."""
    statuses: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    wanted = operations(door)
    tokens = roles(door)
    for role in ("operator", "worker", "viewer", "nobody"):
        token = tokens[role]
        for operation in wanted:
            assert time.monotonic() < deadline, f"{sum(statuses.values())} requests took {seconds:g} s"
            statuses += Counter(ask(door, operation, token, examples=examples if role == "operator" else 1))
    return statuses
