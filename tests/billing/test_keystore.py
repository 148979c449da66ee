"""Keys stay where they are: in encrypted files of one user, and in no text that anybody sees."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

import rios
from rios.billing.chain.protocol import Transaction
from rios.billing.keystore import PASSPHRASE_VARIABLE, KeySigner, Keystore, WatchOnly, read_file
from rios.words.errors import InvalidRequest, KeystoreError
from rios.words.ids import Address, check_address

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
PASSPHRASE = "correct horse battery staple"
QUICK_N = 2  # the least work that scrypt has: what is slow by intent is not what is tested here
TRANSACTION = Transaction(
    chain_id=7, nonce=3, to=Address(ADDRESS), data=b"\x01", value_wei=5, gas=21_000, max_fee_wei=9, tip_wei=1
)


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    """A keystore whose files open quickly."""
    return Keystore(tmp_path / "keys", scrypt_n=QUICK_N)


# Of "Web3 Secret Storage Definition" (ethereum.org): its two test vectors.
SCRYPT: dict[str, Any] = {
    "cipher": "aes-128-ctr",
    "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
    "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
    "kdf": "scrypt",
    "kdfparams": {
        "dklen": 32,
        "n": 262144,
        "p": 8,
        "r": 1,
        "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
    },
    "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
}
PBKDF2: dict[str, Any] = {
    "cipher": "aes-128-ctr",
    "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
    "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
    "kdf": "pbkdf2",
    "kdfparams": {
        "c": 262144,
        "dklen": 32,
        "prf": "hmac-sha256",
        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
    },
    "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
}


class TestSigner:
    @pytest.mark.parametrize("key", [KEY, "0x" + KEY, KEY.upper(), f" {KEY}\n", bytes.fromhex(KEY)])
    def test_a_key_in_each_spelling(self, key: str | bytes) -> None:
        assert KeySigner(key).address == ADDRESS

    def test_signatures_are_those_of_the_address(self) -> None:
        signer = KeySigner(KEY)
        assert Account.recover_transaction(signer.sign_transaction(TRANSACTION)) == ADDRESS
        assert Account.recover_message(encode_defunct(b"hi"), signature=signer.sign_message(b"hi")) == ADDRESS

    def test_random_ones_differ(self) -> None:
        assert len({KeySigner.random().address for _ in range(5)}) == 5

    @pytest.mark.parametrize(
        "key", ["", "0x", KEY[:-1], KEY + "0", "z" * 64, "0" * 64, "f" * 64, bytes(31), bytes(33), bytes(32)]
    )
    def test_what_is_no_key(self, key: str | bytes) -> None:
        with pytest.raises(KeystoreError, match="no private key") as failure:
            KeySigner(key)
        shown = key if isinstance(key, str) else key.hex()
        assert not shown.strip("0x") or shown not in str(failure.value)

    def test_who_watches_cannot_sign(self) -> None:
        watching = WatchOnly(ADDRESS.lower())
        assert watching.address == ADDRESS
        with pytest.raises(KeystoreError, match="watched only"):
            watching.sign_transaction(TRANSACTION)
        with pytest.raises(KeystoreError, match="watched only"):
            watching.sign_message(b"hi")


class TestKeystore:
    def test_a_new_key_opens_with_its_passphrase(self, store: Keystore) -> None:
        made = store.create(PASSPHRASE)
        assert store.addresses() == [made.address]
        opened = store.unlock(made.address, PASSPHRASE)
        assert opened.sign_message(b"hi") == made.sign_message(b"hi")

    def test_a_key_from_elsewhere(self, store: Keystore) -> None:
        assert store.import_key(KEY, PASSPHRASE).address == ADDRESS
        assert store.unlock(ADDRESS.lower(), PASSPHRASE).address == ADDRESS
        # Again, under another passphrase: the old one opens nothing any more.
        store.import_key(KEY, "another")
        assert store.addresses() == [ADDRESS]
        assert store.unlock(ADDRESS, "another").address == ADDRESS
        with pytest.raises(KeystoreError, match="passphrase is wrong"):
            store.unlock(ADDRESS, PASSPHRASE)

    def test_files_are_those_of_any_wallet(self, store: Keystore, tmp_path: Path) -> None:
        store.import_key(KEY, PASSPHRASE)
        [path] = (tmp_path / "keys").iterdir()
        document = json.loads(path.read_text())
        assert (document["version"], document["crypto"]["kdf"]) == (3, "scrypt")
        assert Account.decrypt(document, PASSPHRASE).hex().removeprefix("0x") == KEY

        for kdf in ("scrypt", "pbkdf2"):
            elsewhere = tmp_path / f"{kdf}.json"
            elsewhere.write_text(json.dumps(Account.encrypt(KEY, PASSPHRASE, kdf=kdf, iterations=QUICK_N)))
            other = Keystore(tmp_path / kdf, scrypt_n=QUICK_N)
            assert other.keep(read_file(elsewhere, PASSPHRASE), "mine").address == ADDRESS
            assert other.unlock(ADDRESS, "mine").address == ADDRESS
            with pytest.raises(KeystoreError, match="does not open"):
                read_file(elsewhere, "another")

    @pytest.mark.parametrize("kdf", [SCRYPT, PBKDF2], ids=["scrypt", "pbkdf2"])
    def test_the_vectors_of_the_definition(self, tmp_path: Path, kdf: dict[str, object]) -> None:
        path = tmp_path / "vector.json"
        path.write_text(json.dumps({"Crypto": kdf, "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}))
        signer = read_file(path, "testpassword")
        key = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
        assert signer.address == KeySigner(key).address == Account.from_key(key).address
        assert signer.sealed(bytes.hex) == key

    def test_work_beyond_any_memory_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.json"
        path.write_text(
            json.dumps({"crypto": {**SCRYPT, "kdfparams": {**SCRYPT["kdfparams"], "n": 2**40}}, "version": 3})
        )
        with pytest.raises(KeystoreError, match="does not open"):
            read_file(path, "testpassword")

    def test_the_work_of_a_guess_is_that_of_geth(self, tmp_path: Path) -> None:
        Keystore(tmp_path).import_key(KEY, PASSPHRASE)
        [path] = tmp_path.iterdir()
        assert json.loads(path.read_text())["crypto"]["kdfparams"]["n"] == 2**18

    def test_the_environment_has_the_passphrase(self, store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
        address = store.create().address
        assert store.unlock(address).address == address
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
        with pytest.raises(KeystoreError, match="does not open"):
            store.unlock(address)
        assert store.unlock(address, PASSPHRASE).address == address

    @pytest.mark.parametrize("value", [None, ""])
    def test_no_passphrase_at_all(self, store: Keystore, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
        monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
        with pytest.raises(KeystoreError, match=PASSPHRASE_VARIABLE):
            store.create(value)
        assert store.addresses() == []

    def test_a_key_that_is_not_there(self, store: Keystore) -> None:
        other = store.create(PASSPHRASE).address
        with pytest.raises(KeystoreError, match=f"no key of {ADDRESS}; it has .*{other}"):
            store.unlock(ADDRESS, PASSPHRASE)
        with pytest.raises(InvalidRequest):
            store.unlock("../../etc/passwd", PASSPHRASE)


class TestFiles:
    def test_only_the_owner_reads_them(self, store: Keystore, tmp_path: Path) -> None:
        store.create(PASSPHRASE)
        keys = tmp_path / "keys"
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()}
        assert modes == {".json": 0o600}, "and nothing half-written is left"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
    def test_a_file_that_others_read_is_refused(self, store: Keystore, tmp_path: Path, mode: int) -> None:
        address = store.create(PASSPHRASE).address
        [path] = (tmp_path / "keys").iterdir()
        path.chmod(mode)
        with pytest.raises(KeystoreError, match=f"mode {mode:04o}, so others may read it; chmod 0600"):
            store.unlock(address, PASSPHRASE)

    def test_a_directory_that_others_read_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir(mode=0o755)
        with pytest.raises(KeystoreError, match="chmod 0700"):
            Keystore(tmp_path / "open")

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (lambda text: text[:-1], "is no JSON"),
            (lambda text: "", "is no JSON"),
            (lambda text: "{}", "no keystore file of version 3"),
            (lambda text: "[]", "no keystore file of version 3"),
            (lambda text: text.replace('"version": 3', '"version": 9'), "no keystore file of version 3"),
            (lambda text: text.replace('"mac": "', '"mac": "00'), "does not open"),
        ],
    )
    def test_a_damaged_file_is_named(
        self, store: Keystore, tmp_path: Path, spoil: Callable[[str], str], why: str
    ) -> None:
        address = store.create(PASSPHRASE).address
        [path] = (tmp_path / "keys").iterdir()
        path.write_text(spoil(path.read_text()))
        with pytest.raises(KeystoreError, match=f"{path.name} .*{why}"):
            store.unlock(address, PASSPHRASE)

    @pytest.mark.parametrize(("field", "value"), [("c", 2**70), ("c", 2**31), ("dklen", 2**40), ("dklen", 16)])
    def test_work_beyond_any_wallets_is_not_done(self, store: Keystore, tmp_path: Path, field: str, value: int) -> None:
        address = store.create(PASSPHRASE).address
        [path] = (tmp_path / "keys").iterdir()
        document = json.loads(path.read_text())
        document["crypto"] |= {"kdf": "pbkdf2"}
        document["crypto"]["kdfparams"] = {"prf": "hmac-sha256", "c": 1000, "dklen": 32, "salt": "00"} | {field: value}
        path.write_text(json.dumps(document))
        with pytest.raises(KeystoreError, match=f"{path.name} does not open"):
            store.unlock(address, PASSPHRASE)

    def test_a_renamed_file_is_not_taken_for_another(self, store: Keystore, tmp_path: Path) -> None:
        store.create(PASSPHRASE)
        [path] = (tmp_path / "keys").iterdir()
        path.rename(path.with_name(f"{ADDRESS}.json"))
        with pytest.raises(KeystoreError, match="renamed"):
            store.unlock(ADDRESS, PASSPHRASE)

    def test_a_place_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(KeystoreError, match="cannot be used"):
            Keystore(tmp_path / "file")
        with pytest.raises(KeystoreError, match="cannot be used"):
            read_file(tmp_path / "nothing", PASSPHRASE)


def _locals(error: BaseException) -> str:
    """All that a traceback with locals shows of the frames of rios, as test runners and notebooks print it."""
    shown = []
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if Path(frame.f_code.co_filename).is_relative_to(Path(rios.__file__).parent):
                shown.append(f"{frame.f_code.co_name}: {frame.f_locals!r}")
        seen = seen.__cause__ or seen.__context__
    return "\n".join(shown)


def _fails(action: Callable[[], object]) -> KeystoreError:
    with pytest.raises(KeystoreError) as failure:
        action()
    return failure.value


class TestSecrets:
    def test_no_text_shows_a_key(self, store: Keystore, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        signer = store.import_key(KEY, PASSPHRASE)
        log = logging.getLogger("rios.test")
        log.info("%s %r %s", signer, signer, {"signer": signer})
        inspected = {name: getattr(signer, name) for name in signer.__slots__}
        shown = [repr(signer), str(signer), f"{signer}", repr([signer]), repr(store), repr(inspected), caplog.text]
        for text in shown:
            assert KEY not in text.lower()
            assert PASSPHRASE not in text
        assert repr(signer) == f"<KeySigner {ADDRESS}>"
        # What notebooks ask an object for.
        assert not [name for name in dir(signer) if name.startswith("_repr_")]

    def test_no_copy_leaves_the_process(self) -> None:
        signer = KeySigner(KEY)
        for way in (pickle.dumps, copy.copy, copy.deepcopy, lambda s: pickle.dumps({"signer": s}, protocol=2)):
            error = _fails(lambda way=way: way(signer))  # type: ignore[misc]
            assert KEY not in f"{error}{_locals(error)}".lower()

    def test_no_traceback_shows_a_key(self, store: Keystore, tmp_path: Path) -> None:
        bad = KEY[:-1] + "g"
        raw = bytes.fromhex("ff" * 32)  # beyond the order of the curve
        for error, secret in (
            (_fails(lambda: KeySigner(bad)), bad),
            (_fails(lambda: KeySigner(raw)), raw.hex()),
            (_fails(lambda: store.import_key(bad, PASSPHRASE)), bad),
            (_fails(lambda: store.import_key(KEY, "")), KEY),
        ):
            text = _locals(error) + "".join(traceback.format_exception(error))
            assert secret not in text.lower()
            assert repr(bytes.fromhex(secret.replace("g", "0"))) not in text
            assert PASSPHRASE not in text

    def test_no_traceback_shows_a_passphrase(self, store: Keystore, tmp_path: Path) -> None:
        address = store.create("right").address
        [path] = (tmp_path / "keys").iterdir()
        error = _fails(lambda: store.unlock(address, PASSPHRASE))
        assert PASSPHRASE not in _locals(error) + "".join(traceback.format_exception(error))
        error = _fails(lambda: read_file(path, PASSPHRASE))
        assert PASSPHRASE not in _locals(error)
        assert error.__cause__ is None

    def test_a_failed_signature_shows_no_key(self) -> None:
        signer = KeySigner(KEY)
        impossible = Transaction(
            chain_id=7, nonce=-1, to=check_address(ADDRESS), data=b"", value_wei=0, gas=1, max_fee_wei=1, tip_wei=1
        )
        with pytest.raises(Exception, match=r"nonce|negative|invalid") as failure:
            signer.sign_transaction(impossible)
        assert KEY not in _locals(failure.value) + "".join(traceback.format_exception(failure.value))
