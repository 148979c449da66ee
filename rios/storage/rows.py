"""Rows of one table that a transaction has read or changed, written in bulk at its end.

Each request of a batch changes rows here, in memory, and can be undone here when it fails; the others of the batch do
not notice. Rows are never changed in place: `put` replaces one, so undoing is putting the old one back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    Connection,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    insert,
    select,
    tuple_,
    update,
)

Key = tuple[Any, ...]
Row = Mapping[str, Any]
# SQLite takes 32,766 variables in a statement and PostgreSQL 65,535; short statements are cached better.
_CHUNK = 400


class Rows:
    """The rows of `table`, by the columns `key` (the primary key where none are named)."""

    def __init__(self, connection: Connection, table: Any, *, key: tuple[str, ...] = ()) -> None:
        """table: a mapped class or a Table."""
        self._connection = connection
        self._table: Table = getattr(table, "__table__", table)
        self._key = tuple(self._table.c[name] for name in key) or tuple(self._table.primary_key)
        self._key_names = tuple(column.name for column in self._key)
        self._found: dict[Key, Row | None] = {}
        self._stored: dict[Key, bool] = {}
        self._changed: dict[Key, None] = {}
        self._undo: list[tuple[Key, Row | None, bool]] = []

    def load(self, keys: Iterable[Key]) -> None:
        """Read the rows of `keys` that are not known yet, in few statements."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._found]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            self._found.update(dict.fromkeys(chunk))
            for found in self._connection.execute(*self._question(chunk)).mappings():
                row = dict(found)
                key = tuple([row[name] for name in self._key_names])
                self._found[key] = row
                self._stored[key] = True

    def _question(self, keys: list[Key]) -> tuple[Select[Any], dict[str, Any]]:
        if len(keys) == 1:
            return _reading_one(self._table, self._key), dict(zip(self._key_names, keys[0], strict=True))
        wanted = [key[0] for key in keys] if len(self._key) == 1 else keys
        return _reading(self._table, self._key), {"keys": wanted}

    def get(self, *key: Any) -> Row | None:
        """The row of `key`, or None."""
        if key not in self._found:
            self.load([key])
        return self._found[key]

    def put(self, row: Row) -> None:
        """Make `row`, which has all columns, the row of its key."""
        key = tuple([row[name] for name in self._key_names])
        if key not in self._found:
            self.load([key])
        self._undo.append((key, self._found[key], key in self._changed))
        self._found[key] = row
        self._changed[key] = None

    def change(self, row: Row, **changes: Any) -> Row:
        """Replace `row` by one with some columns changed, and return that."""
        changed = {**row, **changes}
        self.put(changed)
        return changed

    def commit_request(self) -> None:
        """Keep what was put since the last call of this or of `undo_request`."""
        self._undo.clear()

    def undo_request(self) -> None:
        """Take back what was put since then."""
        for key, row, changed in reversed(self._undo):
            self._found[key] = row
            if not changed:
                del self._changed[key]
        self._undo.clear()

    def flush(self) -> None:
        """Write all that was put."""
        new: list[Row] = []
        old: list[Row] = []
        for key in self._changed:
            row = self._found[key]
            assert row is not None
            (old if self._stored.get(key) else new).append(row)
        if new:
            self._connection.execute(_inserting(self._table), new)
        if old:
            rows = [{f"v_{name}": value for name, value in row.items()} for row in old]
            self._connection.execute(_updating(self._table, self._key), rows)
        for key in self._changed:
            self._stored[key] = True
        self._changed.clear()


# Statements are made once: to build one takes longer than SQLite takes to answer it.


@functools.cache
def _reading(table: Table, key: tuple[Column[Any], ...]) -> Select[Any]:
    wanted: BindParameter[Any] = bindparam("keys", expanding=True)
    return select(table).where(key[0].in_(wanted) if len(key) == 1 else tuple_(*key).in_(wanted))


@functools.cache
def _reading_one(table: Table, key: tuple[Column[Any], ...]) -> Select[Any]:
    return select(table).where(*[column == bindparam(column.name) for column in key])


@functools.cache
def _inserting(table: Table) -> Insert:
    return insert(table)


@functools.cache
def _updating(table: Table, key: tuple[Column[Any], ...]) -> Update:
    where = {column.name: column == bindparam(f"v_{column.name}") for column in key}
    rest: dict[str, Any] = {name: bindparam(f"v_{name}") for name in table.c.keys() if name not in where}  # noqa: SIM118
    return update(table).where(*where.values()).values(rest)
