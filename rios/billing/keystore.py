"""Keys and who may use them: encrypted files, a key in memory, an address alone, or a signer somewhere else.

Files are Web3 Secret Storage, version 3, with scrypt, so any wallet opens them. A key leaves its object by no way that
prints or copies: repr, pickle and tracebacks show the address alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from rios.billing.chain.protocol import Transaction
from rios.billing.keyfile import decrypted, encrypted
from rios.billing.recursion import put_back
from rios.words.durable import sync_names
from rios.words.errors import KeystoreError
from rios.words.ids import Address, check_address
from rios.words.keccak import keccak256

T = TypeVar("T")
PASSPHRASE_VARIABLE = "RIOS_WALLET_PASSPHRASE"  # noqa: S105  # the name of a variable
SCRYPT_N = 2**18
"""The work of one guess at a passphrase, as geth and eth-account have it; eth-account's r = 1 and p = 8 go with it."""
_SUFFIX = ".json"
_KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of the group of secp256k1 (SEC 2, 2.4.1)."""


class Signer(Protocol):
    """Who signs for an address."""

    @property
    def address(self) -> Address:
        """For whom it signs."""

    def sign_transaction(self, transaction: Transaction) -> bytes:
        """The signed transaction, as a node takes it. Raises KeystoreError where it may not or cannot sign."""

    def sign_message(self, message: bytes) -> bytes:
        """65 bytes: the signature of a message by EIP-191. Raises KeystoreError where it may not or cannot sign."""


class KeySigner:
    """Signs with a key in this process's memory."""

    __slots__ = ("_account", "_key", "address")

    def __init__(self, key: bytes | str) -> None:
        """key: 32 bytes, or 64 hex digits. Raises KeystoreError where it is no key; the error does not show it."""
        self._key = Hidden(_bytes_of(key))
        self._account: Any = None
        key = b""  # a traceback with locals must not find it here
        if self._key.value is None:
            raise KeystoreError("this is no private key: it needs 64 hex digits, or 32 bytes, of a number in range")
        self.address = _address_of(self._key.value)

    @classmethod
    def random(cls) -> KeySigner:
        """A new key, from the system's own source of randomness."""
        return cls(secrets.token_bytes(32))

    def sign_transaction(self, transaction: Transaction) -> bytes:
        """See `Signer`."""
        return bytes(self._signing().sign_transaction(_fields(transaction)).raw_transaction)

    def sign_message(self, message: bytes) -> bytes:
        """See `Signer`."""
        account = self._signing()
        from eth_account.messages import encode_defunct

        return bytes(account.sign_message(encode_defunct(message)).signature)

    def _signing(self) -> Any:
        """eth-account's object for the key. Its import takes a second: who signs nothing does not wait for it."""
        if self._account is None:
            from eth_account import Account

            put_back()
            self._account = Account.from_key(self._key.value)
        return self._account

    def sealed(self, seal: Callable[[bytes], bytes]) -> bytes:
        """What `seal` makes of the key's 32 bytes: the only way that it leaves this process, encrypted."""
        return seal(self._secret())

    def _secret(self) -> bytes:
        assert self._key.value is not None
        return self._key.value

    def __repr__(self) -> str:
        return f"<KeySigner {getattr(self, 'address', 'without a key')}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeystoreError(f"the key of {self.address} stays in this process: it is not pickled or copied")


class WatchOnly:
    """An address whose key is elsewhere."""

    __slots__ = ("address",)

    def __init__(self, address: str) -> None:
        self.address = check_address(address)

    def sign_transaction(self, transaction: Transaction) -> bytes:
        """Raises KeystoreError."""
        self._refuse()

    def sign_message(self, message: bytes) -> bytes:
        """Raises KeystoreError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise KeystoreError(
            f"{self.address} is watched only: its key is not here; `rios wallet import` it, or name a signer that has "
            "it (RIOS_WALLET_SIGNER)"
        )

    def __repr__(self) -> str:
        return f"<WatchOnly {self.address}>"


class Keystore:
    """A directory of encrypted keys, for one user of the machine."""

    def __init__(self, directory: Path, *, scrypt_n: int = SCRYPT_N) -> None:
        """directory: made with mode 0700 where it is missing. Raises KeystoreError where others may look into it."""
        self._directory = directory
        self._scrypt_n = scrypt_n
        with _readable(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_private(directory, 0o700)

    def __repr__(self) -> str:
        return f"<Keystore {self._directory}: {len(self.addresses())} keys>"

    def addresses(self) -> list[Address]:
        """Whose keys are here."""
        with _readable(self._directory):
            names = sorted(path.name for path in self._directory.iterdir())
        return [check_address(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX)]

    def create(self, passphrase: str | None = None) -> KeySigner:
        """Make a key and keep it, encrypted. Without a passphrase, that of the environment is taken."""
        word = Hidden(passphrase)
        del passphrase
        return self._keep(Hidden(secrets.token_bytes(32)), word)

    def import_key(self, key: bytes | str, passphrase: str | None = None) -> KeySigner:
        """Keep a key from elsewhere, encrypted. A key that is here already is encrypted anew."""
        hidden, word = Hidden(key), Hidden(passphrase)
        del key, passphrase
        return self._keep(hidden, word)

    def keep(self, signer: KeySigner, passphrase: str | None = None) -> KeySigner:
        """Keep the key of a signer, encrypted. A key that is here already is encrypted anew."""
        word = Hidden(passphrase)
        del passphrase
        return self._keep(Hidden(signer._secret()), word)

    def unlock(self, address: str, passphrase: str | None = None) -> KeySigner:
        """The signer of a key that is here. Without a passphrase, that of the environment is taken.

        Raises KeystoreError where there is no such key, the passphrase is wrong, or others may read the file.
        """
        word = Hidden(passphrase)
        del passphrase
        path = self._path(address)
        if not path.exists():
            raise KeystoreError(f"{self._directory} has no key of {address}; it has {self.addresses() or 'none'}")
        with _readable(path):
            _check_private(path, 0o600)
            document = path.read_text()
        signer = KeySigner(_decrypted(document, word, path))
        if signer.address != check_address(address):
            raise KeystoreError(f"{path} holds the key of {signer.address}; its name says another, so it was renamed")
        return signer

    def _keep(self, key: Hidden[bytes | str], passphrase: Hidden[str | None]) -> KeySigner:
        signer = KeySigner(key.value)
        word = Hidden(_passphrase(passphrase.value).encode())
        document = encrypted(signer._secret(), word.value, address=signer.address, scrypt_n=self._scrypt_n)
        self._write(self._path(signer.address), json.dumps(document))
        return signer

    def _path(self, address: str) -> Path:
        return self._directory / f"{check_address(address)}{_SUFFIX}"

    def _write(self, path: Path, text: str) -> None:
        """All of it or nothing, readable for its owner alone from the first byte on."""
        with _readable(path):
            handle, temporary = tempfile.mkstemp(dir=self._directory, prefix=".new-")  # mode 0600
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_names(self._directory)


def read_file(path: Path, passphrase: str | None = None) -> KeySigner:
    """The key in another wallet's keystore file. Without a passphrase, that of the environment is taken.

    Raises KeystoreError.
    """
    word = Hidden(passphrase)
    del passphrase
    with _readable(path):
        document = path.read_text()
    return KeySigner(_decrypted(document, word, path))


class Hidden(Generic[T]):
    """A secret in a frame: what shows a traceback with locals does not show it."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<hidden>"


def _bytes_of(key: bytes | str) -> bytes | None:
    """The 32 bytes of a private key of secp256k1, or None where it is none."""
    if isinstance(key, str):
        raw = bytes.fromhex(key.strip().removeprefix("0x")) if _KEY.fullmatch(key.strip()) else b""
    else:
        raw = bytes(key)
    del key
    return raw if len(raw) == 32 and 0 < int.from_bytes(raw) < _ORDER else None


def _address_of(key: bytes) -> Address:
    """The last 20 bytes of the hash of the public key, a point of secp256k1."""
    hidden = Hidden(key)
    del key
    point = ec.derive_private_key(int.from_bytes(hidden.value), ec.SECP256K1()).public_key().public_numbers()
    return check_address(f"0x{keccak256(point.x.to_bytes(32) + point.y.to_bytes(32))[12:].hex()}")


def _decrypted(document: str, passphrase: Hidden[str | None], path: Path) -> bytes:
    word = Hidden(_passphrase(passphrase.value).encode())
    wrong = ""
    try:
        return decrypted(json.loads(document), word.value)
    except (LookupError, TypeError, AttributeError) as error:
        wrong = f"is no keystore file of version 3: {type(error).__name__}"
    except (ValueError, ArithmeticError) as error:
        damaged = isinstance(error, json.JSONDecodeError)
        wrong = "is damaged: it is no JSON" if damaged else "does not open: the passphrase is wrong, or it is damaged"
    # Outside of the handler, so that the error carries no frame of a library that knows the passphrase.
    raise KeystoreError(f"the key file {path} {wrong}")


def _passphrase(given: str | None) -> str:
    word = os.environ.get(PASSPHRASE_VARIABLE) if given is None else given
    if not word:
        raise KeystoreError(f"a passphrase is needed: give one, or set {PASSPHRASE_VARIABLE}")
    return word


def _fields(transaction: Transaction) -> Mapping[str, Any]:
    """As eth-account takes a transaction."""
    fields = {
        "type": 2,
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "value": transaction.value_wei,
        "data": transaction.data,
        "gas": transaction.gas,
        "maxFeePerGas": transaction.max_fee_wei,
        "maxPriorityFeePerGas": transaction.tip_wei,
    }
    return fields if transaction.to is None else {**fields, "to": transaction.to}


def _check_private(path: Path, mode: int) -> None:
    found = path.stat().st_mode & 0o777
    if found & ~mode:
        raise KeystoreError(f"{path} has the mode {found:04o}, so others may read it; chmod {mode:04o} it first")


@contextlib.contextmanager
def _readable(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise KeystoreError(f"{path} cannot be used: {error.strerror or error}") from error
