"""How databases are opened, and how they fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from rios.storage.engine import Database, is_transient, parse_url
from rios.words.errors import InvalidRequest, LedgerUnavailable
from tests.gateway.services import postgres_server
from tests.waiting import PATIENCE, until


def test_sqlite_commits_to_the_disk(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.sqlite", timeout_s=5)
    for using in (database.reading, database.writing):
        with using() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1
            assert connection.scalar(text("PRAGMA busy_timeout")) == 5000
    database.close()


def test_a_private_database_goes_away(tmp_path: Path) -> None:
    database = Database(None, timeout_s=5)
    path = Path(database.engine.url.database or "")
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    assert path.exists()
    assert "private" in repr(database)
    database.close()
    assert not path.parent.exists()


def test_a_password_is_not_shown() -> None:
    database = Database("postgresql://ann:hunter2@127.0.0.1:1/rios", timeout_s=2)
    with pytest.raises(LedgerUnavailable) as caught, database.reading():
        pass
    assert "hunter2" not in f"{database!r} {caught.value}"
    assert "127.0.0.1" in str(caught.value)
    database.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "not a url", "oracle:///x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="ledger"):
        parse_url(url)


def test_only_one_writes_and_the_others_wait_until_their_deadline(url: str) -> None:
    one, other = Database(url, timeout_s=20), Database(url, timeout_s=0.2 * PATIENCE)
    with one.writing(), pytest.raises(OperationalError) as caught, other.writing():
        pass
    assert is_transient(caught.value)
    with other.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    one.close()
    other.close()


def test_a_reader_sees_one_state_and_does_not_wait(url: str) -> None:
    database = Database(url, timeout_s=20)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    with database.reading() as reader:
        assert reader.scalar(text("SELECT count(*) FROM t")) == 0
        with database.writing() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
        assert reader.scalar(text("SELECT count(*) FROM t")) == 0
    with database.reading() as reader:
        assert reader.scalar(text("SELECT count(*) FROM t")) == 1
    database.close()


def test_a_file_that_is_no_database_does_not_get_better(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"not a database, and longer than the header of one" * 20)
    database = Database(f"sqlite:///{path}", timeout_s=5)
    with pytest.raises(LedgerUnavailable, match="not a database"), database.reading():
        pass
    database.close()


def test_nobody_waits_for_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are stopped: connections stay open, new ones are taken by the kernel, and nothing comes."""
    with postgres_server() as server:
        database = Database(server.url, timeout_s=1)
        with database.reading() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        server.freeze()
        started = time.monotonic()
        with pytest.raises(LedgerUnavailable, match=r"no answer within 1.5 s"), database.reading() as connection:
            connection.execute(text("SELECT 1"))
        assert time.monotonic() - started < 3 * PATIENCE, "an old connection, and no new one after it"
        with monkeypatch.context() as patch:
            patch.setattr(database.engine, "connect", lambda: pytest.fail("the server is asked"))
            patch.setattr(database._breaker, "allows", lambda: False)  # within a second of that
            with pytest.raises(LedgerUnavailable, match="did not answer a moment ago"), database.reading():
                pass
        server.thaw()
        until(lambda: _answers(database), "it is used again", deadline_s=5)
        server.freeze()
        with pytest.raises(OperationalError), database.writing() as connection:
            connection.execute(text("SELECT 1"))
        with pytest.raises(LedgerUnavailable, match="did not answer a moment ago"):
            database.check()
        server.thaw()
        until(lambda: _answers(database), "it is used again", deadline_s=5)
        database.close()


def _answers(database: Database) -> bool:
    try:
        with database.reading() as connection:
            return connection.scalar(text("SELECT 1")) == 1
    except LedgerUnavailable:
        return False
