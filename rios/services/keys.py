"""The keys of a network that lives on this machine: the user's wallet, and the operator's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from rios.billing.keystore import PASSPHRASE_VARIABLE, SCRYPT_N, Hidden, KeySigner, Keystore, read_file
from rios.words.durable import first_kept, sync_names
from rios.words.errors import KeystoreError
from rios.words.ids import Address

ROLES = ("wallet", "operator")
# A passphrase of 256 random bits needs no stretching: nobody guesses it.
_SCRYPT_N_RANDOM = 2**12
_MADE_UP = "passphrase"
_LOCK_TIMEOUT_S = 60.0
_LOCK_POLL_S = 0.05


def open_key(home: Path | None, role: str, *, address: Address | None = None) -> KeySigner:
    """The key of `role` ("wallet", "operator"): made at the first call, kept encrypted in `home`, else in memory.

    The passphrase is that of RIOS_WALLET_PASSPHRASE; without it, one that was made up and lies beside the keys, which
    protects copies of the key files and not the home itself. address: which of several keys; without it there must be
    one alone. Raises KeystoreError.
    """
    if home is None:
        return KeySigner.random()
    with _alone(home) as directory:
        store, word = _opening(directory, role)
        known = keys_of(home, role)
        if address is not None and address not in known:
            raise KeystoreError(f"{store!r} has no key of {address}: bring it back, or `rios wallet import` it")
        if address is None and len(known) > 1:
            raise KeystoreError(
                f"{directory / role} has the keys of {', '.join(known)}, and nothing says which of them is the "
                f"{role}'s: move the others away"
            )
        if not known:
            return store.create(word.value)
        try:
            return store.unlock(address or known[0], word.value)
        except KeystoreError as error:
            if not os.environ.get(PASSPHRASE_VARIABLE) or not _said(directory / _MADE_UP):
                raise
            raise KeystoreError(
                f"{error}; a passphrase was made up for this home: `rios wallet passphrase` puts its keys under that "
                f"of {PASSPHRASE_VARIABLE}"
            ) from None  # a frame of it knows the passphrase


def keys_of(home: Path | None, role: str) -> list[Address]:
    """The addresses whose keys of a role lie in a home."""
    directory = None if home is None else home / "keys" / role
    if directory is None or not directory.exists():
        return []
    return Keystore(directory).addresses()


def import_wallet(home: Path, file: Path, passphrase: str, *, known: Address | None = None) -> Address:
    """Make the key of another wallet's keystore file the wallet of a home that has none, under the home's passphrase.

    passphrase: the file's. known: the wallet of the home's ledger. Raises KeystoreError, also where the home has
    another wallet: what that one has deposited is under its address.
    """
    given = Hidden(passphrase)
    del passphrase
    with _alone(home) as directory:
        store, word = _opening(directory, "wallet")
        signer = read_file(file, given.value)
        others = [one for one in (known, *keys_of(home, "wallet")) if one not in (None, signer.address)]
        if others:
            raise KeystoreError(
                f"{home} has the wallet {others[0]}, under whose address its deposits are: import {signer.address} "
                "into a home of its own"
            )
        return store.keep(signer, word.value).address


def change_passphrase(home: Path, before: str | None = None) -> list[Address]:
    """Put the keys of a home under the passphrase of RIOS_WALLET_PASSPHRASE, without it under one made up for it.

    before: what they are under so far, where that was not made up. Whose keys were changed; a key that opens already
    stays as it is, so who was cut off does it again. Raises KeystoreError where a key opens with neither.
    """
    given = Hidden(before)
    del before
    changed = []
    with _alone(home) as directory:
        so_far = [given, Hidden(_said(directory / _MADE_UP) or None)]
        for role in ROLES:
            for address in keys_of(home, role):
                store, word = _opening(directory, role, replacing=True)
                fits, signer = _unlocked(store, address, [word, *(one for one in so_far if one.value)])
                if fits is not word:
                    store.keep(signer, word.value)
                    changed.append(address)
        if os.environ.get(PASSPHRASE_VARIABLE):
            (directory / _MADE_UP).unlink(missing_ok=True)  # it opens nothing any more
    return changed


def _unlocked(
    store: Keystore, address: Address, words: list[Hidden[str | None]]
) -> tuple[Hidden[str | None], KeySigner]:
    """The first of several passphrases that opens a key, and the key."""
    why = ""
    for word in words:
        try:
            return word, store.unlock(address, word.value)
        except KeystoreError as error:
            why = str(error)
    raise KeystoreError(f"{why}: give the passphrase that it is under so far")


def _opening(directory: Path, role: str, *, replacing: bool = False) -> tuple[Keystore, Hidden[str | None]]:
    """The keystore of a role, and the passphrase where it is not that of the environment."""
    if os.environ.get(PASSPHRASE_VARIABLE):
        return Keystore(directory / role, scrypt_n=SCRYPT_N), Hidden(None)
    path = directory / _MADE_UP
    if not _said(path) and not replacing and any(directory.glob("*/0x*.json")):
        raise KeystoreError(
            f"{path} is missing or empty, and there are keys: set {PASSPHRASE_VARIABLE} to their passphrase, or bring "
            "the file back from a backup of this home"
        )
    return Keystore(directory / role, scrypt_n=_SCRYPT_N_RANDOM), Hidden(_said(path) or _made_up(path))


def _said(path: Path) -> str:
    """What the file of the made-up passphrase says; nothing where there is none, or it was not written to its end."""
    return path.read_text() if path.exists() else ""


def _made_up(path: Path) -> str:
    """A new passphrase at `path`, for its owner alone, on the disk before any key is under it."""
    path.unlink(missing_ok=True)  # an empty one
    said = first_kept(path, secrets.token_hex(32).encode()).decode()
    sync_names(path.parent.parent)
    return said


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[Path]:
    """The directory of the keys, for one process at a time: of two that start in a new home, one makes the keys."""
    directory = home / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    with os.fdopen(os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise KeystoreError(
                        f"another process has had the keys in {directory} open for {_LOCK_TIMEOUT_S:g} s; look at it"
                    ) from error
            time.sleep(_LOCK_POLL_S)
        yield directory
