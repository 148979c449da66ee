"""A network in one file, and back on an empty machine: the same balances, deployments and audit chain."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect
from typer.testing import CliRunner

from rios.cli import app
from rios.services.accounting import reconcile
from rios.services.accounts import Accounts
from rios.services.backup import backup, restore
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.purse import Purse
from rios.storage import migrate
from rios.storage.engine import Database
from rios.words.config import settings
from rios.words.errors import InvalidRequest
from rios.words.keccak import keccak256
from tests.storage.databases import KINDS, drop_database, new_database


class _Wishes:
    """What the verbs of deployments need, and nothing that acts."""

    def __init__(self, purse: Purse, home: Path) -> None:
        self.store = AppStore(purse.books.ledger)
        self.secrets = SecretStore(self.store, open_secrets_key(home))

    def changed(self) -> None:
        pass


def opened(home: Path, database: str | None = None) -> Purse:
    return Purse(settings().model_copy(update={"home": home, "database": database}), background=False)


def known(purse: Purse, home: Path) -> dict[str, Any]:
    """What must be the same afterwards."""
    ledger = purse.books.ledger
    wishes = _Wishes(purse, home)
    accounts = Accounts(ledger, home=home)
    app = wishes.store.named(FIRST_ORGANISATION, "web")
    return {
        "balance": ledger.balance(LOCAL_USER),
        "address": purse.books.address,
        "app": app,
        "specification": wishes.store.specification(app.id, 1),
        "events": wishes.store.events(app.id),
        "secret": wishes.secrets.of(app, {"TOKEN": {"store": "TOKEN"}})["TOKEN"].get_secret_value(),
        "audit": accounts.store.audit(),
        "sound": reconcile(ledger, None, keccak=keccak256).sound,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("backup") / "home"
    with opened(place) as purse:
        ledger = purse.books.ledger
        ledger.deposit("first", LOCAL_USER, 10**27 + 1)
        wishes: Any = _Wishes(purse, place)
        deploy = Deployments(lambda: wishes, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)
        deploy.create(name="web", command=["serve"], secrets={"TOKEN": "shibboleth"})
        Accounts(ledger, home=place).first_token()
    return place


@pytest.fixture(scope="module")
def file(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("file") / "network.backup"
    with opened(home):  # while it runs
        manifest = backup(home, found)
    assert manifest["rows"]["apps"] == 1
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    return found


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    url = new_database(request.param, tmp_path)
    yield url
    drop_database(url)


def test_an_empty_machine_has_the_same_network_again(
    home: Path, file: Path, database: str | None, tmp_path: Path
) -> None:
    with opened(home) as purse:
        before = known(purse, home)
    place = tmp_path / "elsewhere"
    restore(file, place, database=database)
    with opened(place, database) as purse:
        after = known(purse, place)
    assert after == before
    assert after["secret"] == b"shibboleth"
    assert after["sound"]
    assert after["audit"]


def test_what_is_there_is_not_written_over(home: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there already"):
        backup(home, file)
    with pytest.raises(InvalidRequest, match="not empty"):
        restore(file, home)
    with pytest.raises(InvalidRequest, match="no ledger"):
        backup(tmp_path, tmp_path / "x")
    place = f"sqlite:///{tmp_path / 'used.sqlite'}"
    restore(file, tmp_path / "one", database=place)
    with pytest.raises(InvalidRequest, match="holds a network already"):
        restore(file, tmp_path / "two", database=place)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.97])
def test_a_damaged_file_is_refused_and_changes_nothing(file: Path, tmp_path: Path, where: float) -> None:
    damaged = tmp_path / "damaged"
    shutil.copy(file, damaged)
    content = bytearray(damaged.read_bytes())
    spot = int(len(content.rstrip(b"\0")) * where)
    content[spot] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(InvalidRequest, match="damaged"):
        restore(damaged, tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())
    (tmp_path / "text").write_text("no backup")
    with pytest.raises(InvalidRequest, match="no backup"):
        restore(tmp_path / "text", tmp_path / "home")


def test_every_table_of_a_network_is_in_it(tmp_path: Path) -> None:
    """`Base` knows the tables of the modules that are imported: whoever backs up imports them all by himself."""
    database = Database(f"sqlite:///{tmp_path / 'new.sqlite'}", timeout_s=20)
    migrate.upgrade(database)
    there = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
    database.close()
    code = "import rios.services.backup as b; from rios.storage.models import Base; print(*Base.metadata.tables)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert set(said.split()) == there


def test_what_is_written_meanwhile_is_whole(tmp_path: Path) -> None:
    """A chain that makes blocks, and a file that changes at every look: the backup opens, and the chain is of one
    moment. What SQLite keeps beside it, and applications' files, are left out."""
    place, file = tmp_path / "home", tmp_path / "backup"
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        chain = sqlite3.connect(place / "chain.sqlite", isolation_level=None, timeout=60)
        chain.execute("PRAGMA journal_mode = WAL")
        chain.execute("CREATE TABLE entries (key INTEGER PRIMARY KEY, value BLOB)")
        number = 0
        while not stop.is_set():
            number += 1
            chain.execute("BEGIN")
            chain.executemany("INSERT INTO entries VALUES (?, ?)", [(2 * number + one, b"x" * 500) for one in (0, 1)])
            chain.execute("COMMIT")
            (place / "changes").write_bytes(number.to_bytes(8, "big") * 64)
            begun.set()
        chain.close()

    with opened(place) as purse:
        purse.books.ledger.deposit("first", LOCAL_USER, 5)
        (place / "apps" / "volume").mkdir(parents=True)
        (place / "apps" / "volume" / "theirs").write_text("not kept")
        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert begun.wait(60)
            for number in range(3):
                found = backup(place, tmp_path / f"{file.name}-{number}")
        finally:
            stop.set()
            thread.join(60)
    assert {"chain.sqlite", "changes"} <= set(found["home"])
    assert not [name for name in found["home"] if name.startswith("apps") or name.endswith(("-wal", "-shm"))]
    for number in range(3):
        new = tmp_path / f"new-{number}"
        restore(tmp_path / f"{file.name}-{number}", new)
        with sqlite3.connect(new / "chain.sqlite") as chain:
            assert chain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            count, last = chain.execute("SELECT count(*), max(key) FROM entries").fetchone()
            assert count >= 2
            assert (count % 2, last) == (0, count + 1), "each transaction whole, and none missing before the last"


def test_a_folder_of_backups_keeps_the_newest(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.backup").write_text("not by this command")
    for number in range(4):
        (tmp_path / f"rios-2026010{number + 1}T000000Z.backup").write_text("old")
    done = CliRunner().invoke(app, ["backup", str(tmp_path), "--home", str(home), "--keep", "2"])
    assert done.exit_code == 0, done.output
    old, new = sorted(tmp_path.glob("rios-*"))
    assert old.name == "rios-20260104T000000Z.backup"
    restore(new, tmp_path / "again")
    assert (tmp_path / "mine.backup").exists()


def test_a_file_that_goes_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "home"
    with opened(place) as purse:
        purse.books.ledger.deposit("first", LOCAL_USER, 5)
    (place / "mail").mkdir()
    (place / "mail" / "gone").write_text("x")
    copied = shutil.copyfile

    def copy(source: Any, target: Any, **more: Any) -> Any:
        if source.name == "gone":
            source.unlink()
        return copied(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", copy)
    assert "mail/gone" not in backup(place, tmp_path / "file")["home"]
    restore(tmp_path / "file", tmp_path / "new")


def test_a_backup_that_is_told_to_end_leaves_no_keys(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfile", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        done = CliRunner().invoke(app, ["backup", str(tmp_path), "--home", str(home)])
        assert done.exit_code == 128 + signal.SIGTERM
        assert not list(tmp_path.iterdir())
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_what_a_killed_backup_has_left_is_removed_by_the_next(home: Path, tmp_path: Path) -> None:
    for name in ("rios-backup-old", "rios-backup-new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secrets.key").write_text("in clear")
    long_ago = time.time() - 3601
    os.utime(tmp_path / "rios-backup-old", (long_ago, long_ago))
    done = CliRunner().invoke(app, ["backup", str(tmp_path), "--home", str(home)])
    assert done.exit_code == 0, done.output
    assert [one.name for one in tmp_path.glob("rios-backup-*")] == ["rios-backup-new"], "it may still be written"


def test_no_backup_is_of_the_backups_before_it(home: Path) -> None:
    for target in (home / "new.backup", home / "folder" / ".." / "new.backup"):
        with pytest.raises(InvalidRequest, match="choose another place"):
            backup(home, target)
