"""The driver beneath SQLAlchemy, for statements that cost more on the way than in the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
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
