"""The driver beneath SQLAlchemy, for statements that cost more on the way than in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError


@contextmanager
def driven(connection: Connection, statement: str) -> Iterator[Any]:
    """The driver's own connection. What it raises inside is raised as SQLAlchemy's error for it, as of `statement`."""
    dialect = connection.dialect
    base: Any = dialect.loaded_dbapi.Error
    driver: Any = connection.connection.dbapi_connection
    try:
        yield driver
    except base as error:
        lost = dialect.is_disconnect(error, driver, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(statement, None, error, base, connection_invalidated=lost, dialect=dialect) from error


def run(connection: Connection, statement: str, values: Sequence[Sequence[Any]]) -> None:
    """Run a statement once for each of `values`, by the driver: on its way through SQLAlchemy it takes 10 us more."""
    with driven(connection, statement) as driver:
        cursor = driver.cursor()
        try:
            if len(values) == 1:
                cursor.execute(statement, values[0])
            else:
                cursor.executemany(statement, values)
        finally:
            cursor.close()


def pages(connection: Connection, wanted: Executable, size: int) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a statement, `size` at once and in bounded memory; no page is empty.

    For many rows of columns whose types SQLAlchemy makes nothing of: integers, and amounts cast to text. The driver of
    SQLite reads as it is asked, and its own tuples take half of the time that SQLAlchemy's rows take. PostgreSQL has a
    cursor on the server for that, of which SQLAlchemy has read the first rows already.
    """
    if connection.dialect.name != "sqlite":
        yield from connection.execution_options(stream_results=True, yield_per=size).execute(wanted).partitions(size)
        return
    with connection.execute(wanted) as result, driven(connection, str(wanted)):
        cursor: Any = result.context.cursor
        while page := cursor.fetchmany(size):
            yield page
