"""Where the embedded chain keeps its tries and blocks: keys and values, whole blocks at a time.

In memory, or in an SQLite file that several processes may share. One of them writes at a time, each block in one
transaction that is on the disk before anybody hears of the block, so a killed process leaves whole blocks behind.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from eth.db.backends.base import BaseDB

from rios.billing.recursion import put_back
from rios.storage.write_ahead import keep_write_ahead_log
from rios.words.errors import ChainUnavailable

put_back()

# Values that were read are kept until another process writes. A block touches some 30 of them.
_CACHED_MAX = 50_000


class EvmStore(BaseDB):
    """Bytes by bytes. What is written within `turn(write=True)` is kept at its end, all of it or nothing."""

    def __init__(self, path: Path | None, *, timeout_s: float) -> None:
        """path: the file, made where it is missing; None keeps all in memory. timeout_s: for somebody else's turn."""
        self._values: dict[bytes, bytes] = {}
        self._pending: dict[bytes, bytes | None] = {}
        self._lock = threading.RLock()
        self._timeout_s = timeout_s
        self._path = path
        self._file: sqlite3.Connection | None = None
        self._version: int | None = None
        if path is not None:
            with self._translated():
                self._file = _opened(path, timeout_s)

    @contextlib.contextmanager
    def turn(self, *, write: bool) -> Iterator[bool]:
        """Nobody else of this process is in its turn, and with `write` nobody of another process.

        Yields whether another process has written since the last turn. Raises ChainUnavailable by the deadline.
        """
        if not self._lock.acquire(timeout=self._timeout_s):
            raise ChainUnavailable(f"the embedded chain was busy for {self._timeout_s:g} s; try again")
        try:
            with self._translated():
                changed = self._begin(write)
                try:
                    yield changed
                    self._commit(self._pending if write else {})
                except BaseException:
                    if self._file is not None and self._file.in_transaction:
                        self._file.execute("ROLLBACK")
                    raise
                finally:
                    self._pending = {}
        finally:
            self._lock.release()

    def _begin(self, write: bool) -> bool:
        if self._file is None:
            return False
        self._file.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        # The transaction sees one state from its first read on, and this is it.
        version = self._file.execute("PRAGMA data_version").fetchone()[0]
        changed, self._version = version != self._version, version
        if changed or len(self._values) > _CACHED_MAX:
            self._values.clear()
        return bool(changed)

    def _commit(self, pending: Mapping[bytes, bytes | None]) -> None:
        if self._file is not None:
            kept = [(key, value) for key, value in pending.items() if value is not None]
            self._file.executemany(
                "INSERT INTO entries VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", kept
            )
            gone = [(key,) for key, value in pending.items() if value is None]
            self._file.executemany("DELETE FROM entries WHERE key = ?", gone)
            self._file.execute("COMMIT")
        for key, value in pending.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    def __getitem__(self, key: bytes) -> bytes:
        if key in self._pending:
            value = self._pending[key]
        elif key in self._values or self._file is None:
            value = self._values.get(key)
        else:
            row = self._file.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
            value = None if row is None else row[0]
            if value is not None:
                self._values[key] = value
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._pending[bytes(key)] = bytes(value)

    def __delitem__(self, key: bytes) -> None:
        self[key]  # a KeyError where there is none
        self._pending[key] = None

    def _exists(self, key: bytes) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ChainUnavailable(
                f"the embedded chain in {self._path} cannot be used: {error}. It is closed, in use by a process that "
                "hangs, or damaged; a backup of the file brings it back"
            ) from error


def _opened(path: Path, timeout_s: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    keep_write_ahead_log(file.cursor(), timeout_s=timeout_s)
    file.execute("PRAGMA synchronous = FULL")
    file.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
    return file
