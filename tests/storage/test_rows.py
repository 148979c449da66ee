"""Rows in memory: read once, undone by request, written in bulk."""

from __future__ import annotations

from sqlalchemy import insert, select

from rios.storage import migrate
from rios.storage.engine import Database
from rios.storage.models import AlertRow, SpendingRow
from rios.storage.rows import Rows


def test_rows_are_read_changed_undone_and_written(url: str) -> None:
    database = Database(url, timeout_s=20)
    migrate.upgrade(database)
    with database.writing() as connection:
        known = [{"user_id": f"u{n}", "period": "day", "start": n, "spent_wei": n, "most_wei": n} for n in range(1_000)]
        connection.execute(insert(SpendingRow), known)
        rows = Rows(connection, SpendingRow)
        rows.load((f"u{n}", "day", n) for n in range(1_001))
        assert rows.get("u1000", "day", 1000) is None
        row = rows.get("u7", "day", 7)
        assert row is not None
        rows.change(row, spent_wei=10**30)
        rows.commit_request()
        rows.change(rows.get("u7", "day", 7) or {}, spent_wei=1)
        rows.put({"user_id": "new", "period": "day", "start": 0, "spent_wei": 1, "most_wei": 1})
        rows.undo_request()
        assert (rows.get("u7", "day", 7) or {})["spent_wei"] == 10**30
        assert rows.get("new", "day", 0) is None
        rows.put({"user_id": "new", "period": "week", "start": 0, "spent_wei": 2, "most_wei": 2})
        rows.flush()
        rows.change(rows.get("new", "week", 0) or {}, spent_wei=3)
        rows.flush()
        alerts = Rows(connection, AlertRow)
        alerts.put({"key": "k", "at": 1})
        alerts.put({"key": "k", "at": 2})
        alerts.flush()
    with database.reading() as connection:
        assert connection.scalar(select(SpendingRow.spent_wei).where(SpendingRow.user_id == "u7")) == 10**30
        new = connection.execute(select(SpendingRow.period, SpendingRow.spent_wei).where(SpendingRow.user_id == "new"))
        assert [tuple(row) for row in new] == [("week", 3)]
        assert [tuple(row) for row in connection.execute(select(AlertRow.key, AlertRow.at))] == [("k", 2)]
    database.close()
