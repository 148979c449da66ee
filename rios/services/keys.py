"""The keys of a network that lives on this machine: the user's wallet, and the operator's."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from rios.billing.keystore import PASSPHRASE_VARIABLE, SCRYPT_N, KeySigner, Keystore

# A passphrase of 256 random bits needs no stretching: nobody guesses it.
_SCRYPT_N_RANDOM = 2**12


def open_key(home: Path | None, role: str) -> KeySigner:
    """The key of `role` ("wallet", "operator"): made at the first call, kept encrypted in `home`, else in memory.

    The passphrase is that of RIOS_WALLET_PASSPHRASE; without it, one that was made up and lies beside the keys, which
    protects copies of the key files and not the home itself. Raises KeystoreError.
    """
    if home is None:
        return KeySigner.random()
    directory = home / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.environ.get(PASSPHRASE_VARIABLE):
        words: list[str | None] = [None]
        store = Keystore(directory / role, scrypt_n=SCRYPT_N)
    else:
        words = [_made_up(directory / "passphrase")]
        store = Keystore(directory / role, scrypt_n=_SCRYPT_N_RANDOM)
    known = [address for address in store.addresses() if store.has_key(address)]
    return store.unlock(known[0], words.pop()) if known else store.create(words.pop())


def _made_up(path: Path) -> str:
    """The passphrase that lies at `path`, made at the first call; its file is for its owner alone."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path.read_text()
