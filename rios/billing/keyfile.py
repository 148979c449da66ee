"""Keys in files that any wallet opens: Web3 Secret Storage, version 3, as geth's `accounts/keystore` defines it.

A key of its own from the passphrase, by scrypt or PBKDF2: the first half encrypts (AES-128 in counter mode), the second
goes with the ciphertext into a Keccak-256, which tells a wrong passphrase from a right one. The library eth-keyfile
does the same; it imports the curves of the beacon chain, which takes most of a second of each process that opens a
wallet.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from rios.words.ids import Address
from rios.words.keccak import keccak256

_DERIVED, _HALF = 32, 16
_SCRYPT_R, _SCRYPT_P = 1, 8
_SCRYPT_BYTES_MAX = 1 << 30  # geth's own files take a quarter of it
_ROUNDS_MAX = 1 << 24  # some ten seconds; wallets write 2^18


def encrypted(key: bytes, passphrase: bytes, *, address: Address, scrypt_n: int) -> dict[str, Any]:
    """The document of a key of 32 bytes."""
    salt, iv = secrets.token_bytes(_HALF), secrets.token_bytes(_HALF)
    work = {"dklen": _DERIVED, "n": scrypt_n, "p": _SCRYPT_P, "r": _SCRYPT_R, "salt": salt.hex()}
    derived = _by_scrypt(passphrase, work)
    ciphertext = _crossed(derived, iv, key)
    return {
        "address": address.removeprefix("0x"),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": work,
            "mac": _mac(derived, ciphertext).hex(),
        },
        "id": str(uuid.uuid4()),
        "version": 3,
    }


def decrypted(document: Mapping[str, Any], passphrase: bytes) -> bytes:
    """The key in a document of any wallet.

    Raises ValueError where the passphrase is wrong or a value damaged, LookupError, TypeError or AttributeError
    where it is none of version 3.
    """
    document = _lower(document)
    if document["version"] != 3:
        raise LookupError(f"version {document['version']}")
    crypto = document["crypto"]
    derive = _DERIVE.get(crypto["kdf"])
    if derive is None or crypto["cipher"] != "aes-128-ctr":
        raise LookupError(f"{crypto['kdf']} with {crypto['cipher']}")
    work = crypto["kdfparams"]
    if int(work["dklen"]) != _DERIVED:
        raise ValueError(f"a derived key has {_DERIVED} bytes, and not {work['dklen']}")
    derived = derive(passphrase, work)
    ciphertext = _bytes(crypto["ciphertext"])
    if not hmac.compare_digest(_mac(derived, ciphertext), _bytes(crypto["mac"])):
        raise ValueError("the passphrase is wrong")
    return _crossed(derived, _bytes(crypto["cipherparams"]["iv"]), ciphertext)


def _by_scrypt(passphrase: bytes, work: Mapping[str, Any]) -> bytes:
    n, r, p = int(work["n"]), int(work["r"]), int(work["p"])
    needed = 128 * r * (n + p + 2)  # as OpenSSL counts, which takes no more than 32 MB unless it is told
    if needed > _SCRYPT_BYTES_MAX:
        raise ValueError(f"scrypt with n = {n} and r = {r} takes more than {_SCRYPT_BYTES_MAX:,} bytes")
    salt, length = _bytes(work["salt"]), int(work["dklen"])
    if math.log2(n) < 16 * r:
        return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=needed, dklen=length)
    # Beyond the bound of RFC 7914, section 2, which OpenSSL holds, and wallets that write n = 2^18 with r = 1 do not.
    from Crypto.Protocol.KDF import scrypt

    derived = scrypt(passphrase.decode("latin-1"), salt.decode("latin-1"), length, n, r, p)
    assert isinstance(derived, bytes)  # of one key
    return derived


def _by_pbkdf2(passphrase: bytes, work: Mapping[str, Any]) -> bytes:
    if work["prf"] != "hmac-sha256":
        raise LookupError(str(work["prf"]))
    rounds = int(work["c"])
    if rounds > _ROUNDS_MAX:
        raise ValueError(f"PBKDF2 with {rounds} rounds takes more than {_ROUNDS_MAX:,}")
    return hashlib.pbkdf2_hmac("sha256", passphrase, _bytes(work["salt"]), rounds, int(work["dklen"]))


_DERIVE: dict[str, Callable[[bytes, Mapping[str, Any]], bytes]] = {"scrypt": _by_scrypt, "pbkdf2": _by_pbkdf2}


def _crossed(derived: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypted or decrypted, which is the same in counter mode."""
    cipher = Cipher(AES(derived[:_HALF]), CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


def _mac(derived: bytes, ciphertext: bytes) -> bytes:
    return keccak256(derived[_HALF:_DERIVED] + ciphertext)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _lower(value: Any) -> Any:
    """With the names of all fields in lower case: some wallets write `Crypto`."""
    return {name.lower(): _lower(part) for name, part in value.items()} if isinstance(value, dict) else value
