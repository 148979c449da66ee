"""The statements of `Rows`, as text that the driver takes, with what SQLAlchemy's types make of their values.

Most requests of the ledger read and write one row of each of some twenty tables. Building, compiling and reading a
statement of SQLAlchemy's takes longer than SQLite takes to answer it; as text it is made once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Table

from rios.storage.driver import driven, run
from rios.storage.types import Whole, check_whole

# ruff: noqa: S608 (names are those of the tables, values go as the driver's parameters)

_Process = Callable[[Any], Any]


class Statements:
    """Reads, inserts and updates whole rows of `table` by the columns `key`."""

    def __init__(self, table: Table, key: tuple[str, ...], dialect: Dialect) -> None:
        self._columns: tuple[Column[Any], ...] = tuple(table.columns)
        self._names = tuple(column.name for column in self._columns)
        self._mark = "?" if dialect.paramstyle == "qmark" else "%s"
        self._is_sqlite = dialect.name == "sqlite"
        self._binds = {column.name: _bind(column, dialect) for column in self._columns}
        self._dialect = dialect
        self._results: tuple[_Process | None, ...] | None = None  # what the driver's types are, the first answer says
        self._key = key
        self._rest = tuple(name for name in self._names if name not in key)
        quoted = dialect.identifier_preparer
        self._quoted = {column.name: quoted.format_column(column) for column in self._columns}
        self._table = quoted.format_table(table)
        self._insert = (
            f"INSERT INTO {self._table} ({', '.join(self._quoted.values())}) VALUES ({self._marks(len(self._names))})"
        )
        changes, wanted = ", ".join(self._equal(self._rest)), " AND ".join(self._equal(key))
        self._update = f"UPDATE {self._table} SET {changes} WHERE {wanted}"
        self._select = f"SELECT {', '.join(self._quoted.values())} FROM {self._table} WHERE "
        self._one = self._select + wanted

    def read(self, connection: Connection, keys: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
        """The rows of those `keys` that are there."""
        values = tuple(self._bound(name, value) for key in keys for name, value in zip(self._key, key, strict=True))
        statement = self._one if len(keys) == 1 else self._many(len(keys))
        with driven(connection, statement) as driver:
            cursor = driver.cursor()
            try:
                cursor.execute(statement, values)
                described, found = cursor.description, cursor.fetchall()
            finally:
                cursor.close()
        if self._results is None:
            self._results = tuple(
                column.type.dialect_impl(self._dialect).result_processor(self._dialect, said[1])
                for column, said in zip(self._columns, described, strict=True)
            )
        for row in found:
            yield {
                name: value if process is None else process(value)
                for name, process, value in zip(self._names, self._results, row, strict=True)
            }

    def insert(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert whole rows. Raises IntegrityError where one is there."""
        self._run(connection, self._insert, self._names, rows)

    def update(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make all columns of the rows of these keys what `rows` say."""
        self._run(connection, self._update, (*self._rest, *self._key), rows)

    def _run(
        self, connection: Connection, statement: str, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        binds = [(name, self._binds[name]) for name in names]
        values = [
            tuple([row[name] if process is None else process(row[name]) for name, process in binds]) for row in rows
        ]
        run(connection, statement, values)

    def _bound(self, name: str, value: Any) -> Any:
        process = self._binds[name]
        return value if process is None else process(value)

    def _many(self, count: int) -> str:
        names = ", ".join(self._quoted[name] for name in self._key)
        if len(self._key) == 1:
            return f"{self._select}{names} IN ({self._marks(count)})"
        keys = ", ".join([f"({self._marks(len(self._key))})"] * count)
        return f"{self._select}({names}) IN ({'VALUES ' if self._is_sqlite else ''}{keys})"

    def _marks(self, count: int) -> str:
        return ", ".join([self._mark] * count)

    def _equal(self, names: Sequence[str]) -> list[str]:
        return [f"{self._quoted[name]} = {self._mark}" for name in names]


@functools.lru_cache(maxsize=256)
def statements(table: Table, key: tuple[str, ...], dialect: Dialect) -> Statements:
    """The statements of a table for the databases of one engine: `dialect` is its own."""
    return Statements(table, key, dialect)


def _bind(column: Column[Any], dialect: Dialect) -> _Process | None:
    if isinstance(column.type, Whole) and dialect.name == "sqlite":
        return _whole  # as its own processor, which is three calls
    return column.type.dialect_impl(dialect).bind_processor(dialect)


def _whole(value: Any) -> str | None:
    return None if value is None else str(check_whole(value))
