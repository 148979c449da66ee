"""The keys of a home: one wallet whoever starts first, a passphrase that is never lost, and wallets from elsewhere."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rios.billing.chain.protocol import Transaction
from rios.billing.keystore import PASSPHRASE_VARIABLE, KeySigner, Keystore
from rios.services import keys
from rios.services.keys import change_passphrase, import_wallet, open_key
from rios.words.errors import KeystoreError, RiosError
from rios.words.ids import Address
from rios.words.money import WEI_PER_ROS
from tests.billing.chain.lying import Proxy, result
from tests.services.earning import purse_of
from tests.test_money_cli import run

KEY = KeySigner(bytes(31) + b"\x0b")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow by intent is not what is tested here."""
    monkeypatch.setattr(keys, "SCRYPT_N", 2)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


class TestMadeUp:
    @pytest.mark.parametrize("left", ["nothing", "an empty file"])
    def test_a_start_that_was_cut_off_begins_anew(self, tmp_path: Path, left: str) -> None:
        (tmp_path / "keys").mkdir(mode=0o700)
        if left == "an empty file":
            (tmp_path / "keys" / "passphrase").touch(mode=0o600)
        made = open_key(tmp_path, "wallet")
        assert open_key(tmp_path, "wallet").address == made.address
        assert len((tmp_path / "keys" / "passphrase").read_text()) == 64

    def test_it_is_on_the_disk_before_a_key_is_under_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: set[int] = set()
        fsync, link, create = os.fsync, os.link, Keystore.create

        def noted(fd: int) -> None:
            fsync(fd)
            synced.add(os.fstat(fd).st_ino)

        def linked(source: Path, target: Path) -> None:
            assert source.stat().st_ino in synced, "its contents come before its name"
            assert len(source.read_text()) == 64
            synced.clear()
            link(source, target)

        def created(store: Keystore, *words: Any) -> KeySigner:
            assert (tmp_path / "keys").stat().st_ino in synced, "its name comes before the key"
            return create(store, *words)

        monkeypatch.setattr(os, "fsync", noted)
        monkeypatch.setattr(os, "link", linked)
        monkeypatch.setattr(Keystore, "create", created)
        open_key(tmp_path, "wallet")

    @pytest.mark.parametrize("loss", ["it is gone", "it is empty"])
    def test_without_it_the_keys_are_not_given_up(self, tmp_path: Path, loss: str) -> None:
        open_key(tmp_path, "wallet")
        path = tmp_path / "keys" / "passphrase"
        said = path.read_text()
        if loss == "it is gone":
            path.unlink()
        else:
            path.write_text("")
        for role in ("wallet", "operator"):
            with pytest.raises(KeystoreError, match="bring the file back"):
                open_key(tmp_path, role)
        path.write_text(said)
        open_key(tmp_path, "wallet")

    def test_of_several_that_start_at_once_one_makes_the_keys(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: open_key(tmp_path, "wallet").address, range(6)))
        assert len(set(found)) == 1
        assert len(list((tmp_path / "keys" / "wallet").glob("0x*.json"))) == 1


def test_of_several_keys_none_is_taken_by_its_name(tmp_path: Path) -> None:
    first = open_key(tmp_path, "wallet").address
    words = (tmp_path / "keys" / "passphrase").read_text()
    Keystore(tmp_path / "keys" / "wallet", scrypt_n=2).keep(KEY, words)
    with pytest.raises(KeystoreError, match=r"move the others away"):
        open_key(tmp_path, "wallet")
    for address in (first, KEY.address):
        assert open_key(tmp_path, "wallet", address=address).address == address


def test_the_ledger_says_which_key_is_the_wallets(tmp_path: Path) -> None:
    with purse_of(home=tmp_path) as purse:
        wallet = purse.wallet.address
    store, words = tmp_path / "keys" / "wallet", (tmp_path / "keys" / "passphrase").read_text()
    lower = next(one for one in map(KeySigner, (n.to_bytes(32) for n in range(1, 9999))) if one.address < wallet)
    Keystore(store, scrypt_n=2).keep(lower, words)
    with purse_of(home=tmp_path) as purse:
        assert purse.wallet.address == wallet
    (store / f"{wallet}.json").unlink()
    with purse_of(home=tmp_path) as purse, pytest.raises(KeystoreError, match=f"wallet is {wallet}, whose key is not"):
        purse.wallet.address  # noqa: B018
    assert [path.stem for path in store.glob("0x*.json")] == [lower.address], "no third one was made"


class TestPassphrase:
    def test_it_is_changed_there_and_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        both = {role: open_key(tmp_path, role).address for role in keys.ROLES}
        made_up = tmp_path / "keys" / "passphrase"

        def opened() -> dict[str, Address]:
            return {role: open_key(tmp_path, role).address for role in keys.ROLES}

        monkeypatch.setenv(PASSPHRASE_VARIABLE, "first")
        with pytest.raises(KeystoreError, match="`rios wallet passphrase`"):
            open_key(tmp_path, "wallet")
        assert set(change_passphrase(tmp_path)) == set(both.values())
        assert opened() == both
        assert not made_up.exists()
        assert change_passphrase(tmp_path) == [], "again changes nothing"

        monkeypatch.setenv(PASSPHRASE_VARIABLE, "second")
        for before in (None, "wrong"):
            with pytest.raises(KeystoreError, match="give the passphrase that it is under"):
                change_passphrase(tmp_path, before)
        assert set(change_passphrase(tmp_path, "first")) == set(both.values())
        assert opened() == both

        monkeypatch.delenv(PASSPHRASE_VARIABLE)
        change_passphrase(tmp_path, "second")
        assert opened() == both
        assert made_up.exists()

    def test_who_was_cut_off_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        both = {role: open_key(tmp_path, role).address for role in keys.ROLES}
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "first")
        kept = iter([1])

        def keep(store: Keystore, signer: KeySigner, word: str | None = None) -> KeySigner:
            next(kept)  # the second one raises
            return Keystore.import_key(store, signer.sealed(bytes), word)

        with monkeypatch.context() as killed:
            killed.setattr(Keystore, "keep", keep)
            with pytest.raises(StopIteration):
                change_passphrase(tmp_path)
        assert len(change_passphrase(tmp_path)) == 1
        assert {role: open_key(tmp_path, role).address for role in keys.ROLES} == both

    def test_no_traceback_shows_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        open_key(tmp_path, "wallet")
        said = (tmp_path / "keys" / "passphrase").read_text()
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "mine")
        (tmp_path / "keys" / "passphrase").write_text(said[::-1])
        with pytest.raises(KeystoreError) as failure:
            change_passphrase(tmp_path, "a secret")
        error: BaseException | None = failure.value
        assert error is not None
        frames = []
        trace = error.__traceback__
        while trace is not None:
            if "/rios/" in trace.tb_frame.f_code.co_filename:
                frames.append(repr(trace.tb_frame.f_locals))
            trace = trace.tb_next
        assert frames
        assert not [shown for shown in frames if "a secret" in shown or said[::-1] in shown]


class TestElsewhere:
    def test_a_wallet_is_imported(self, tmp_path: Path) -> None:
        file = tmp_path / "theirs.json"
        Keystore(tmp_path / "theirs", scrypt_n=2).keep(KEY, "words")
        (tmp_path / "theirs" / f"{KEY.address}.json").rename(file)
        home = tmp_path / "home"
        assert "does not open" in run(home, "wallet", "import", str(file), typed="wrong\n", code=1)
        assert json.loads(run(home, "wallet", "import", str(file), "--json", typed="words\n"))["address"] == KEY.address
        assert json.loads(run(home, "wallet", "--json"))["address"] == KEY.address
        assert import_wallet(home, file, "words") == KEY.address, "the same again"
        # Under the home's passphrase, not the file's.
        assert open_key(home, "wallet").address == KEY.address

    def test_a_home_keeps_the_wallet_it_has(self, tmp_path: Path) -> None:
        Keystore(tmp_path / "theirs", scrypt_n=2).keep(KEY, "words")
        file = tmp_path / "theirs" / f"{KEY.address}.json"
        with purse_of(home=tmp_path / "home") as purse:
            mine = purse.wallet.address
        with pytest.raises(KeystoreError, match=mine):
            import_wallet(tmp_path / "home", file, "words")
        with pytest.raises(KeystoreError, match=mine):
            import_wallet(tmp_path / "other", file, "words", known=mine)
        with purse_of(home=tmp_path / "home") as purse:
            assert purse.wallet.address == mine

    def test_a_watched_wallet_is_read_and_signs_nothing(self, tmp_path: Path) -> None:
        with purse_of(home=tmp_path, wallet_address=KEY.address.lower()) as purse:
            assert purse.wallet.address == KEY.address
            assert purse.wallet.on_chain == 1000 * WEI_PER_ROS
            for act in (lambda: purse.wallet.deposit("1 ROS"), lambda: purse.wallet.deposit("1 ROS")):
                with pytest.raises(KeystoreError, match=f"{KEY.address} is watched only"):
                    act()
            assert purse.billing.reconcile().sound
        assert not list((tmp_path / "keys").glob("wallet/*"))
        another = purse_of(home=tmp_path, wallet_address=open_key(None, "wallet").address)
        with another as purse, pytest.raises(KeystoreError, match=f"the wallet of this network is {KEY.address}"):
            purse.wallet.address  # noqa: B018

    def test_a_signer_elsewhere_signs(self, tmp_path: Path) -> None:
        def sign(call: dict[str, Any]) -> Any:
            [asked] = call["params"]
            number = {name: int(asked[name], 16) for name in ("chainId", "nonce", "value", "gas")}
            transaction = Transaction(
                chain_id=number["chainId"], nonce=number["nonce"], to=asked["to"], value_wei=number["value"],
                data=bytes.fromhex(asked["data"][2:]), gas=number["gas"], max_fee_wei=int(asked["maxFeePerGas"], 16),
                tip_wei=int(asked["maxPriorityFeePerGas"], 16),
            )  # fmt: skip
            return result(call, {"raw": "0x" + KEY.sign_transaction(transaction).hex()})

        with Proxy(sign) as clef:
            options = {"wallet_address": KEY.address, "wallet_signer": clef.url}
            with purse_of(home=tmp_path, **options) as purse:
                assert purse.wallet.deposit("3 ROS").deposited_wei == 3 * WEI_PER_ROS
            assert {call["method"] for call in clef.calls} == {"account_signTransaction"}
        assert not list((tmp_path / "keys").glob("wallet/*"))

    def test_a_signer_needs_an_address(self, tmp_path: Path) -> None:
        nobodys = purse_of(home=tmp_path, wallet_signer="http://127.0.0.1:1")
        with nobodys as purse, pytest.raises(KeystoreError, match="RIOS_WALLET_ADDRESS"):
            purse.wallet.address  # noqa: B018


def test_a_ledger_that_stays_needs_keys_that_stay(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    for _ in range(2):
        with purse_of(database=database) as purse, pytest.raises(RiosError, match=r"RIOS_HOME"):
            purse.wallet.address  # noqa: B018
    with purse_of(database=database, home=tmp_path / "home") as purse:
        mine = purse.wallet.address
    with purse_of(database=database) as purse, pytest.raises(RiosError, match=f"{mine}.* RIOS_HOME"):
        purse.wallet.address  # noqa: B018
    with purse_of(database=database, wallet_address=mine) as purse:
        assert purse.wallet.address == mine
        assert purse.billing.balance.trial_wei == 10 * WEI_PER_ROS
