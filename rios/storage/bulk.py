"""The two statements that carry the load, in the form that each driver runs fastest.

Rows are tuples in the order of the columns. Measured in batches of 1,000 (`rios/reporting/bench_ledger.py`): PostgreSQL
takes COPY in two thirds of the time of psycopg's executemany; SQLite has nothing faster than executemany.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from rios.storage.driver import driven, run

COLUMNS = "seq, id, debit_id, credit_id, amount_wei, kind, reference, at, payload, digest, hash"
# ruff: noqa: S608 (the columns are the constant above)
INSERT = f"INSERT INTO transfers ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_POSTGRES = f"INSERT INTO transfers ({COLUMNS}) VALUES (%s, %s, %s, %s, %s::numeric, %s, %s, %s, %s, %s, %s)"
_COPY = f"COPY transfers ({COLUMNS}) FROM STDIN"
BALANCES = "UPDATE accounts SET balance_wei = ?, floor_wei = ? WHERE id = ?"
BALANCES_POSTGRES = "UPDATE accounts SET balance_wei = %s::numeric, floor_wei = %s::numeric WHERE id = %s"
_MANY_BALANCES = """
    UPDATE accounts SET balance_wei = v.balance::numeric, floor_wei = v.floor::numeric
    FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS v(balance, floor, id) WHERE accounts.id = v.id
"""

Entry = tuple[int, str, int, int, str, str, str, int, str | None, bytes, bytes]
"""One row of `transfers`; the amount is decimal text, which both databases take."""


def insert_transfers(connection: Connection, rows: Sequence[Entry]) -> None:
    """Insert entries. Raises IntegrityError where an id or a number is known."""
    if connection.dialect.name == "sqlite":
        run(connection, INSERT, rows)
        return
    with driven(connection, _COPY) as driver, driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for row in rows:
            copy.write_row(row)


def update_balances(connection: Connection, rows: Sequence[tuple[int, int | None, int]]) -> None:
    """Set balance and floor of accounts: rows of (balance, floor, account id)."""
    texts = [(str(balance), None if floor is None else str(floor), number) for balance, floor, number in rows]
    if connection.dialect.name == "sqlite":
        run(connection, BALANCES, texts)
    else:
        run(connection, _MANY_BALANCES, [tuple(list(column) for column in zip(*texts, strict=True))])
