"""Each moment between two statements of the ledger's database, for processes that are to die at one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from rios.storage import bulk, driver, engine, statements

# Before and after each statement and each commit that SQLAlchemy makes.
_MADE = ("before_cursor_execute", "after_cursor_execute", "commit", "checkin", "rollback")


def at_each(step: Callable[..., None]) -> None:
    """Call `step` before and after each statement and each commit, also those that go to the driver."""
    for moment in _MADE:
        event.listen(Engine, moment, step)
    driven = driver.driven

    @contextmanager
    def counted(connection: Connection, statement: str) -> Iterator[Any]:
        step()
        with driven(connection, statement) as found:
            yield found
        step()

    for module in (driver, statements, bulk, engine):
        module.driven = counted  # type: ignore[attr-defined]
