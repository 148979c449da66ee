"""What is remembered until somebody writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError

from rios.storage.engine import Database
from rios.storage.unchanged import Unchanged


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url, timeout_s=20)
    with found.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    yield found
    found.close()


def _add(database: Database, value: int = 1) -> None:
    with database.writing() as connection:
        connection.execute(text("INSERT INTO t VALUES (:value)"), {"value": value})


def _counted(database: Database, reads: list[str]) -> Unchanged[int]:
    def read(key: str) -> int:
        reads.append(key)
        with database.reading() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM t")) or 0)

    return Unchanged(database, read, most=3)


def test_nobodys_writing_is_missed(database: Database) -> None:
    """Neither one's own nor that of another program."""
    reads: list[str] = []
    counted, other = _counted(database, reads), Database(str(database.engine.url.render_as_string(False)), timeout_s=20)
    for writer in (database, other, database, database, other, other):
        before = counted("a")
        _add(writer)
        assert counted("a") == before + 1
    with pytest.raises(ProgrammingError if not database.is_sqlite else OperationalError), other.writing() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (9)"))
    assert counted("a") == 6
    other.close()


def test_what_nobody_changed_is_read_once(database: Database) -> None:
    reads: list[str] = []
    counted = _counted(database, reads)
    assert counted.known("a") is None
    assert [counted("a"), counted("a"), counted("b")] == [0, 0, 0]
    assert reads == (["a", "b"] if database.is_sqlite else ["a", "a", "b"])
    assert counted.known("a") == (0 if database.is_sqlite else None)
    _add(database)
    assert counted.known("a") is None
    for key in "abcdefgh":
        counted(key)
    assert len(counted._found) <= 3


def test_what_is_written_while_it_is_read_makes_it_stale(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.sqlite", timeout_s=5)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))

    def read(_: str) -> int:
        with database.reading() as connection:
            found = int(connection.scalar(text("SELECT count(*) FROM t")) or 0)
        if not found:
            _add(database)
        return found

    counted = Unchanged(database, read, most=3)
    assert [counted("a"), counted("a")] == [0, 1]
    database.close()
    assert (counted._database._looks, database.mark()) == (None, None), "it is not opened again"


def test_a_file_that_cannot_be_asked_is_read(tmp_path: Path) -> None:
    """It says what is wrong then; and who looks waits for nobody else who does."""
    database = Database(f"sqlite:///{tmp_path}/x.sqlite", timeout_s=5)
    assert isinstance(database.mark(), int)
    with database._looking:
        assert database.mark() is None

    assert database._looks is not None
    database._looks.connection.close()
    assert database.mark() is None
    database.close()


def test_a_process_may_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative place is that of the beginning."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///x.sqlite", timeout_s=5)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    counted = _counted(database, [])
    assert counted("a") == 0
    _add(database)
    assert counted("a") == 1
    assert list(Path.cwd().iterdir()) == []
    database.close()
