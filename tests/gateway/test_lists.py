"""Lists: as many questions to the database for many rows as for few, each by an index, in pages that miss nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from rios.services import tokens
from rios.services.views import WorkerInfo, Workers
from rios.words.money import WEI_PER_ROS
from tests.gateway.servers import Door
from tests.services.earning import earn, owner

LISTS = ("/v1/tokens", "/v1/users", "/v1/audit", "/v1/usage", "/v1/sessions", "/v1/webhooks", "/v1/deployments",
         "/v1/budgets", "/v1/models")  # fmt: skip

PAGED = ("/v1/tokens", "/v1/users", "/v1/audit", "/v1/usage", "/v1/sessions", "/v1/deployments", "/v1/alerts",
         "/v1/workers", "/v1/clients")  # fmt: skip


@contextmanager
def statements(door: Door) -> Iterator[list[tuple[str, Any]]]:
    """What the database is asked for meanwhile, without what runs in the background."""
    engine, found = door.gate.tenancy.ledger.database.engine, []

    def asked(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        if threading.current_thread().name in ("rios-reconciler", "rios-engine"):
            return
        background = ("BEGIN", "outbox", "cursors", "job_records", "job_views")
        if not any(word in statement for word in background):
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", asked)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", asked)


def _asked(door: Door, path: str) -> list[tuple[str, Any]]:
    with door.client() as http:
        http.get("/v1/users/me")  # so that the token is known
        with statements(door) as found:
            assert http.get(path).status_code == 200
    return [one for one in found if "audit.seq > ?" not in one[0] or path == "/v1/audit"]


def test_many_rows_take_no_more_questions_than_few(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FRESH_S", 600.0)  # on a slow machine, too, the token stays known
    few = {path: len(_asked(door, path)) for path in LISTS}
    with door.client() as http:
        for number in range(30):
            name = f"many-{number}"
            assert http.post("/v1/users", json={"login": name, "role": "viewer"}).status_code == 201
            assert http.post("/v1/tokens", json={"name": name}).status_code == 201
    for path in LISTS:
        many = _asked(door, path)
        assert len(many) <= few[path], path
        assert len(many) <= 6, many
        with door.gate.tenancy.ledger.database.reading() as connection:
            for statement, parameters in many:
                if statement.lstrip().upper().startswith("SELECT"):
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                    assert not [row for row in plan if row[3].startswith("SCAN") and "CONSTANT" not in row[3]], plan


def _filled(door: Door) -> None:
    """Seven rows at least for every list in pages."""
    with door.client() as http:
        made = {"login": "paged", "role": "admin", "password": "correct horse battery"}
        if http.post("/v1/users", json=made).status_code == 409:
            return
        for number in range(7):
            for path, body in (
                ("/v1/users", {"login": f"paged-{number}", "role": "viewer"}),
                ("/v1/tokens", {"name": f"paged-{number}"}),
                ("/v1/deployments", {"name": f"paged-{number}"}),
                ("/v1/clients", {"name": f"paged-{number}", "grants": ["client_credentials"], "scopes": ["generate"]}),
            ):
                assert http.post(path, json=body).is_success, path
        http.put("/v1/budgets/month", json={"limit": "1 ROS", "hard": False, "alerts_bp": [*range(1000, 8000, 1000)]})
    purse = door.gate.network._purse
    for number in range(1, 8):
        earn(purse, f"paged-{number}", {owner(0xA1): WEI_PER_ROS // 10})
    with door.gate.tenancy.ledger.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox WHERE topic LIKE 'budget%'")).scalar() == 7
    names = ("seven", "six", "five", "four", "three", "two", "one")
    kind = {"pid": 1, "address": "", "device": "cpu", "memory_bytes": 1, "reserved_bytes": 0, "state": "serving"}
    kind |= {"experts": 0, "speed": 1.0, "machine": "", "dask_address": ""}
    door.gate.network.workers = Workers([WorkerInfo(name=name, **kind) for name in names])
    sign_in = door.gate.accounts.tokens.sign_in
    for _ in range(7):
        sign_in("paged", "correct horse battery")


@pytest.mark.parametrize("path", PAGED)
def test_pages_miss_nothing(door: Door, path: str) -> None:
    _filled(door)
    token = door.token
    if path == "/v1/sessions":
        token = door.gate.accounts.tokens.sign_in("paged", "correct horse battery").access_token
    with door.client(token) as http:
        whole = http.get(path, params={"limit": 500}).json()
        assert len(whole["data"]) >= 7
        assert whole["next"] is None
        found: list[Any] = []
        more: dict[str, Any] = {}
        while more.get("after", "") is not None:
            page = http.get(path, params={"limit": 3, **more}).json()
            assert len(page["data"]) <= 3
            found += page["data"]
            more = {"after": page["next"]}
        shown = [_without_time(one) for one in found]
        assert shown == [_without_time(one) for one in whole["data"]]
        if path in ("/v1/tokens", "/v1/sessions", "/v1/usage", "/v1/alerts"):
            for wrong in ("x", "1", ":", "-1:x", "99999999999999999:x"):
                assert http.get(path, params={"after": wrong}).status_code == 400


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    """A row, without what changes while it is looked at."""
    return {name: value for name, value in row.items() if name not in ("last_used_at", "state", "reason", "error")}
