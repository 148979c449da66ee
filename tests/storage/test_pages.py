"""Many rows, page by page, by the drivers' own cursors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import column, select, table, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from rios.storage.driver import pages
from rios.storage.engine import Database

FEWS = table("fews", column("number"), column("name"), column("bytes"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url, timeout_s=20)
    kind = "BLOB" if found.is_sqlite else "BYTEA"
    with found.writing() as connection:
        connection.execute(text(f"CREATE TABLE fews (number BIGINT, name TEXT, bytes {kind})"))
        rows = [{"number": n, "name": f"{n} %", "bytes": bytes([n])} for n in range(25)]
        connection.execute(text("INSERT INTO fews VALUES (:number, :name, :bytes)"), rows)
    yield found
    found.close()


def test_all_rows_come_once_in_pages(database: Database) -> None:
    names = [f"{n} %" for n in range(0, 25, 2)]
    wanted = select(FEWS.c.number, FEWS.c.name, FEWS.c.bytes).where(FEWS.c.name.in_(names)).order_by(FEWS.c.number)
    with database.reading() as connection:
        found = [list(page) for page in pages(connection, wanted, 5)]
        assert list(pages(connection, wanted.where(FEWS.c.number > 99), 5)) == []
    assert [len(page) for page in found] == [5, 5, 3]
    assert [tuple(row) for page in found for row in page] == [(n, f"{n} %", bytes([n])) for n in range(0, 25, 2)]


def test_two_are_read_in_turn_and_one_is_left_in_the_middle(database: Database) -> None:
    with database.reading() as connection:
        one, other = (pages(connection, text("SELECT number FROM fews ORDER BY number"), 10) for _ in range(2))
        assert next(one)[0][0] == next(other)[0][0] == 0
        assert next(one)[0][0] == 10
        del one
        assert [page[0][0] for page in other] == [10, 20]
        assert connection.scalar(text("SELECT count(*) FROM fews")) == 25


def test_what_a_driver_says_is_the_error_of_other_statements(database: Database) -> None:
    kind = OperationalError if database.is_sqlite else ProgrammingError
    with database.reading() as connection, pytest.raises(kind, match="nowhere"):
        next(pages(connection, text("SELECT a FROM nowhere"), 10))
