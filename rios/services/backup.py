"""All that a network keeps, in one file, and back from it: the database as of one moment, and the keys of the home.

The tables go through SQLAlchemy into an SQLite file, so a network can be brought back on SQLite or PostgreSQL,
whichever it was on. Volumes of applications are not in it (`rios.deploy.volumes` makes snapshots of those), nor are
shards, which come from checkpoints. The file holds keys in clear: it is made for its owner's eyes alone, and belongs
on another machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from rios.storage import deployment_models, gateway_models, migrate, report_models, sign_in_models
from rios.storage.engine import Database
from rios.storage.models import Base
from rios.words.errors import InvalidRequest

FORMAT = "rios-backup/1"
_DATABASE, _MANIFEST, _HOME = "database.sqlite", "manifest.json", "home/"
_TIMEOUT_S = 60.0
_CHUNK = 1000
_DRAFTS = "rios-backup-"
_CUT_OFF_S = 3600.0
"""A draft that nothing was added to for so long is of a process that was killed."""
_MOMENT = "%Y%m%dT%H%M%SZ"
_CHAIN = "chain.sqlite"
_NOT_KEPT = ("ledger.sqlite", "gateway.json", "late", "running", "apps")
"""The database is there as tables; who serves now, and where, is of now alone; applications' volumes are their own."""
_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file of its own, which is nothing without that file as it was in that moment."""
TABLES = (deployment_models, gateway_models, report_models, sign_in_models)
"""`Base` knows them once they are imported."""


def database_url(home: Path, database: str | None) -> str:
    """Where a network's tables are."""
    return database or f"sqlite:///{home / 'ledger.sqlite'}"


def backup(home: Path, target: Path, *, database: str | None = None) -> dict[str, Any]:
    """Write all that a network keeps to the file `target`, while it runs; what is in it.

    Raises InvalidRequest where there is such a file, no such network, or the file would be in the home; and
    LedgerUnavailable.
    """
    if target.exists():
        raise InvalidRequest(f"{target} is there already; choose another name")
    if database is None and not (home / "ledger.sqlite").exists():
        raise InvalidRequest(f"{home} is not the home of a network: it has no ledger")
    if target.resolve().is_relative_to(home.resolve()):
        raise InvalidRequest(f"{target} is in the home that it is of, as all backups before it; choose another place")
    source = Database(database_url(home, database), timeout_s=_TIMEOUT_S)
    try:
        with tempfile.TemporaryDirectory(prefix=_DRAFTS, dir=target.parent) as directory:
            copy = Path(directory) / _DATABASE
            found = migrate.version(source)
            if found != migrate.latest():
                raise InvalidRequest(
                    f"{source.name} is of version {found}, and this rios writes {migrate.latest()}: open it once before"
                )
            counts = _copy(source, Database(f"sqlite:///{copy}", timeout_s=_TIMEOUT_S))
            # After the tables: where the chain is ahead of the ledger, its events are read again.
            kept = _kept(home, Path(directory) / "home")
            manifest = {
                "format": FORMAT, "version": found, "rows": counts, "database": _digest(copy.read_bytes()),
                "home": {name: _digest((kept / name).read_bytes()) for name in _files(kept)},
            }  # fmt: skip
            draft = Path(directory) / "backup.tar"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                _write(file, manifest, copy, kept)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)  # so that a backup that was cut off is none
    finally:
        source.close()
    return manifest


def named_now(folder: Path) -> Path:
    """The file of a folder for a backup of this moment: by their names backups are in order."""
    return folder / f"rios-{datetime.now(UTC):{_MOMENT}}.backup"


def keep_newest(folder: Path, count: int) -> None:
    """Remove all backups of a folder that were named by their moment, but the newest `count`."""
    for path in sorted(folder.glob("rios-????????T??????Z.backup"))[:-count]:
        path.unlink(missing_ok=True)


def clear_cut_off(folder: Path) -> None:
    """Remove what backups into a folder have left that were killed: tables and keys in clear."""
    for path in folder.glob(f"{_DRAFTS}*"):
        if path.is_dir() and not path.is_symlink() and path.stat().st_mtime < time.time() - _CUT_OFF_S:
            shutil.rmtree(path)


def restore(source: Path, home: Path, *, database: str | None = None) -> dict[str, Any]:
    """Bring a network back from a backup, into an empty home and an empty database; what was in it.

    Raises InvalidRequest for a file that is no backup, is damaged, or is of another version, and where something is
    there already; nothing is changed then.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(home.iterdir()):
        raise InvalidRequest(f"{home} is not empty; bring a network back into an empty home")
    with tempfile.TemporaryDirectory(prefix="rios-restore-", dir=home.parent) as directory:
        manifest, kept = _read(source)
        copy = Path(directory) / _DATABASE
        copy.write_bytes(kept[_DATABASE])
        if manifest["version"] != migrate.latest():
            raise InvalidRequest(
                f"{source} is of version {manifest['version']}, and this rios reads {migrate.latest()}: use that rios"
            )
        target = Database(database_url(home, database), timeout_s=_TIMEOUT_S)
        if migrate.version(target) is not None:
            target.close()
            raise InvalidRequest(f"{target.name} holds a network already; bring this one back into an empty database")
        counts = _copy(Database(f"sqlite:///{copy}", timeout_s=_TIMEOUT_S), target)
        if counts != manifest["rows"]:
            raise InvalidRequest(f"{source} has other rows than it says; it is damaged")
    for name in manifest["home"]:
        path = home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(kept[_HOME + name])
    return manifest


def _copy(source: Database, target: Database) -> dict[str, int]:
    """All rows of all tables, as of one moment; closes `target`, and `source` where it is a file of its own."""
    counts = {}
    migrate.upgrade(target)
    try:
        with source.reading() as reading, target.writing() as writing:
            for table in Base.metadata.sorted_tables:
                for rows in reading.execute(select(table)).mappings().partitions(_CHUNK):
                    writing.execute(insert(table), [dict(row) for row in rows])
                counts[table.name] = writing.scalar(select(func.count()).select_from(table)) or 0
        if target.is_sqlite:
            with target.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        target.close()
        source.close()
    return counts


def _kept(home: Path, copy: Path) -> Path:
    """A copy of what is kept of a home, each file of one moment: what is said of it later is true of the copy."""
    copy.mkdir(mode=0o700)
    for name in _files(home):
        target = copy / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if name == _CHAIN:
                _copy_sqlite(home / name, target)
            else:
                shutil.copyfile(home / name, target)
        except FileNotFoundError:
            target.unlink(missing_ok=True)  # it went while this looked, as files of mail and of reports do
    return copy


def _copy_sqlite(source: Path, target: Path) -> None:
    """A file of SQLite as of one moment, while others write to it."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
    except sqlite3.Error as error:
        raise InvalidRequest(f"{source} cannot be read: {error}. Is it damaged?") from error


def _files(home: Path) -> list[str]:
    found = []
    for directory, folders, names in os.walk(home):
        place = Path(directory).relative_to(home)
        if place == Path():
            # Not even looked into: what applications have there may be more than everything else, and others' to read.
            folders[:] = [name for name in folders if name not in _NOT_KEPT]
            names = [name for name in names if name not in _NOT_KEPT]
        whole = [name for name in names if not name.endswith(tuple(f".sqlite{end}" for end in _BESIDE))]
        found += [(place / name).as_posix() for name in whole if (Path(directory) / name).is_file()]
    return sorted(found)


def _write(file: Any, manifest: dict[str, Any], database: Path, home: Path) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        members = [(_MANIFEST, json.dumps(manifest, sort_keys=True).encode()), (_DATABASE, database.read_bytes())]
        members += [(_HOME + name, (home / name).read_bytes()) for name in manifest["home"]]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))


def _read(source: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and contents, each compared with its digest. Nothing is unpacked by the names in it."""
    try:
        with tarfile.open(source, mode="r:") as archive:
            kept = {one.name: _content(archive, one) for one in archive if one.isfile()}
        manifest: dict[str, Any] = json.loads(kept[_MANIFEST])
        wanted = {_DATABASE: manifest["database"], **{_HOME + name: one for name, one in manifest["home"].items()}}
        good = manifest["format"] == FORMAT and all(_digest(kept[name]) == one for name, one in wanted.items())
        inside = all(_is_inside(name) for name in manifest["home"])
    except (OSError, tarfile.TarError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{source} is no backup of a network, or it is damaged: {error}") from error
    if not (good and inside):
        raise InvalidRequest(f"{source} is damaged: its contents are not what it says")
    return manifest, kept


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "a plain file has contents"
    return file.read()


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
