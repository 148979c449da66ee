"""Rows of one table that a transaction has read or changed, written in bulk at its end.

Each request of a batch changes rows here, in memory, and can be undone here when it fails; the others of the batch do
not notice. Rows are never changed in place: `put` replaces one, so undoing is putting the old one back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select, tuple_, update

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
        self._found: dict[Key, Row | None] = {}
        self._stored: dict[Key, bool] = {}
        self._changed: dict[Key, None] = {}
        self._undo: list[tuple[Key, Row | None, bool]] = []

    def load(self, keys: Iterable[Key]) -> None:
        """Read the rows of `keys` that are not known yet, in few statements."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._found]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            if len(self._key) == 1:
                wanted = self._key[0].in_([key[0] for key in chunk])
            else:
                wanted = tuple_(*self._key).in_(chunk)
            self._found.update(dict.fromkeys(chunk))
            for row in self._connection.execute(select(self._table).where(wanted)).mappings():
                key = tuple(row[column.name] for column in self._key)
                self._found[key] = dict(row)
                self._stored[key] = True

    def get(self, *key: Any) -> Row | None:
        """The row of `key`, or None."""
        if key not in self._found:
            self.load([key])
        return self._found[key]

    def put(self, row: Row) -> None:
        """Make `row`, which has all columns, the row of its key."""
        key = tuple(row[column.name] for column in self._key)
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
            self._connection.execute(insert(self._table), new)
        if old:
            names = {column.name for column in self._key}
            rest: dict[str, Any] = {
                column.name: bindparam(f"v_{column.name}") for column in self._table.c if column.name not in names
            }
            where = [column == bindparam(f"v_{column.name}") for column in self._key]
            self._connection.execute(
                update(self._table).where(*where).values(rest),
                [{f"v_{name}": value for name, value in row.items()} for row in old],
            )
        for key in self._changed:
            self._stored[key] = True
        self._changed.clear()
