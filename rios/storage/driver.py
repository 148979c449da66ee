"""The driver beneath SQLAlchemy, for statements that cost more on the way than in the database."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError

_NUMBERS = itertools.count()


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


def first(connection: Connection, wanted: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
    """The first row of a statement that is built once, by the driver: SQLAlchemy takes 50 us for it, and 100 cold.

    values: by the names of its parameters. For columns of whose types SQLAlchemy makes nothing.
    """
    statement, names, fixed = _text(wanted, connection.dialect)
    values = {**fixed, **values}
    with driven(connection, statement) as driver:
        cursor = driver.cursor()
        try:
            cursor.execute(statement, values if names is None else tuple([values[name] for name in names]))
            found: Sequence[Any] = cursor.fetchone()
        finally:
            cursor.close()
    return found


@functools.lru_cache(maxsize=64)
def _text(wanted: Executable, dialect: Dialect) -> tuple[str, Sequence[str] | None, Mapping[str, Any]]:
    """A statement as text, the names of its parameters in their order (None where they go by name), and known ones."""
    compiled: Any = wanted.compile(dialect=dialect)  # type: ignore[attr-defined]
    return str(compiled), compiled.positiontup, compiled.params


def pages(connection: Connection, wanted: Executable, size: int) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a statement, `size` at once and in bounded memory; no page is empty.

    For many rows of columns whose types SQLAlchemy makes nothing of: integers, and amounts cast to text. The drivers'
    own tuples take half of the time that SQLAlchemy's rows take. SQLite's reads as it is asked; PostgreSQL has a cursor
    on the server for that, whose numbers and bytes come as such instead of as text.
    """
    if connection.dialect.name == "sqlite":
        with connection.execute(wanted) as result, driven(connection, str(wanted)):
            cursor: Any = result.context.cursor
            while page := cursor.fetchmany(size):
                yield page
        return
    compiled: Any = wanted.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    with driven(connection, str(compiled)) as driver, driver.cursor(f"pages_{next(_NUMBERS)}", binary=True) as cursor:
        cursor.execute(str(compiled), compiled.params)
        while page := cursor.fetchmany(size):
            yield page
