"""Connections to PostgreSQL that do not wait for ever: a server that is stopped, or whose machine is, says nothing.

The server's own deadlines end a statement while it runs. Here the client ends the wait, closes the connection, and says
so, that others need not wait as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from sqlalchemy import Engine

T = TypeVar("T")
_SLACK_S = 0.5
"""The server's own deadline passes first: it says which statement it was."""
_INTERVAL_S = 0.1
_ASK_S = 2


class Patient(psycopg.Connection[Any]):
    """A connection whose answers come within its patience, or not at all."""

    patience_s = 60.0
    silent: Callable[[BaseException], None]
    """Told when nothing came."""

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL_S, timeout: float | None = None) -> T:
        """As psycopg's; raises OperationalError, on a closed connection, where the server says nothing."""
        try:
            return super().wait(gen, interval, self.patience_s if timeout is None else timeout)
        except errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            error = psycopg.OperationalError(f"no answer within {self.patience_s:g} s")
            self.silent(error)
            raise error from None


def asked(engine: Engine) -> psycopg.OperationalError | None:
    """Ask a server something that it has at hand, by a connection of its own; why nothing came within two seconds."""
    arguments, options = engine.dialect.create_connect_args(engine.url)
    try:
        with connected(arguments, {**options, "connect_timeout": _ASK_S}, timeout_s=_ASK_S, silent=_known) as found:
            found.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return error
    return None


def silence(why: str) -> psycopg.OperationalError:
    """What a connection raises that is not tried."""
    return psycopg.OperationalError(why)


def _known(_: BaseException) -> None:
    """Who asks because it is silent need not be told."""


def connected(
    arguments: Any, options: dict[str, Any], *, timeout_s: float, silent: Callable[[BaseException], None]
) -> Patient:
    """A connection as psycopg makes it from `arguments` and `options`. Raises what it raises."""
    try:
        found = Patient.connect(*arguments, **options)
    except errors.ConnectionTimeout as error:
        silent(error)
        raise
    found.patience_s = timeout_s + _SLACK_S
    found.silent = silent
    return found
