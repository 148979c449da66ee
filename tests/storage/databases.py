"""Empty databases of both kinds. PostgreSQL is a real server, started once for a run and stopped at its end."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psycopg

from rios.reporting.postgres import _programs
from rios.storage import migrate
from rios.storage.engine import Database

KINDS = ("sqlite", "postgres")


@functools.cache
def _server() -> Any:
    base = Path(tempfile.mkdtemp(prefix="rios-postgres-"))
    # As root, the server runs as a user of its own, who has to reach its data; its data alone is private.
    base.chmod(0o755)
    server = _programs(base / "runtime").get_server(base / "data", cleanup_mode="delete")
    atexit.register(_stop, server, base)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # Processes are killed here, but no test cuts the power, and a database for each waits for the disk ten times.
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")  # type: ignore[call-overload]
        connection.execute("SELECT pg_reload_conf()")
    return server


def _stop(server: Any, base: Path) -> None:
    server.cleanup()
    shutil.rmtree(base, ignore_errors=True)


def new_database(kind: str, folder: Path) -> str:
    """The URL of an empty database; one of SQLite lies in `folder`."""
    name = f"t{uuid.uuid4().hex[:12]}"
    return f"sqlite:///{folder / name}.sqlite" if kind == "sqlite" else _postgres(name)


def new_tables(kind: str, folder: Path) -> str:
    """The URL of a database with all tables and nothing in them: quicker than to make them again."""
    if kind == "sqlite":
        path = folder / f"t{uuid.uuid4().hex[:12]}.sqlite"
        shutil.copy(_made(kind), path)
        return f"sqlite:///{path}"
    return _postgres(f"t{uuid.uuid4().hex[:12]}", like=_made(kind))


@functools.cache
def _made(kind: str) -> str:
    """The file or the name of a database with all tables, from which others are copied."""
    folder = Path(tempfile.mkdtemp(prefix="rios-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = new_database(kind, folder)
    database = Database(url, timeout_s=60)
    migrate.upgrade(database)
    database.close()
    return url.removeprefix("sqlite:///") if kind == "sqlite" else url.partition("?")[0].rpartition("/")[2]


def _postgres(name: str, *, like: str = "template1") -> str:
    uri: str = _server().get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        # By way of its log, which is what it does unless told, it takes 0.15 to 0.4 s of a core, not 0.06 to 0.13.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {like} STRATEGY FILE_COPY")  # type: ignore[call-overload]
    return uri.replace("/postgres?", f"/{name}?")


def drop_database(url: str) -> None:
    """Forget a database that `new_database` made, with whoever is still connected to it."""
    if url.startswith("postgres"):
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(_server().get_uri(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]
