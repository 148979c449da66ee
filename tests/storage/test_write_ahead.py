"""An SQLite file gets its write-ahead log also where others open it at the same moment."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from rios.storage.write_ahead import keep_write_ahead_log

WAIT_S = 60.0


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that is told at once that the file is locked, as SQLite tells whoever might wait for ever."""
    return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    with closing(_opened(tmp_path / "file")) as other, closing(_opened(tmp_path / "file")) as mine:
        other.execute("BEGIN EXCLUSIVE")
        later = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        later.start()
        keep_write_ahead_log(mine.cursor(), timeout_s=WAIT_S)
        later.join()
        assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_that_stays_locked_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with closing(_opened(tmp_path / "file")) as other, closing(_opened(tmp_path / "file")) as mine:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            keep_write_ahead_log(mine.cursor(), timeout_s=0.05)


def test_what_is_no_database_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no database at all, however long one waits" * 30)
    with closing(_opened(tmp_path / "file")) as mine, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        keep_write_ahead_log(mine.cursor(), timeout_s=WAIT_S)
