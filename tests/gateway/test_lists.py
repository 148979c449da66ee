"""Lists: as many questions to the database for many rows as for few, each by an index, in pages that miss nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from tests.gateway.servers import Door

LISTS = ("/v1/tokens", "/v1/users", "/v1/audit", "/v1/usage", "/v1/sessions", "/v1/webhooks", "/v1/deployments",
         "/v1/budgets", "/v1/models")  # fmt: skip


@contextmanager
def statements(door: Door) -> Iterator[list[tuple[str, Any]]]:
    """What the database is asked for meanwhile, without what runs in the background."""
    engine, found = door.gate.tenancy.ledger.database.engine, []

    def asked(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        if "outbox" not in statement and "cursors" not in statement and "deployments" not in statement:
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


@pytest.mark.parametrize("path", LISTS)
def test_many_rows_take_no_more_questions_than_few(door: Door, path: str) -> None:
    few = len(_asked(door, path))
    with door.client() as http:
        for number in range(30):
            name = f"{path.rpartition('/')[2]}-{number}"
            assert http.post("/v1/users", json={"login": name, "role": "viewer"}).status_code == 201
            assert http.post("/v1/tokens", json={"name": name}).status_code == 201
    many = _asked(door, path)
    assert len(many) <= few
    assert len(many) <= 6, many
    with door.gate.tenancy.ledger.database.reading() as connection:
        for statement, parameters in many:
            if statement.lstrip().upper().startswith("SELECT"):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                assert not [row for row in plan if row[3].startswith("SCAN") and "CONSTANT" not in row[3]], statement


def test_pages_miss_nothing(door: Door) -> None:
    with door.client() as http:
        for number in range(7):
            http.post("/v1/users", json={"login": f"paged-{number}", "role": "viewer"})
        whole = [one["id"] for one in http.get("/v1/users", params={"limit": 500}).json()["data"]]
        found: list[str] = []
        after = ""
        while after is not None:
            page = http.get("/v1/users", params={"limit": 3, "after": after}).json()
            assert len(page["data"]) <= 3
            found += [one["id"] for one in page["data"]]
            after = page["next"]
        assert found == whole
    with door.gate.tenancy.ledger.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM people")).scalar() == len(whole)
