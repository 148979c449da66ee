"""Rows of one table that a transaction has read or changed, written in bulk at its end.

Each request of a batch changes rows here, in memory, and can be undone here when it fails; the others of the batch do
not notice. Rows are never changed in place: `put` replaces one, so undoing is putting the old one back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table

from rios.storage.statements import statements

Key = tuple[Any, ...]
Row = Mapping[str, Any]
# SQLite takes 32,766 variables in a statement and PostgreSQL 65,535; short statements are cached better.
_CHUNK = 400
_KEPT_MAX = 100


class Rows:
    """The rows of `table`, by the columns `key` (the primary key where none are named)."""

    def __init__(self, connection: Connection, table: Any, *, key: tuple[str, ...] = ()) -> None:
        """table: a mapped class or a Table."""
        self._connection = connection
        self._table: Table = getattr(table, "__table__", table)
        self._key_names = key or tuple(column.name for column in self._table.primary_key)
        self._statements = statements(self._table, self._key_names, connection.dialect)
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
            for row in self._statements.read(self._connection, chunk):
                key = tuple([row[name] for name in self._key_names])
                self._found[key] = row
                self._stored[key] = True

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

    def absent(self, *key: Any) -> None:
        """It is known that there is no row of `key`: it need not be looked for."""
        self._found.setdefault(key, None)

    def go_on(self, connection: Connection) -> Rows:
        """These for the next transaction, where nothing else has changed the table since the last."""
        self._connection = connection
        if len(self._found) > _KEPT_MAX:
            self._found.clear()
            self._stored.clear()
        return self

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
            self._statements.insert(self._connection, new)
        if old:
            self._statements.update(self._connection, old)
        for key in self._changed:
            self._stored[key] = True
        self._changed.clear()
