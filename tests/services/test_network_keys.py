"""Gateways of one network on PostgreSQL have its keys from its database, or are refused by name."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from rios.accounts.store import AccountStore
from rios.services.deployments.secrets import KEY_FILE, KEY_VARIABLE
from rios.services.network_keys import NetworkKeys
from rios.services.purse import Purse
from rios.services.webhooks import Webhooks
from rios.storage.gateway_models import NetworkKeyRow
from rios.words.config import settings
from rios.words.errors import InvalidRequest
from tests.storage.databases import drop_database, new_tables


def opened(home: Path | None, database: str | None) -> Purse:
    return Purse(settings().model_copy(update={"home": home, "database": database}), background=False)


def known(purse: Purse, home: Path | None) -> dict[str, str]:
    """What must be the same at each gateway."""
    ledger = purse.books.ledger
    store = AccountStore(ledger.database, lambda run: ledger.transact(lambda batch: run(batch.connection)))
    return {
        "wallet": purse.books.wallet.address,
        "operator": NetworkKeys(ledger, home).signer("operator").address,
        "webhooks": Webhooks(store, ledger, home=home).secret("webhook-1"),
    }


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = new_tables("postgres", tmp_path_factory.mktemp("postgres"))
    yield url
    drop_database(url)


@pytest.fixture(scope="module")
def first(database: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The home of the first gateway, and what it knows."""
    home = tmp_path_factory.mktemp("first") / "home"
    with opened(home, database) as purse:
        return home, known(purse, home)


def test_another_home_has_the_same_keys(
    database: str, first: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, wanted = first
    with opened(home, database) as purse:
        assert known(purse, home) == wanted, "the same home again"
    by_file = tmp_path / "file"
    by_file.mkdir(mode=0o700)
    shutil.copy(home / KEY_FILE, by_file / KEY_FILE)
    with opened(by_file, database) as purse:
        assert known(purse, by_file) == wanted
    monkeypatch.setenv(KEY_VARIABLE, (home / KEY_FILE).read_text())
    by_variable = tmp_path / "variable"
    with opened(by_variable, database) as purse:
        assert known(purse, by_variable) == wanted
        assert known(purse, None) == wanted, "it needs no home at all"
    assert not (by_variable / KEY_FILE).exists()
    assert not list(by_variable.rglob("0x*.json")), "what it took is in its memory alone"


def test_who_has_not_the_key_is_refused_by_name_and_changes_nothing(
    database: str, first: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, wanted = first
    empty = tmp_path / "empty"
    with opened(empty, database) as purse, pytest.raises(InvalidRequest, match=f"{KEY_VARIABLE} .*{KEY_FILE}"):
        purse.books.wallet  # noqa: B018
    assert not list(empty.iterdir())
    other = tmp_path / "other"
    with opened(other, None) as purse:  # a network of its own, on SQLite, with another wallet
        mine = purse.books.address
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    with opened(empty, database) as purse, pytest.raises(InvalidRequest, match="do not open with this key"):
        purse.books.wallet  # noqa: B018
    monkeypatch.setenv(KEY_VARIABLE, (home / KEY_FILE).read_text())
    with opened(other, database) as purse, pytest.raises(InvalidRequest, match=f"{mine}.*{wanted['wallet']}"):
        purse.books.wallet  # noqa: B018


def test_no_key_is_in_clear_and_none_opens_under_another_name(
    database: str, first: tuple[Path, dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, _ = first
    caplog.set_level(logging.DEBUG)
    with opened(home, database) as purse:
        ledger = purse.books.ledger
        keys = NetworkKeys(ledger, home)
        plain: list[bytes] = []
        keys.signer("operator").sealed(lambda key: plain.append(key) or b"")  # type: ignore[func-returns-value]
        plain.append((home / "keys" / "webhooks").read_bytes())
        plain.append(bytes.fromhex((home / KEY_FILE).read_text()))
        with ledger.database.reading() as connection:
            rows = connection.execute(select(NetworkKeyRow.__table__)).mappings().all()
        assert {row["name"] for row in rows} == {"operator", "wallet", "webhooks"}
        said = f"{keys!r} {keys.__dict__!r} {keys.signer('operator')!r} {caplog.text}"
        for secret in plain:
            assert len(secret) == 32
            assert secret.hex() not in said
            assert all(secret not in bytes(row["sealed"]) for row in rows)
        moved = {**next(row for row in rows if row["name"] == "webhooks"), "name": "wallet"}
        with pytest.raises(InvalidRequest, match="do not open"):
            keys._opened(moved)
