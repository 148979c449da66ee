"""Engines: how each database is opened so that what was committed is on the disk and no wait lasts for ever.

SQLite: write-ahead log, synchronous=FULL (a commit is on the disk when it returns), foreign keys on. PostgreSQL by
psycopg. A unit of writing is one transaction that no other writer of any process shares: BEGIN IMMEDIATE on SQLite, an
advisory lock on PostgreSQL. The order of entries and their hash chain need that, and it leaves nothing to deadlock.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rios.storage.breaker import Breaker
from rios.storage.driver import driven, run
from rios.storage.write_ahead import keep_write_ahead_log
from rios.words.errors import InvalidRequest, LedgerUnavailable

# Any number will do as long as all of rios agree on it: b"rios" and a number of the lock.
WRITE_LOCK = 0x72696F73_00000001
MIGRATE_LOCK = 0x72696F73_00000002
_VERSION = "PRAGMA data_version"
"""Of SQLite: another number after another connection, of whichever process, has written."""
_ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}
UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What the drivers raise when the database is locked, gone, or does not answer in time."""


class Database:
    """One database, and the connections to it. Close it with `close`."""

    def __init__(self, url: str | None, *, timeout_s: float) -> None:
        """url: as SQLAlchemy spells it; None or "sqlite://" for a private one that goes away with this object.

        timeout_s: no statement and no wait for another writer takes longer.
        """
        self.timeout_s = timeout_s
        self._private: tempfile.TemporaryDirectory[str] | None = None
        found = parse_url(url)
        self.is_sqlite = found.get_backend_name() == "sqlite"
        if self.is_sqlite and found.database in (None, "", ":memory:"):
            # Connections of several threads cannot share a database in memory without locking each other's tables out.
            self._private = tempfile.TemporaryDirectory(prefix="rios-ledger-")
            found = found.set(database=str(Path(self._private.name) / "ledger.sqlite"))
        self.name = "a private database" if self._private else found.render_as_string(hide_password=True)
        # Of a server that says nothing, whom everybody would else wait for; one that refuses is asked again at once.
        self._breaker = Breaker("the database")
        make = _sqlite if self.is_sqlite else partial(_postgres, breaker=self._breaker)
        self.engine = make(found, timeout_s, durable=not self._private, writes=False)
        # A connection of its own for who writes: SQLite's cache of pages is good until another connection writes.
        self._writer = make(found, timeout_s, durable=not self._private, writes=True)
        # Fetched from its pool and given back, that of SQLite costs a transaction two thirds of its beginning and end.
        self._writing = threading.Lock()
        self._kept: Connection | None = None
        self._writings = 0
        self._looking = threading.Lock()
        self._looks: sqlite3.Cursor | None = None
        # The file that the pools open, wherever this process goes meanwhile.
        self._places, self._options = self.engine.dialect.create_connect_args(self.engine.url)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Database {self.name}>"

    def check(self) -> None:
        """Raises LedgerUnavailable at once while it is known that the server says nothing.

        One caller a second finds out, in two, whether it does again.
        """
        why = self._breaker.why
        if why is None:
            return
        if self._breaker.allows():
            from rios.storage.patience import asked

            if (error := asked(self.engine)) is None:
                self._breaker.succeeded()
                return
            self._breaker.failed(error)
            why = str(error)
        raise LedgerUnavailable(
            f"the ledger in {self.name} did not answer a moment ago: {why}; is it up and reachable?"
        )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state. Raises LedgerUnavailable when the database does not answer in time."""
        self.check()
        with translated(self.name), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, *, lock: int = WRITE_LOCK) -> Iterator[Connection]:
        """The one transaction of all processes that writes now. Raises what the driver raises, and as `check`."""
        self.check()
        if self.is_sqlite:
            with self._keeping() as connection, connection.begin():
                self._writings += 1
                yield connection
            return
        with self._writer.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
            yield connection

    def version(self, connection: Connection) -> tuple[int, int] | None:
        """The same after a transaction of `writing` and in the next one, where nobody wrote in between; else another.

        None where this database does not say so. connection: that of the transaction.
        """
        if not self.is_sqlite:
            return None
        with driven(connection, _VERSION) as driver:
            (others,) = driver.execute(_VERSION).fetchone()
        return self._writings, others

    def mark(self) -> int | None:
        """The same as long as nobody commits anything, in whichever process; it takes 10 us and waits for nothing.

        None where this database does not say so, or not now.
        """
        if not self.is_sqlite or not self._looking.acquire(blocking=False):
            return None
        try:
            if self._closed:
                return None
            if self._looks is None:
                connect: Any = sqlite3.connect
                options = {**self._options, "timeout": 0, "check_same_thread": False, "isolation_level": None}
                self._looks = connect(*self._places, **options).cursor()
            (found,) = self._looks.execute(_VERSION).fetchone()
            return int(found)
        except sqlite3.Error:
            return None  # whoever reads then is told why
        finally:
            self._looking.release()

    @contextmanager
    def _keeping(self) -> Iterator[Connection]:
        """The connection that writes, for one thread. It is given up where something went wrong."""
        if not self._writing.acquire(timeout=self.timeout_s):
            raise PoolTimeout(f"another thread has written for {self.timeout_s:g} s")
        try:
            if self._kept is None:
                self._kept, self._writings = self._writer.connect(), self._writings + 1
            yield self._kept
        except BaseException:
            self._give_up()
            raise
        finally:
            self._writing.release()

    def _give_up(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """Close all connections; a private database is deleted."""
        if self._writing.acquire(timeout=self.timeout_s):
            self._give_up()
            self._writing.release()
        with self._looking:
            looks, self._looks, self._closed = self._looks, None, True
        if looks is not None:
            looks.connection.close()
        self.engine.dispose()
        self._writer.dispose()
        if self._private is not None:
            self._private.cleanup()


def parse_url(url: str | None) -> URL:
    """The URL of a database that rios can use. Raises InvalidRequest for any other."""
    try:
        found = make_url("sqlite://" if url is None else url)
    except ArgumentError as error:
        raise InvalidRequest(
            "the ledger's URL is none; write sqlite:///path/to/file or postgresql://user@host/name"
        ) from error
    if found.drivername in ("postgresql", "postgres"):
        found = found.set(drivername="postgresql+psycopg")
    if found.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidRequest(f"a ledger is kept by SQLite or PostgreSQL, not by {found.drivername}")
    return found


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise LedgerUnavailable for what a driver raises when the database called `name` does not answer."""
    try:
        yield
    except UNREACHABLE as error:
        raise unavailable(name, error) from error
    except DBAPIError as error:
        # A plain DatabaseError is SQLite's word for a file that is damaged, or none of its own.
        if not error.connection_invalidated and type(error) is not DatabaseError:
            raise
        raise unavailable(name, error) from error


def unavailable(name: str, error: BaseException) -> LedgerUnavailable:
    """The error that says that `name` does not answer, and why."""
    cause = getattr(error, "orig", None) or error
    return LedgerUnavailable(f"the ledger in {name} does not answer: {str(cause).strip()}; is it up and reachable?")


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is run again."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, InterfaceError | PoolTimeout):
        return True
    if not isinstance(error, OperationalError):
        return False
    said = str(error.orig).lower()
    # A full disk or a damaged file stays what it is.
    return not any(word in said for word in ("disk", "malformed", "not a database", "readonly", "unable to open"))


def _sqlite(url: URL, timeout_s: float, *, durable: bool, writes: bool) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": timeout_s, "check_same_thread": False, "isolation_level": None},
        pool_timeout=timeout_s,
        **(_ONE if writes else {}),
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        keep_write_ahead_log(cursor, timeout_s=timeout_s)
        # What goes away with the process need not survive a power cut.
        cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        if writes:
            # Copying the log into the file 4 times less often: a seventh of a posting's time in a file of 60,000.
            cursor.execute("PRAGMA wal_autocheckpoint=4000")
            # Pages of one that is gone with the process are in the system's cache anyway, and nobody's process grows.
            cursor.execute(f"PRAGMA cache_size={-65536 if durable else -2048}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A writer says so at once: a reader that becomes one later can find that another was faster, and fails.
        run(connection, "BEGIN IMMEDIATE" if writes else "BEGIN", [()])

    return engine


def _postgres(url: URL, timeout_s: float, *, durable: bool, writes: bool, breaker: Breaker) -> Engine:
    wait_ms = int(timeout_s * 1000)
    settings = f"-c statement_timeout={wait_ms} -c lock_timeout={wait_ms} -c timezone=UTC"
    settings += f" -c synchronous_commit={'on' if durable else 'off'}"
    engine = create_engine(
        url,
        connect_args={"connect_timeout": max(2, int(timeout_s)), "options": settings, "application_name": "rios"},
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        **(_ONE if writes else {}),
    )

    @event.listens_for(engine, "do_connect")
    def _connecting(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        from rios.storage.patience import connected, silence

        if (why := breaker.why) is not None:  # an old connection was silent: a new one is not waited for as well
            raise silence(why)
        return connected(arguments, options, timeout_s=timeout_s, silent=breaker.failed)

    return engine
