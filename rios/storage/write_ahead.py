"""The write-ahead log of an SQLite file, with patience while others open it too.

Whoever makes it the file's own needs the file to itself for a moment; where two want that at once, one of them is told
that the database is locked without having waited (SQLite's handler for what is busy is not asked where both might wait
for ever, https://www.sqlite.org/c3ref/busy_handler.html): of 165 times that six opened an empty file at once, in 15.
"""

from __future__ import annotations

import sqlite3
import time

_AGAIN_S = 0.01
_PRIMARY = 0xFF
"""The bits of an extended code that say what kind it is."""


def keep_write_ahead_log(cursor: sqlite3.Cursor, *, timeout_s: float) -> None:
    """Have an SQLite file keep its log ahead. Raises sqlite3.OperationalError where it is locked for `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN_S)
