"""Keys that a home's first process makes: the same for all that start at once, whole, and never replaced in silence."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from rios.services import webhooks
from rios.services.deployments.secrets import KEY_FILE, KEY_VARIABLE, SecretStore, open_secrets_key
from rios.services.deployments.store import AppStore
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.durable import first_kept
from rios.words.errors import InvalidRequest

AT_ONCE, HOMES = 6, 40
Key = Callable[[Path], bytes]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.mark.parametrize(("key", "name"), [(open_secrets_key, KEY_FILE), (webhooks._key, "keys/webhooks")])
def test_all_that_start_at_once_have_the_key_that_is_kept(key: Key, name: str, tmp_path: Path) -> None:
    start = threading.Barrier(AT_ONCE)

    def opened(home: Path) -> bytes:
        start.wait()
        return key(home)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(HOMES):
            home = tmp_path / str(number)
            home.mkdir()
            (found,) = set(pool.map(opened, [home] * AT_ONCE))
            assert key(home) == found
            path = home / name
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing else is left"


def test_who_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    assert first_kept(tmp_path / "key", b"mine") == b"mine"
    assert first_kept(tmp_path / "key", b"theirs") == b"mine"


def test_a_key_is_on_the_disk_before_anybody_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    link, sync = os.link, os.fsync

    def linked(source: Path, target: Path) -> None:
        done.append("link")
        link(source, target)

    def synced(handle: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "fsync", synced)
    open_secrets_key(tmp_path)
    assert done[:3] == ["file", "link", "directory"]


@pytest.mark.parametrize("said", ["", "ab" * 31, "x" * 64])
def test_a_key_that_was_cut_off_stays_and_is_refused_by_name(said: str, tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text(said)
    with pytest.raises(InvalidRequest, match=f"{tmp_path / KEY_FILE} says, is .*backup.*{KEY_VARIABLE}"):
        open_secrets_key(tmp_path)
    assert (tmp_path / KEY_FILE).read_text() == said
    path = tmp_path / "keys" / "webhooks"
    path.parent.mkdir()
    path.write_bytes(said.encode()[:31])
    with pytest.raises(InvalidRequest, match="is not 32 bytes"):
        webhooks._key(tmp_path)


def test_there_is_no_new_key_where_secrets_are_sealed(tmp_path: Path) -> None:
    with Purse(settings().model_copy(update={"home": tmp_path, "database": None}), background=False) as purse:
        store = AppStore(purse.books.ledger)
        key = open_secrets_key(tmp_path, store.ledger.database)
        with store.ledger.database.writing() as connection:
            SecretStore(store, key).put_shared(connection, "org-1", {"TOKEN": SecretStr("value")}, at=1)
        (tmp_path / KEY_FILE).rename(tmp_path / "away")
        with pytest.raises(InvalidRequest, match=f"{tmp_path / KEY_FILE}, their key, is missing.*backup"):
            open_secrets_key(tmp_path, store.ledger.database)
        assert not (tmp_path / KEY_FILE).exists()
        (tmp_path / "away").rename(tmp_path / KEY_FILE)
        assert open_secrets_key(tmp_path, store.ledger.database) == key
